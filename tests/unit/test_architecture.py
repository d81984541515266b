"""The house is built as ARCHITECTURE.md draws it."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

import embedwire
from embedwire import events, exceptions, testing
from tests.unit.source import (
    EVERYTHING,
    FOLDERS,
    MODULES,
    PACKAGE,
    ROOMS,
    Class,
    branches,
    classes,
    doc,
    functions,
    imported,
    length,
    lines,
    own_imports,
    roots,
    tree,
    written,
)

FRAMEWORKS = {  # each adapter, and the one framework that it knows
    "langchain.py": "langchain_core",
    "llama_index.py": "llama_index",
    "chroma.py": "chromadb",
    "haystack.py": "haystack",
    "lancedb.py": "lancedb",
    "pydantic_ai.py": "pydantic_ai",
}
ADAPTERS = (*FRAMEWORKS, "ray.py", "_doors.py", "_pydantic.py")
CLI = tuple(name for name in MODULES if name.startswith("cli/"))
SHELL = ("__init__.py", "__main__.py", "telemetry.py", *CLI, *ADAPTERS)
BULK = [name for name in MODULES if name.startswith("bulk/")]
TUNE = [name for name in MODULES if name.startswith("tune/")]
CORE = [name for name in MODULES if name not in (*SHELL, *BULK, *TUNE)]
DOORS = [f"{room}/__init__.py" for room in ROOMS]
# The floors of the house, highest first: an import runs down, or stays on its floor.
FLOORS = [
    (*FRAMEWORKS, "ray.py", "telemetry.py"),
    ("_doors.py", "_pydantic.py"),
    ("tune",),
    ("bulk",),
    *((room,) for room in ROOMS),
    ("events.py", "exceptions.py", "_version.py"),
]
# Imports that run upwards, for type checkers alone.
UPWARDS = {("_queue/records.py", "_queue/lane.py"): "a call and a batch know the lane in which they wait"}
NETWORK = {"_http/sessions.py", "_http/transport.py"}
# What is larger than it should be, and why.
LARGE = {
    "_clients/shared.py": "two doors for each method, each told of in full for whoever hovers over it",
    "cli/gateway.py::gateway": "the one list of all that a gateway may be told",
    "cli/embed.py::embed": "the one list of its options",
    "cli/tune.py::tune": "the one list of its options",
    "cli/serve.py::serve": "the one list of all that a server may be told",
    "_clients/base.py::Client.__init__": "the one list of all that a user may set",
    "_settings/endpoint.py::split": "each thing that may be wrong with a URL",
    "testing/_connection.py::Connection._encode": "each way in which an answer may be broken",
    "testing/_server.py::EmbeddingServer.__init__": "the one list of all that a server may be told",
}

# What holds for every module of the core, one test each.
of_the_core = pytest.mark.parametrize("name", CORE)


@dataclass(frozen=True)
class Row:
    """A row of the map: files, what is decided there, what they may write."""

    files: list[str]
    decided: str
    writes: str

    @property
    def pure(self) -> bool:
        """Whether the map calls it pure."""
        return bool(re.search(r"\bpure\b", f"{self.decided} {self.writes}", re.IGNORECASE))


def rows() -> list[Row]:
    """The rows of ARCHITECTURE.md's map, highest first."""
    text = (PACKAGE.parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.partition("## The rooms")[2].partition("\n## ")[0]
    cells = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("| `")]
    return [Row(re.findall(r"`([\w/.]+)`", files), decided, writes) for files, decided, writes in cells]


def floor(name: str) -> int:
    """The floor on which a module stands; -1 above all."""
    for number, names in enumerate(FLOORS):
        if name.startswith(tuple(one if one.endswith(".py") else f"{one}/" for one in names)):
            return number
    return -1


