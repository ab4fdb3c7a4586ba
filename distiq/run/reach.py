"""Which code a function can reach: definitions, followed by name through every module whose source is at hand.

A definition is a top-level function, class or assignment. What it names, in its body, its decorators or its
annotations, is reached too; a module that is used as a value is reached whole, and so are statements that bind no name,
which run when the module is imported. Comments and docstrings do not count, and neither does installed code, except
for its version.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

WHOLE = ""
"""Stands for a name: the whole module."""
Place = tuple[Path, str]
"""A file and the name of a definition in it."""


class Definition(NamedTuple):
    """A statement: the hash of its code; the names that it uses, each with the attribute that is read of it; what it
    imports itself: (local name, module, symbol)."""

    digest: str
    references: frozenset[tuple[str, str]]
    imports: tuple[tuple[str, str, str], ...]


class Module(NamedTuple):
    """A source file: its definitions by name, its imports by local name, its statements that bind no name."""

    definitions: dict[str, tuple[ast.stmt, ...]]
    imports: dict[str, tuple[str, str]]
    others: tuple[ast.stmt, ...]


def code_key(starts: Iterable[Place], roots: Sequence[Path]) -> str:
    """Hash of all code that can be reached.

    Args:
        starts: where from; `WHOLE` as the name takes all of a file.
        roots: folders that modules are imported from; others are not followed.
    """
    reached = reach(starts, tuple(roots))
    parts = sorted(f"{file.name} {name} {digest}" for (file, name), digest in reached.items())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def reach(starts: Iterable[Place], roots: tuple[Path, ...]) -> dict[Place, str]:
    """The definitions that can be reached, with the hash of their code."""
    todo, reached = list(starts), dict[Place, str]()
    while todo:
        place = todo.pop()
        if place in reached:
            continue
        file, name = place
        module = read_module(file)
        statements = module.others if name == WHOLE else module.definitions.get(name, ())
        parts = [_definition(statement) for statement in statements]
        reached[place] = " ".join(part.digest for part in parts)
        todo.append((file, WHOLE))
        todo += [target for part in parts for target in _targets(part, module, file, roots)]
        if not parts and name in module.imports:  # handed on from another module
            todo += _imported(*module.imports[name], "", file, roots)
    return reached


def whole(file: Path) -> list[Place]:
    """Everything that a file holds or hands on."""
    module = read_module(file)
    return [(file, name) for name in (*module.definitions, *module.imports, WHOLE)]


def _targets(part: Definition, module: Module, file: Path, roots: tuple[Path, ...]) -> Iterator[Place]:
    """The definitions that one refers to."""
    imports = {**module.imports, **{local: (name, symbol) for local, name, symbol in part.imports}}
    for name, attribute in part.references:
        if name in imports:
            yield from _imported(*imports[name], attribute, file, roots)
        elif name in module.definitions:
            yield file, name


def _imported(name: str, symbol: str, attribute: str, file: Path, roots: tuple[Path, ...]) -> Iterator[Place]:
    """What an imported name stands for: a definition, or a module and what is read of it."""
    folder = _package_of(file, name)
    bases = [folder] if name.startswith(".") else [root / name.replace(".", "/") for root in roots]
    module = next((path for base in bases if (path := _file(base / symbol if symbol else base))), None)
    if module is not None:  # the module itself: what is read of it, or all, where that cannot be followed
        yield from [(module, attribute)] if _holds(module, attribute) else whole(module)
        return
    module = next((path for base in bases if (path := _file(base))), None)
    if module is not None:  # else it is installed
        yield from [(module, symbol)] if _holds(module, symbol) else whole(module)


def _holds(file: Path, name: str) -> bool:
    module = read_module(file)
    return name in module.definitions or name in module.imports


def _package_of(file: Path, name: str) -> Path:
    """The folder of a relative import such as `..layers`, or the file beside it without its suffix."""
    dots = len(name) - len(name.lstrip("."))
    folder = file.parents[max(0, dots - 1)]
    return folder.joinpath(*name.lstrip(".").split(".")) if name.lstrip(".") else folder


def _file(base: Path) -> Path | None:
    """The source of a module, or of a package."""
    candidates = base.with_name(base.name + ".py"), base / "__init__.py"
    return next((path for path in candidates if path.is_file()), None)


# Reading a file -------------------------------------------------------------------------------------------------------


def read_module(file: Path) -> Module:
    """The definitions and imports of a source file; read anew when it has changed."""
    return _parsed(file.read_text(encoding="utf-8"))


@functools.cache
def _parsed(source: str) -> Module:
    definitions: dict[str, tuple[ast.stmt, ...]] = {}
    imports: dict[str, tuple[str, str]] = {}
    others: list[ast.stmt] = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imports |= {local: (name, symbol) for local, name, symbol in _imports_of(statement)}
            continue
        if _is_text(statement) or _is_for_others(statement):
            continue
        names = _bound(statement)
        for name in names:
            definitions[name] = (*definitions.get(name, ()), statement)
        if not names or not isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign):
            others.append(statement)
            imports |= {local: (name, symbol) for local, name, symbol in _definition(statement).imports}
    return Module(definitions, imports, tuple(others))


@functools.cache
def _definition(statement: ast.stmt) -> Definition:
    code = _WithoutTexts().visit(statement)
    references, imports = set[tuple[str, str]](), list[tuple[str, str, str]]()
    read_of = {id(node.value): node.attr for node in ast.walk(code) if isinstance(node, ast.Attribute)}
    for node in ast.walk(code):
        if isinstance(node, ast.Name):
            references.add((node.id, read_of.get(id(node), "")))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports += _imports_of(node)
    digest = hashlib.sha256(ast.dump(code).encode()).hexdigest()
    return Definition(digest, frozenset(references), tuple(imports))


class _WithoutTexts(ast.NodeTransformer):
    """Leaves out docstrings: texts that stand as statements of their own."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _is_text(node) else node


def _is_for_others(statement: ast.stmt) -> bool:
    """Whether only type checkers read the statement, or it runs only when the file is a script."""
    if not isinstance(statement, ast.If):
        return False
    names = {node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)}
    return bool(names & {"TYPE_CHECKING", "__name__"})


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imports_of(statement: ast.Import | ast.ImportFrom) -> list[tuple[str, str, str]]:
    """(local name, module, symbol) of an import; a plain `import a.b` binds `a`, and stands for all of `a.b`."""
    if isinstance(statement, ast.Import):
        return [(alias.asname or alias.name.split(".")[0], alias.name, "") for alias in statement.names]
    module = "." * statement.level + (statement.module or "")
    return [(alias.asname or alias.name, module, alias.name) for alias in statement.names]


def _bound(statement: ast.stmt) -> list[str]:
    """The names that a top-level statement binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    stored = [node for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    inner = [node.name for node in ast.walk(statement) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [*dict.fromkeys([*(node.id for node in stored), *inner])]
