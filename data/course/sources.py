"""Source text, by ast: finding a function, cutting its body out, taking a student's functions in.

A function has a path in its script: compute_advantages, or with its class Conversation.spoken_by. A target is a
script and such a path: rema.compute_advantages.
"""
import ast
import builtins

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def split_target(target: str) -> tuple[str, str]:
    script, _, path = target.partition(".")
    return script, path


def find(tree: ast.Module, path: str) -> ast.stmt | None:
    """The definition at a path; the last one, as in Python. None if there is none."""
    found, body = None, tree.body
    for name in path.split("."):
        found = None
        for node in body:
            if isinstance(node, DEFINITIONS) and node.name == name:
                found = node
        if found is None:
            return None
        body = found.body
    return found


def get_first_line(node: ast.stmt) -> int:
    """Decorators are lines of the function, too."""
    lines = [node.lineno]
    for decorator in getattr(node, "decorator_list", []):
        lines.append(decorator.lineno)
    return min(lines)


def get_source(text: str, path: str) -> str:
    node = find(ast.parse(text), path)
    return "".join(text.splitlines(keepends=True)[get_first_line(node) - 1:node.end_lineno])


def replace_function(text: str, path: str, source: str) -> str:
    node = find(ast.parse(text), path)
    lines = text.splitlines(keepends=True)
    return "".join(lines[:get_first_line(node) - 1]) + source + "".join(lines[node.end_lineno:])


# ------------------------------------------------------------------------------------------------------------
# Cutting out

def split_body(node: ast.FunctionDef) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """The docstring's statement, if there is one, and the others."""
    if ast.get_docstring(node, clean=False) is None:
        return [], node.body
    return node.body[:1], node.body[1:]


def replace_body(text: str, path: str, body: str, docstring: str | None = None) -> str:
    """A function with its decorators, signature and docstring, or another docstring, but this body."""
    node = find(ast.parse(text), path)
    lines = text.splitlines(keepends=True)
    documented, others = split_body(node)
    indent = " " * node.body[0].col_offset
    head_ends = (documented or others)[0].lineno - 1
    kept = lines[:head_ends]
    if docstring is not None:
        kept.append(f'{indent}"""{docstring.strip()}\n{indent}"""\n')
    elif documented:
        kept += lines[head_ends:documented[0].end_lineno]
    return "".join(kept) + f"{indent}{body}\n" + "".join(lines[node.end_lineno:])


def cut_out(text: str, path: str, number: int, docstring: str | None = None) -> str:
    return replace_body(text, path, f'raise NotImplementedError("exercise {number}")', docstring)


def is_unsolved(node: ast.FunctionDef | None) -> bool:
    """Is a function as it was handed out, or missing?"""
    if node is None:
        return True
    _, body = split_body(node)
    return len(body) == 1 and isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.dump(body[0])


# ------------------------------------------------------------------------------------------------------------
# Taking a student's functions in

def parse(text: str) -> tuple[ast.Module, str]:
    """A student's script and what is wrong with it, or "". One that can't be read as a whole is read piece by piece."""
    try:
        return ast.parse(text), ""
    except (SyntaxError, ValueError) as error:       # ValueError: null bytes
        problem = f"line {getattr(error, 'lineno', '?')}: {error.args[0]}"
    tree = ast.Module([], [])
    for start, piece in split_pieces(text):
        try:
            nodes = ast.parse(piece).body
        except (SyntaxError, ValueError):
            continue
        for node in nodes:
            ast.increment_lineno(node, start)
        tree.body += nodes
    return tree, problem


def split_pieces(text: str) -> list[tuple[int, str]]:
    """(lines before it, text) of what begins at the left margin: definitions and statements, as far as one can tell."""
    pieces = []
    beginning, before = 0, ""
    lines = text.splitlines(keepends=True)
    for i, line in enumerate(lines):
        begins = line[:1].isalpha() or line[:1] in "@_"
        if begins and not before.startswith("@"):
            pieces.append((beginning, "".join(lines[beginning:i])))
            beginning = i
        before = line
    pieces.append((beginning, "".join(lines[beginning:])))
    return pieces


def get_defined_names(node: ast.stmt) -> list[str]:
    """What a statement at the left margin gives a name to."""
    if isinstance(node, DEFINITIONS):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    names = []
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                names.append(part.id)
    return names


def get_used_names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def find_helpers(tree: ast.Module, functions: list[ast.stmt], known: set[str]) -> list[ast.stmt]:
    """What a student has added to a script and these functions need, in its order. known: what the reference has."""
    needed, waiting = [], list(functions)
    while waiting:
        used = get_used_names(waiting.pop()) - known
        for node in tree.body:
            if node not in needed and node not in functions and used.intersection(get_defined_names(node)):
                needed.append(node)
                waiting.append(node)
    return [node for node in tree.body if node in needed]


def find_ignored(tree: ast.Module, reference: ast.Module, functions: list[ast.stmt]) -> list[str]:
    """Functions of the reference that a student has changed and uses, though they are not part of the exercise."""
    ignored = []
    for function in functions:
        for name in sorted(get_used_names(function) - set(dir(builtins))):
            ours, theirs = find(reference, name), find(tree, name)
            if ours and theirs and theirs not in functions and ast.dump(ours) != ast.dump(theirs):
                if not is_unsolved(theirs) and name not in ignored:
                    ignored.append(name)
    return ignored


def define(node: ast.stmt, path: str, namespace: dict, filename: str) -> None:
    """Put a function in its place in a module: a method into its class."""
    *classes, name = path.split(".")
    if not classes:
        run_nodes([node], namespace, filename)
        return
    owner = namespace[classes[0]]
    holder = ast.parse("class HolderOfOneMethod: pass").body[0]
    holder.body = [node]
    run_nodes([holder], namespace, filename)         # in the module itself: its names stay what they are
    setattr(owner, name, vars(namespace.pop("HolderOfOneMethod"))[name])


def run_nodes(nodes: list[ast.stmt], namespace: dict, filename: str) -> None:
    tree = ast.fix_missing_locations(ast.Module(nodes, []))
    exec(compile(tree, filename, "exec"), namespace)