class TestTheMap:
    """ARCHITECTURE.md's table of files is the house."""

    def test_names_each_file_once(self) -> None:
        """Each module is named exactly once, and no other; a room's own docstring needs no row."""
        named = sorted(name for row in rows() for name in row.files)
        assert named == sorted([*(name for name in MODULES if name not in DOORS), *FOLDERS])

    def test_stands_in_the_order_of_the_floors(self) -> None:
        """The rows go down the floors of the house, none of which is left and entered again."""
        floors = [floor(name) for row in rows() for name in row.files]
        assert floors == sorted(floors)

    @pytest.mark.parametrize("name", [name for name in MODULES if name != "__init__.py"])
    def test_imports_run_one_way(self, name: str) -> None:
        """A module imports only what stands below it in the table, or beside it."""
        place = {file: number for number, row in enumerate(rows()) for file in row.files}
        others = own_imports(name) - {one for below, one in UPWARDS if below == name} - set(DOORS)
        if name in DOORS:
            assert not others
            return
        assert [other for other in others if place[other] < place[name]] == []

    @pytest.mark.parametrize("name", MODULES)
    def test_pure_is_pure(self, name: str) -> None:
        """What is called pure, in the map or in itself, imports nothing that does I/O, waits, logs or keeps threads."""
        impure = {"aiohttp", "asyncio", "concurrent", "logging", "os", "socket", "subprocess", "threading"}
        said = re.search(r"\bPure\.", doc(tree(name)))
        if said or any(row.pure for row in rows() if name in row.files):
            assert not roots(name) & impure

    def test_and_docstrings_agree_about_what_is_pure(self) -> None:
        """A module that calls itself pure is called so in the map, and the other way round."""
        told = {name for row in rows() if row.pure for name in row.files}
        assert told == {name for name in MODULES if re.search(r"\bPure\.", doc(tree(name)))}


