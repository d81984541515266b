"""The distributions: what is in them, that they work beside the frameworks' own packages, what an index shows."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import langchain_core
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel installed, and the frameworks of this environment."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = next(folder.glob("[bS]*/python*"))
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)
    frameworks = Path(str(langchain_core.__file__)).parents[1]
    (site / "zz-frameworks.pth").write_text(str(frameworks))  # after the wheel
    return python


def metadata(wheel: Path) -> Message:
    """The wheel's."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.mark.slow
def test_the_wheel_has_three_packages_and_no_strangers_folder(wheel: Path) -> None:
    """Ours, LangChain's name and LlamaIndex's, whose namespaces are left to all; types are shipped with each."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "embedwire",
        "langchain_embedwire",
        "llama_index",
    }
    assert "llama_index/__init__.py" not in names
    assert "llama_index/embeddings/__init__.py" not in names
    for folder in ("embedwire", "langchain_embedwire", "llama_index/embeddings/embedwire"):
        assert f"{folder}/py.typed" in names


@pytest.mark.slow
def test_an_index_shows_no_dead_link(wheel: Path) -> None:
    """The long description has no relative link or picture, and else is the README to the letter."""
    body = metadata(wheel).get_payload(decode=True)
    assert isinstance(body, bytes)
    told = body.decode("utf-8")
    assert [
        target for target in re.findall(r"\]\(([^)]+)\)", told) if not target.startswith(("http", "#"))
    ] == []
    readme = (ROOT / "README.md").read_text("utf-8")
    plain = re.sub(r"!\[[^\]\n]*\]\([^)\n]*\)\n*", "", readme)
    assert told.strip() == re.sub(r"\[([^\]\n]+)\]\((?!https?:|#)[^)\n]*\)", r"\1", plain).strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "from langchain_embedwire import EmbedwireEmbeddings as a; "
        "from embedwire.langchain import EmbedwireEmbeddings as b",
        "from llama_index.embeddings.embedwire import EmbedwireEmbedding as a; "
        "from embedwire.llama_index import EmbedwireEmbedding as b",
        "from llama_index.embeddings.embedwire import EmbedwireEmbedding as a; b = a; "
        "import llama_index.core; import llama_index.embeddings.openai_like",
        "import llama_index.embeddings.openai_like, llama_index.core; "
        "from llama_index.embeddings.embedwire import EmbedwireEmbedding as a; b = a",
    ],
)
def test_the_ecosystems_names_are_ours(installed: Path, script: str) -> None:
    """Both paths give the same class, in any order with LlamaIndex's own packages, which go on working."""
    check = f"{script}; assert a is b; import embedwire; assert {str(ROOT)!r} not in embedwire.__file__"
    ran = subprocess.run([installed, "-I", "-c", check], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.slow
def test_the_ecosystems_names_survive_a_pickle(installed: Path) -> None:
    """What was imported by the ecosystem's name is found again at the other end."""
    script = (
        "import pickle; from langchain_embedwire import EmbedwireEmbeddings as A; "
        "a = A('http://localhost:1'); assert pickle.loads(pickle.dumps(a)) == a"
    )
    ran = subprocess.run([installed, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_llamahub_is_told_a_path_that_exists() -> None:
    """The path in pyproject.toml has the class."""
    (path,) = re.findall(r'import_path = "([\w.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert (ROOT / "src" / Path(*path.split(".")) / "__init__.py").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nobody_is_sent_to_an_index(page: Path) -> None:
    """The package is on no index yet: no page has it installed from one."""
    if page.name in ("RELEASING.md", "LISTING.md"):
        return
    assert re.findall(r"(?:pip|uv|uvx|pipx)\b[^\n`]*[ \"']embedwire\b[^\n`]*", page.read_text("utf-8")) == []


def test_nor_by_the_code() -> None:
    """No message or docstring names a download either; they name the extra."""
    sources = [*(ROOT / "src").rglob("*.py")]
    assert sources
    for source in sources:
        assert not re.search(r"pip install", source.read_text("utf-8")), source
