"""The house is built as ARCHITECTURE.md draws it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import embedwire
from embedwire import exceptions, testing

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "embedwire"
MODULES = sorted(path.name for path in PACKAGE.glob("*.py"))
ADAPTERS = {"langchain.py", "llama_index.py", "_pydantic.py"}
SHELL = {"__init__.py", "__main__.py", "cli.py", *ADAPTERS}
FOLDERS = {"serve/", "testing/"}
CORE = [name for name in MODULES if name not in SHELL]


def rooms() -> list[tuple[list[str], str]]:
    """The rows of the file map: the files, and what they may touch; highest first."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    _, _, table = text.partition("## The rooms")
    table = table.partition("\n## ")[0]
    rows = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([\w/.]+)`", files), touches.strip()) for files, *_, touches in rows]


def imported(path: Path) -> set[str]:
    """Full names of all that a file imports, wherever in it, type-checking blocks included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def own_imports(path: Path) -> set[str]:
    """Files of this package that a file imports; a name that is no file is one of the public door."""
    own = [name.split(".") for name in imported(path)]
    return {_file(name[1]) if name[1:] else "__init__.py" for name in own if name[0] == "embedwire"}


def _file(name: str) -> str:
    if (PACKAGE / name).is_dir():
        return f"{name}/"
    return f"{name}.py" if (PACKAGE / f"{name}.py").exists() else "__init__.py"


def roots(path: Path) -> set[str]:
    """Top-level packages that a file imports."""
    return {name.split(".")[0] for name in imported(path)}


def test_the_map_names_each_file_once() -> None:
    """ARCHITECTURE.md's table of files names each module of the package exactly once, and no other."""
    named = sorted(name for files, _ in rooms() for name in files)
    assert named == sorted([*MODULES, *FOLDERS])


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__init__.py"])
def test_imports_run_one_way(name: str) -> None:
    """A module imports only what stands below it in ARCHITECTURE.md's table, or beside it."""
    floor = {file: row for row, (files, _) in enumerate(rooms()) for file in files}
    upwards = [other for other in own_imports(PACKAGE / name) if floor[other] < floor[name]]
    assert upwards == []


def test_no_two_modules_import_each_other() -> None:
    """Modules beside each other in the table form no cycle either."""
    graph = {name: own_imports(PACKAGE / name) - FOLDERS for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join([*path, name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", CORE)
def test_the_core_knows_no_framework(name: str) -> None:
    """The core needs the standard library, aiohttp, numpy, orjson and pybase64, and nothing else."""
    foreign = roots(PACKAGE / name) - set(sys.stdlib_module_names) - {"embedwire"}
    assert foreign <= {"aiohttp", "numpy", "orjson", "pybase64"}


@pytest.mark.parametrize("name", CORE)
def test_only_the_transport_knows_aiohttp(name: str) -> None:
    """There is one seam to the network: no other module of the client imports aiohttp or socket."""
    network = roots(PACKAGE / name) & {"aiohttp", "socket", "http", "urllib3", "requests", "httpx"}
    assert not network or name == "_transport.py"


@pytest.mark.parametrize(
    ("name", "framework"),
    [("langchain.py", {"langchain_core"}), ("llama_index.py", {"llama_index"}), ("_pydantic.py", set())],
)
def test_an_adapter_knows_one_framework(name: str, framework: set[str]) -> None:
    """An adapter imports its framework, pydantic that comes with it, and the core; what two share, neither."""
    foreign = roots(PACKAGE / name) - set(sys.stdlib_module_names)
    assert foreign - {"embedwire", "pydantic", "pydantic_core", "typing_extensions"} == framework


@pytest.mark.parametrize("name", CORE)
def test_the_core_knows_no_adapter(name: str) -> None:
    """Nothing in the core imports an adapter, the command line or a server."""
    assert not own_imports(PACKAGE / name) & {*SHELL, *FOLDERS}


@pytest.mark.parametrize("name", [file for files, touches in rooms() if touches == "pure" for file in files])
def test_pure_is_pure(name: str) -> None:
    """What the map calls pure imports nothing that does I/O, waits, logs or keeps threads."""
    impure = {"aiohttp", "asyncio", "concurrent", "logging", "os", "socket", "subprocess", "threading"}
    assert not roots(PACKAGE / name) & impure


@pytest.mark.parametrize("name", CORE)
def test_one_place_reads_the_environment(name: str) -> None:
    """Only `_config.key_from_environment` reads the environment."""
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    readers = [
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    ]
    everywhere = [
        node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "environ"
    ]
    assert len(everywhere) == len(readers)
    assert set(readers) == ({"key_from_environment"} if name == "_config.py" else set())


@pytest.mark.parametrize("path", sorted((PACKAGE / "testing").glob("*.py")), ids=lambda path: path.name)
def test_the_fault_server_is_an_independent_witness(path: Path) -> None:
    """`embedwire.testing` shares no code with the client, and needs nothing beyond its dependencies."""
    assert own_imports(path) <= {"testing/"}
    foreign = roots(path) - set(sys.stdlib_module_names) - {"embedwire"}
    assert foreign <= {"numpy", "orjson", "typing_extensions"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "serve").glob("*.py")), ids=lambda path: path.name)
def test_the_local_server_stands_alone(path: Path) -> None:
    """`embedwire.serve` imports nothing of the client."""
    assert own_imports(path) <= {"serve/"}


def test_the_front_door_only_re_exports() -> None:
    """`__init__.py` has a docstring, imports and `__all__`, and does nothing else."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    docstring, *rest, last = tree.body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom) for node in rest)
    assert isinstance(last, ast.Assign)
    assert ast.unparse(last.targets[0]) == "__all__"


@pytest.mark.parametrize("module", [embedwire, exceptions, testing], ids=lambda module: module.__name__)
def test_all_is_sorted_and_complete(module: ModuleType) -> None:
    """`__all__` is sorted, has every public name, and each exists."""
    listed: list[str] = module.__all__
    assert listed == sorted(listed)
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", "").startswith("embedwire")
    }
    assert public | ({"__version__"} & set(listed)) == set(listed)
    assert all(hasattr(module, name) for name in listed)


def test_every_exception_is_at_the_front_door() -> None:
    """Whatever is raised can be imported from `embedwire`."""
    assert set(exceptions.__all__) <= set(embedwire.__all__)


def test_types_are_shipped() -> None:
    """`py.typed` lies in the package, so type checkers believe its annotations."""
    assert (Path(embedwire.__file__).parent / "py.typed").is_file()