class TestImports:
    """Who may know whom."""

    @pytest.mark.parametrize("name", [name for name in MODULES if floor(name) >= 0])
    def test_run_down_the_floors(self, name: str) -> None:
        """A room imports nothing of a higher one, and nothing of what is built on all of them."""
        assert [other for other in own_imports(name) if floor(other) < floor(name)] == []

    def test_upwards_is_for_type_checkers_alone(self) -> None:
        """The few imports that run upwards are there, and never run."""
        for name, other in UPWARDS:
            assert other in own_imports(name)
            assert other not in own_imports(name, at_run_time=True)

    def test_form_no_circle(self) -> None:
        """Modules of one room form no cycle either."""
        done: set[str] = set()

        def visit(name: str, path: tuple[str, ...]) -> None:
            assert name not in path, " → ".join([*path, name])
            if name not in done:
                for other in own_imports(name, at_run_time=True) - set(FOLDERS):
                    visit(other, (*path, name))
                done.add(name)

        for name in MODULES:
            visit(name, ())

    @pytest.mark.parametrize("name", DOORS)
    def test_a_room_has_no_door_of_its_own(self, name: str) -> None:
        """A room's `__init__.py` says what it is for, and loads nothing: modules are imported by name."""
        assert doc(tree(name))
        assert len(tree(name).body) == 1

    @of_the_core
    def test_the_core_knows_no_framework(self, name: str) -> None:
        """The core needs the standard library, aiohttp, numpy, orjson and pybase64, and nothing else."""
        foreign = roots(name) - set(sys.stdlib_module_names) - {"embedwire"}
        # A bar is drawn with rich where it is installed.
        bar = {"rich"} if name == "_clients/showing.py" else set()
        assert foreign <= {"aiohttp", "numpy", "orjson", "pybase64"} | bar

    @of_the_core
    def test_the_core_knows_no_adapter(self, name: str) -> None:
        """Nothing in the core imports an adapter, the command line or a server."""
        assert not own_imports(name) & {*SHELL, *FOLDERS, *BULK, *TUNE}

    @of_the_core
    def test_only_two_files_know_the_network(self, name: str) -> None:
        """There is one seam to the network: no other module of the client imports aiohttp, socket or the like."""
        network = roots(name) & {"aiohttp", "socket", "http", "urllib3", "requests", "httpx"}
        assert not network or name in NETWORK
        assert not any(one.startswith("urllib.request") for one in imported(name)) or name in NETWORK

    @pytest.mark.parametrize(
        ("name", "framework"),
        [
            *((name, {one}) for name, one in FRAMEWORKS.items()),
            ("ray.py", {"ray", "numpy", "pandas"}),
            ("_doors.py", set()),
            ("_pydantic.py", set()),
            ("telemetry.py", {"opentelemetry"}),
        ],
    )
    def test_an_adapter_knows_one_framework(self, name: str, framework: set[str]) -> None:
        """An adapter imports its framework, pydantic that comes with it, and the core; what two share, neither."""
        foreign = roots(name) - set(sys.stdlib_module_names)
        assert foreign - {"embedwire", "pydantic", "pydantic_core", "typing_extensions"} == framework

    @pytest.mark.parametrize("name", BULK)
    def test_bulk_needs_little(self, name: str) -> None:
        """Whole corpora need what the core needs; pyarrow is loaded where it is wanted."""
        foreign = roots(name) - set(sys.stdlib_module_names) - {"embedwire"}
        assert foreign <= {"numpy", "orjson"}
        assert not own_imports(name) & {*SHELL, *FOLDERS}

    @pytest.mark.parametrize("name", TUNE)
    def test_tune_needs_little(self, name: str) -> None:
        """A sweep needs what the core needs, and rich to show it, in one file."""
        foreign = roots(name) - set(sys.stdlib_module_names) - {"embedwire"}
        assert foreign <= {"orjson"} | ({"rich"} if name == "tune/showing.py" else set())
        assert not own_imports(name) & {*SHELL, *FOLDERS}

    def test_no_adapter_knows_the_other(self) -> None:
        """What two adapters share is in `_pydantic.py` and `_doors.py`."""
        for name in FRAMEWORKS:
            assert not own_imports(name) & {*FRAMEWORKS}

    @pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("_http/")])
    def test_http_knows_no_queue(self, name: str) -> None:
        """What sends a job never sees a call, a lane or a batch."""
        assert not any(other.startswith("_queue/") for other in own_imports(name))

    @pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("_queue/")])
    def test_the_queue_knows_no_http(self, name: str) -> None:
        """What forms batches never sees a status code, a reply's bytes, the tables of failures or the network."""
        hidden = {
            f"_http/{one}.py" for one in ("wire", "failures", "transport", "sessions", "words", "exchange")
        }
        assert not own_imports(name) & hidden
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Constant) and type(node.value) is int:
                assert not 100 <= node.value < 600, f"line {node.lineno} looks like a status code"
            assert not (isinstance(node, ast.Attribute) and node.attr == "status")

    def test_the_fault_server_is_an_independent_witness(self) -> None:
        """`embedwire.testing` shares no code with the client, and needs nothing beyond its dependencies."""
        for name in (name for name in EVERYTHING if name.startswith("testing/")):
            assert own_imports(name) <= {"testing/"}
            foreign = roots(name) - set(sys.stdlib_module_names) - {"embedwire"}
            assert foreign <= {"numpy", "orjson", "typing_extensions"}

    def test_the_local_server_stands_alone(self) -> None:
        """`embedwire.serve`, and what it shares with the gateway, imports nothing of the client."""
        for name in (name for name in EVERYTHING if name.startswith(("serve/", "_web/"))):
            assert own_imports(name) <= {"serve/", "_web/"} if name.startswith("serve/") else {"_web/"}

    def test_the_gateway_stands_on_the_client(self) -> None:
        """`embedwire.gateway` imports the client's rooms, never an adapter or a server, and needs no more."""
        rooms = tuple(f"{room}/" for room in ROOMS)
        for name in (name for name in EVERYTHING if name.startswith("gateway/")):
            others = own_imports(name) - {"gateway/", "_web/", "exceptions.py"}
            assert [other for other in others if not other.startswith(rooms)] == []
            foreign = roots(name) - set(sys.stdlib_module_names) - {"embedwire"}
            assert foreign <= {"aiohttp", "numpy", "orjson", "pybase64"}

    def test_only_the_command_knows_the_gateway(self) -> None:
        """Nothing but the command line imports `embedwire.gateway`."""
        assert [name for name in MODULES if "gateway/" in own_imports(name)] == ["cli/gateway.py"]


