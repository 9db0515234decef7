"""Source text, by ast: finding a function, cutting its body out, taking a student's functions in.

A target is a function in a script, rema.compute_advantages, or a method, rema.Conversation.spoken_by. Its path is what
stands behind the script's name.
"""
import ast

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def split_target(target: str) -> tuple[str, str]:
    script, _, path = target.partition(".")
    return script, path


def find(tree: ast.Module, path: str) -> ast.stmt | None:
    """The definition at a path; the last one, as in Python. None if there is none."""
    node = tree
    for name in path.split("."):
        named = [part for part in node.body if isinstance(part, DEFINITIONS) and part.name == name]
        if not named:
            return None
        node = named[-1]
    return node


def get_first_line(node: ast.stmt) -> int:
    """Decorators are lines of the function, too."""
    return min([node.lineno] + [decorator.lineno for decorator in getattr(node, "decorator_list", [])])


def get_lines(text: str, node: ast.stmt) -> str:
    return "".join(text.splitlines(keepends=True)[get_first_line(node) - 1:node.end_lineno])


def get_source(text: str, path: str) -> str:
    return get_lines(text, find(ast.parse(text), path))


def replace_lines(text: str, first: int, last: int, new: str) -> str:
    """Lines count from 1. last: of what goes; first - 1 if nothing does."""
    lines = text.splitlines(keepends=True)
    return "".join(lines[:first - 1]) + new + "".join(lines[last:])


def replace_function(text: str, path: str, source: str) -> str:
    node = find(ast.parse(text), path)
    return replace_lines(text, get_first_line(node), node.end_lineno, source)


# ------------------------------------------------------------------------------------------------------------
# Cutting out

def replace_body(text: str, path: str, body: str, docstring: str | None = None) -> str:
    """A documented function with its decorators and signature, but this body, and another docstring if one is given."""
    node = find(ast.parse(text), path)
    indent = " " * node.body[0].col_offset
    text = replace_lines(text, node.body[0].end_lineno + 1, node.end_lineno, f"{indent}{body}\n")
    if docstring is not None:
        new = f'{indent}"""{docstring.strip()}\n{indent}"""\n'
        text = replace_lines(text, node.body[0].lineno, node.body[0].end_lineno, new)
    return text


def cut_out(text: str, path: str, number: int, docstring: str | None) -> str:
    return replace_body(text, path, f'raise NotImplementedError("exercise {number}")', docstring)


def is_unsolved(node: ast.FunctionDef | None) -> bool:
    """Is a function as it was handed out, or missing?"""
    if node is None:
        return True
    last = node.body[-1]
    return len(node.body) <= 2 and isinstance(last, ast.Raise) and "NotImplementedError" in ast.dump(last)


# ------------------------------------------------------------------------------------------------------------
# Taking a student's functions in

def parse(text: str) -> tuple[ast.Module, str]:
    """A student's script and what is wrong with it, or "". One that can't be read as a whole is read piece by piece."""
    try:
        return ast.parse(text), ""
    except (SyntaxError, ValueError) as error:       # ValueError: null bytes
        problem = f"line {getattr(error, 'lineno', '?')}: {error.args[0]}"
    tree = ast.Module([], [])
    lines = text.splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines) if line[0].isalpha() or line[0] in "@_"]     # at the left margin
    for start, end in zip(starts, starts[1:] + [len(lines)]):
        try:
            nodes = ast.parse("\n" * start + "".join(lines[start:end])).body
        except (SyntaxError, ValueError):
            continue
        tree.body += nodes
    return tree, problem


def find_targets(tree: ast.Module, script: str, targets: list[str]) -> dict[str, ast.stmt | None]:
    """Those of a script, by their paths."""
    found = {}
    for target in targets:
        owner, path = split_target(target)
        if owner == script:
            found[path] = find(tree, path)
    return found


def get_names(node: ast.stmt) -> set[str]:
    """What a statement at the left margin gives a name to."""
    if isinstance(node, DEFINITIONS):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return set()


def get_used(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def find_helpers(tree: ast.Module, functions: list[ast.stmt], known: set[str]) -> list[ast.stmt]:
    """What a student has added to a script and these functions need, in its order. known: what the reference has."""
    needed, waiting = [], [node for node in functions if node]
    while waiting:
        used = get_used(waiting.pop()) - known
        for node in tree.body:
            if node not in needed and node not in functions and used & get_names(node):
                needed.append(node)
                waiting.append(node)
    return [node for node in tree.body if node in needed]


def find_ignored(tree: ast.Module, reference: ast.Module, functions: list[ast.stmt]) -> list[str]:
    """Other functions of the reference that these use, and that a student has changed."""
    ignored = []
    for function in functions:
        for name in sorted(get_used(function)):
            ours, theirs = find(reference, name), find(tree, name)
            if ours and theirs and theirs not in functions and ast.dump(ours) != ast.dump(theirs):
                ignored.append(name)
    return ignored


def run_nodes(nodes: list[ast.stmt], namespace: dict, filename: str) -> None:
    exec(compile(ast.Module(nodes, []), filename, "exec"), namespace)


def define(node: ast.stmt, path: str, namespace: dict, filename: str) -> None:
    """Put a function in its place in a module: a method into its class."""
    *classes, name = path.split(".")
    outside = namespace.get(name)
    run_nodes([node], namespace, filename)
    if classes:
        setattr(namespace[classes[0]], name, namespace.pop(name))
        if outside is not None:
            namespace[name] = outside
