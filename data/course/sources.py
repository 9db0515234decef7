"""Source text, by ast: finding a function, cutting its body out, taking a student's functions in.

A target is a function in a script, such as rema.compute_advantages.
"""
import ast
import dis

from data import UserError


def find(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    """The function of that name; the last one, as in Python. None if there is none."""
    found = None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            found = node
    return found


def get_lines(text: str, node: ast.stmt) -> str:
    """Of a statement, its decorators too."""
    first = min(part.lineno for part in [node, *getattr(node, "decorator_list", [])])
    return "".join(text.splitlines(keepends=True)[first - 1:node.end_lineno])


def get_source(text: str, name: str) -> str:
    """UserError if there is no such function."""
    node = find(ast.parse(text), name)
    if node is None:
        raise UserError(f"there is no function {name}: was it renamed?")
    return get_lines(text, node)


def replace_body(text: str, name: str, body: str) -> str:
    """A script in which a documented function has its decorators, signature and docstring, but this body."""
    node = find(ast.parse(text), name)
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:node.body[0].end_lineno], f"    {body}\n", *lines[node.end_lineno:]])


def is_unsolved(node: ast.FunctionDef | None) -> bool:
    """Is a function as it was handed out, or missing?"""
    return node is None or len(node.body) <= 2 and "NotImplementedError" in ast.dump(node.body[-1])


def list_unsolved(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and is_unsolved(node)]


def get_names(nodes: list[ast.stmt]) -> set[str]:
    """What statements at the left margin give a name to: functions, classes, imports, constants."""
    code = compile(ast.Module(nodes, []), "statements", "exec")
    return {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_NAME"}


def choose_own(tree: ast.Module, known: set[str]) -> list[ast.stmt]:
    """The statements of a student's script that name something which is not known, in their order."""
    return [node for node in tree.body if get_names([node]) - known]


def run_nodes(nodes: list[ast.stmt], namespace: dict, filename: str) -> None:
    exec(compile(ast.Module(nodes, []), filename, "exec"), namespace)