class TestTheEnvironment:
    """What a process's environment says is read in one place."""

    READERS = ("environ", "environb", "getenv", "getenvb", "getproxies", "proxy_bypass")
    PLACES: ClassVar = {
        ("_settings/address.py", "url_from_environment"): {"environ"},
        ("_settings/address.py", "key_from_environment"): {"environ"},
        ("_http/sessions.py", "proxy_of"): {"getproxies", "proxy_bypass"},
    }

    @of_the_core
    def test_is_read_in_one_place(self, name: str) -> None:
        """`url_from_environment` and `key_from_environment` read it; `proxy_of` asks the standard library."""
        found: dict[tuple[str, str], set[str]] = {}
        everywhere = [node for node in ast.walk(tree(name)) if self._reads(node)]
        for path, function in functions(name):
            for node in filter(self._reads, ast.walk(function)):
                found.setdefault((name, path.partition("::")[2]), set()).add(node.attr)  # type: ignore[attr-defined]
                everywhere = [other for other in everywhere if other is not node]
        assert everywhere == [], "read outside of a function"
        assert found == {place: names for place, names in self.PLACES.items() if place[0] == name}
        assert not {one.rpartition(".")[2] for one in imported(name)} & set(self.READERS)

    def _reads(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and node.attr in self.READERS


class TestWriters:
    """Each mutable object has one writer room, which its docstring names."""

    def test_a_writer_exists(self) -> None:
        """Whoever is named as a writer is a room, a file, or a class of the same file."""
        for one in classes():
            for writer in one.writers():
                assert any(name.startswith(writer) for name in MODULES), f"{one.name}: {writer}"

    @pytest.mark.parametrize("name", MODULES)
    def test_only_the_writer_writes(self, name: str) -> None:
        """An attribute of a record is assigned only in files of the room that its docstring names."""
        for node in written(tree(name), own=False):
            owners = [one for one in classes() if node.attr in one.fields]
            if owners and all(one.says_who_writes for one in owners):
                writers = {writer for one in owners for writer in one.writers()}
                assert name.startswith(tuple(writers)), f"{name}:{node.lineno} writes {ast.unparse(node)}"

    @pytest.mark.parametrize("name", CORE)
    def test_what_others_write_says_so(self, name: str) -> None:
        """Whoever's attribute is assigned from outside says who may do that; exceptions are for who raises them."""
        for node in written(tree(name), own=False):
            owners = [one for one in classes() if node.attr in one.fields]
            if any(one.file == "exceptions.py" for one in owners):
                continue
            assert not owners or any(one.says_who_writes for one in owners), (
                f"{name}:{node.lineno} writes {ast.unparse(node)}; of {[one.name for one in owners]} "
                "none says 'Written by `…`'"
            )

    @pytest.mark.parametrize(
        "one", [one for one in classes() if one.changing and one.file in CORE], ids=lambda one: one.name
    )
    def test_what_changes_says_what_its_state_is(self, one: Class) -> None:
        """A class whose objects change says who writes them, or what their state is; public ones tell users instead."""
        public = one.name in embedwire.__all__
        assert public or one.says_who_writes or "state is" in one.doc, sorted(one.changing)


class TestSizes:
    """Everything is small enough to be read in one go."""

    def test_small(self) -> None:
        """No file over 350 lines, no class over 200, no function over 50 or ten branches; docstrings do not count."""
        too_large: dict[str, str] = {}
        for name in EVERYTHING:
            if lines(name) > 350:
                too_large[name] = f"{lines(name)} lines"
            for node in ast.walk(tree(name)):
                if isinstance(node, ast.ClassDef) and length(node) > 200:
                    too_large[f"{name}::{node.name}"] = f"{length(node)} lines"
            for path, function in functions(name):
                if length(function) > 50 or branches(function) > 10:
                    too_large[path] = f"{length(function)} lines, {branches(function)} branches"
        assert {path: why for path, why in too_large.items() if path not in LARGE} == {}
        assert not set(LARGE) - set(too_large), "it is small by now: take it out of LARGE"


def test_the_front_door_only_re_exports() -> None:
    """`__init__.py` has a docstring, imports and `__all__`, and does nothing else."""
    docstring, *rest, last = tree("__init__.py").body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom) for node in rest)
    assert isinstance(last, ast.Assign)
    assert ast.unparse(last.targets[0]) == "__all__"


@pytest.mark.parametrize(
    "module", [embedwire, events, exceptions, testing], ids=lambda module: module.__name__
)
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
