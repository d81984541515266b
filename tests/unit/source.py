"""The package's source as a syntax tree: who imports whom, who writes what, how large things are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

PACKAGE = Path(__file__).parents[2] / "src" / "embedwire"
FOLDERS = ("gateway/", "serve/", "_web/", "testing/")  # beside the house: servers, and what tests need
ROOMS = ("doctor", "_clients", "_queue", "_http", "_servers", "_events", "_settings")  # highest first


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


EVERYTHING = sorted(map(_name, PACKAGE.rglob("*.py")))
MODULES = [name for name in EVERYTHING if not name.startswith(FOLDERS)]


@cache
def tree(name: str) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse((PACKAGE / name).read_text(encoding="utf-8"))


def lines(name: str) -> int:
    """How many lines a file has."""
    return len((PACKAGE / name).read_text(encoding="utf-8").splitlines())


def doc(node: ast.AsyncFunctionDef | ast.FunctionDef | ast.ClassDef | ast.Module) -> str:
    """A docstring on one line."""
    return " ".join((ast.get_docstring(node) or "").split())


# Imports


def _for_type_checkers(name: str) -> set[ast.AST]:
    blocks = [
        node
        for node in ast.walk(tree(name))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return {inner for block in blocks for part in block.body for inner in ast.walk(part)}


def imported(name: str, *, at_run_time: bool = False) -> set[str]:
    """Full names of all that a file imports, wherever in it, by default in type-checking blocks too."""
    left_out = _for_type_checkers(name) if at_run_time else set()
    names: set[str] = set()
    for node in ast.walk(tree(name)):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def roots(name: str) -> set[str]:
    """Top-level packages that a file imports."""
    return {one.split(".")[0] for one in imported(name)}


def own_imports(name: str, *, at_run_time: bool = False) -> set[str]:
    """Files of this package that a file imports; a folder that stands alone counts as one."""
    own = (
        one.split(".")[1:] for one in imported(name, at_run_time=at_run_time) if one.startswith("embedwire.")
    )
    return {_file(parts) for parts in own} - {name}


def _file(parts: list[str]) -> str:
    """The file that a name is of: the longest that exists."""
    if parts and f"{parts[0]}/" in FOLDERS:
        return f"{parts[0]}/"
    for end in range(len(parts), -1, -1):
        path = PACKAGE.joinpath(*parts[:end])
        if end and path.with_suffix(".py").is_file():
            return _name(path.with_suffix(".py"))
        if (path / "__init__.py").is_file():
            return _name(path / "__init__.py")
    raise AssertionError(parts)


# Who writes what


@dataclass(frozen=True)
class Class:
    """A class of the package.

    Attributes:
        file: Where it stands.
        name: Its name.
        fields: Attributes of its objects.
        changing: Those that its own methods assign after its making.
        doc: Its docstring, on one line.
        room_writes: Whether the file says that this room alone writes its records.
    """

    file: str
    name: str
    fields: frozenset[str]
    changing: frozenset[str]
    doc: str
    room_writes: bool

    @property
    def says_who_writes(self) -> bool:
        """Whether it, or its file for all its records, names the writer."""
        return bool(self.writers())

    def writers(self) -> list[str]:
        """The files or folders that may write it, as starts of names; none where it does not say."""
        room = f"{self.file.split('/')[0]}/"
        if match := re.search(r"Written by `([\w.]+)`", self.doc):
            return [_place(match[1], room, self.file)]
        if re.search(r"Written by this file", self.doc):
            return [self.file]
        return [room] if self.room_writes else []


def _place(writer: str, room: str, file: str) -> str:
    if writer in ROOMS:
        return f"{writer}/"
    if "." in writer:
        return f"{writer.replace('.', '/')}.py"
    # A module of the same room speaks for the room, a class for its file.
    return room if writer.islower() else file


MAKERS = {"__init__", "__post_init__", "__setstate__", "_begin"}


@cache
def classes() -> list[Class]:
    """Every class outside the folders that stand alone."""
    return [
        _class(name, node)
        for name in MODULES
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ClassDef)
    ]


def _class(name: str, node: ast.ClassDef) -> Class:
    methods = [inner for inner in node.body if isinstance(inner, Function)]
    own = {(method.name, attribute.attr) for method in methods for attribute in written(method, own=True)}
    declared = {
        part.target.id
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }
    return Class(
        file=name,
        name=node.name,
        fields=frozenset(declared | {attr for _, attr in own}),
        changing=frozenset(attr for method, attr in own if method not in MAKERS),
        doc=doc(node),
        room_writes="Written by this room alone" in doc(tree(name)),
    )


def written(node: ast.AST, *, own: bool) -> Iterator[ast.Attribute]:
    """Attributes that are assigned or deleted: those of ``self``, or those of anything else."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store | ast.Del):
            mine = isinstance(inner.value, ast.Name) and inner.value.id == "self"
            if mine == own:
                yield inner


# Sizes


def functions(name: str) -> Iterator[tuple[str, Function]]:
    """Each function of a file, methods and inner ones too, under its full name."""
    yield from _functions(tree(name), f"{name}::")


def _functions(node: ast.AST, path: str) -> Iterator[tuple[str, Function]]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, Function):
            yield f"{path}{inner.name}", inner
        named = isinstance(inner, Function | ast.ClassDef)
        yield from _functions(inner, f"{path}{inner.name}." if named else path)  # type: ignore[attr-defined]


def length(node: Function | ast.ClassDef) -> int:
    """Lines of a function or a class, without docstrings: its own, and those of what is in it."""
    whole = (node.end_lineno or 0) - node.lineno + 1
    return whole - sum(map(_docstring, ast.walk(node)))


def _docstring(node: ast.AST) -> int:
    if not isinstance(node, Function | ast.ClassDef) or not ast.get_docstring(node):
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


FORKS = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.match_case,
)


def branches(node: ast.AST) -> int:
    """Places in a function where it goes one way or another; inner functions have their own."""
    count = 0
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, Function | ast.ClassDef):
            continue
        count += isinstance(inner, FORKS) + branches(inner)
        if isinstance(inner, ast.BoolOp):
            count += len(inner.values) - 1
        elif isinstance(inner, ast.comprehension):
            count += len(inner.ifs)
    return count
