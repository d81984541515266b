"""`embedwire serve MODEL.gguf`: llama.cpp with settings that suit embedding, and what becomes of files that do not."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedwire import SharedEmbeddingClient, TextRefused
from embedwire.serve import ServeError
from embedwire.serve.gguf import Model, read_model
from embedwire.serve.llama_cpp import Wishes, plan
from tests.helpers import needs_signals
from tests.servers import reference

COMMAND = [sys.executable, "-m", "embedwire", "serve"]
WORD = "house "  # one token of the model's


@pytest.fixture(scope="session")
def model() -> Path:
    """A real embedding model of 512 tokens."""
    from scripts.make_minilm_gguf import model_path

    return model_path()


def environment(**changed: str) -> dict[str, str]:
    """This process's, without a key."""
    left = {name: value for name, value in os.environ.items() if name != "EMBEDWIRE_API_KEY"}
    return left | {"NO_COLOR": "1", "COLUMNS": "200"} | changed


@contextmanager
def serving(*arguments: str | Path, **changed: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The command once it is ready: the process, its URL, and what it said."""
    command = [*COMMAND, "--port", "0", "--threads", "1", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(**changed)) as process:
        assert process.stderr
        try:
            said = ""
            while "Ready in" not in said:
                line = process.stderr.readline()
                assert line, f"it ended: {said}"
                said += line
            yield process, re.findall(r"http://[^\s\"]+", said)[0], said
        finally:
            process.kill()


def ended(*arguments: str | Path, **changed: str) -> tuple[int, str]:
    """The exit code and what was said by a command that ends by itself."""
    ran = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(**changed),
        timeout=60,
        check=False,
    )
    return ran.returncode, ran.stderr


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[tuple[str, str]]:
    """The URL of the model, served with the defaults, and what was said."""
    with serving(model) as (_, url, said):
        yield url, said


def post(url: str, texts: list[str]) -> tuple[int, Any]:
    """The status and the JSON of a plain request."""
    request = urllib.request.Request(
        f"{url}/v1/embeddings", json.dumps({"input": texts}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=100) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


class TestServing:
    """The real thing."""

    def test_says_what_to_do_next(self, served: tuple[str, str], model: Path) -> None:
        """The first lines give the model, its limits, the address, and the line of Python that uses it."""
        url, said = served
        assert f"embedwire serves {model.stem} (texts of up to 512 tokens, mean pooling" in said
        assert f'EmbedwireEmbeddings(base_url="{url}")' in said
        assert re.search(r"Ready in \d+\.\d s\.\n$", said)
        assert "Note:" not in said
        assert len(said.splitlines()) == 3

    @pytest.mark.parametrize("count", [1, 5])
    def test_texts_of_the_models_length_go_through(self, served: tuple[str, str], count: int) -> None:
        """A text of 512 tokens has its vector, alone and among others as long, in one request."""
        status, reply = post(served[0], [WORD * 510] * count)
        assert (status, len(reply["data"])) == (200, count)
        assert reply["usage"]["prompt_tokens"] == 512 * count

    def test_many_such_texts_at_once_go_through(self, served: tuple[str, str]) -> None:
        """Requests side by side, each with texts of the model's length, are all answered."""
        with ThreadPoolExecutor(6) as pool:
            replies = list(pool.map(lambda _: post(served[0], [WORD * 510]), range(6)))
        assert [status for status, _ in replies] == [200] * 6

    @pytest.mark.parametrize("words", [511, 3000, 200_000])
    def test_a_longer_one_is_a_400(self, served: tuple[str, str], words: int) -> None:
        """A text of any greater length is the client's fault: 400, with its tokens and the limit."""
        status, reply = post(served[0], ["short", WORD * words])
        assert (status, reply["error"]["type"]) == (400, "exceed_context_size_error")
        assert (reply["error"]["n_prompt_tokens"], reply["error"]["n_ctx"]) == (words + 2, 512)

    def test_the_client_meets_it(self, served: tuple[str, str], model: Path) -> None:
        """The client finds the model, its slots and its limit; only the text that is too long fails."""
        with SharedEmbeddingClient(served[0]) as client:
            info = client.wait_ready()
            assert (info.software, info.model, info.dimensions) == ("llama.cpp", model.stem, 384)
            with pytest.raises(TextRefused, match="512") as caught:
                client.embed(["short", WORD * 600, "short too"])
            assert (caught.value.index, caught.value.completed.indexes) == (1, [0, 2])  # type: ignore[union-attr]

    def test_its_vectors_are_llama_cpps(self, served: tuple[str, str], llama4: str) -> None:
        """The vectors are those of a llama-server with its own defaults."""
        texts = ["Seoul is the capital of Korea.", WORD * 100]
        ours, theirs = reference(served[0], texts), reference(llama4, texts)
        assert np.abs(ours - theirs).max() < 1e-3

    def test_no_page_in_a_browser_may_ask_it(self, served: tuple[str, str]) -> None:
        """A server on the loopback without a key is not open to each website that its user looks at."""
        asked = urllib.request.Request(f"{served[0]}/v1/models", headers={"Origin": "https://example.com"})
        with urllib.request.urlopen(asked) as reply:
            assert not reply.headers["Access-Control-Allow-Origin"]

    def test_options_are_obeyed(self, model: Path) -> None:
        """Slots, context, pooling, the name and the key are what was asked for; the key is shown nowhere."""
        options = ["--slots", "2", "--context", "256", "--pooling", "cls", "--alias", "mine"]
        with serving(model, *options, EMBEDWIRE_API_KEY="open sesame") as (_, url, said):
            assert "mine (texts of up to 256 tokens, cls pooling, slots: 2, threads: 1)" in said
            assert 'api_key="..."' in said
            assert "open sesame" not in said
            assert post(url, ["x"])[0] == 401
            with SharedEmbeddingClient(url, api_key="open sesame") as client:
                info = client.wait_ready()
                assert (info.model, info.slots, info.context) == ("mine", 2, 256)
                with pytest.raises(TextRefused, match="256"):
                    client.embed([WORD * 300])


class TestEnds:
    """How it stops."""

    @needs_signals
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_with_one_line(self, model: Path, how: signal.Signals) -> None:
        """SIGINT and SIGTERM end it with exit code 0 and one line, also with a request under way."""
        with serving(model) as (process, url, _), ThreadPoolExecutor() as pool:
            under_way = pool.submit(post, url, [WORD * 500] * 200)
            time.sleep(0.5)
            process.send_signal(how)
            assert process.wait(10) == 0
            assert process.stderr
            assert process.stderr.read() == "Stopped.\n"
            assert isinstance(under_way.exception(), OSError)

    @needs_signals
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_while_it_loads_ends_it_with_one_line(self, model: Path, how: signal.Signals) -> None:
        """Ctrl-C and SIGTERM while llama.cpp loads a large model end it at once, with exit code 130."""
        slow = """\
            import sys, time, types
            import xllamacpp
            real = xllamacpp.CommonParams
            sys.modules["xllamacpp"] = types.SimpleNamespace(
                CommonParams=real, llama_pooling_type=xllamacpp.llama_pooling_type, Server=lambda _: time.sleep(60)
            )
            sys.argv = ["embedwire", "serve", "--port", "0", sys.argv[1]]
            from embedwire.__main__ import main
            main()
        """
        command = [sys.executable, "-c", textwrap.dedent(slow), str(model)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
            assert process.stderr
            while "Loading" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(how)
            assert process.wait(10) == 130
            assert process.stderr.read() == "Stopped.\n"


class TestBadInput:
    """One sentence, and exit code 1; a wrong use of options is 2."""

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        """A missing file is named."""
        path = tmp_path / "no.gguf"
        assert ended(path) == (1, f"{path} cannot be read: No such file or directory.\n")

    def test_a_folder(self, tmp_path: Path) -> None:
        """A folder is no file."""
        assert ended(tmp_path) == (1, f"{tmp_path} is a folder; name the GGUF file in it.\n")

    def test_another_format(self, tmp_path: Path) -> None:
        """A file of another format is called so by its first letters."""
        path = tmp_path / "model.safetensors"
        path.write_bytes(b"\x10\x00\x00\x00{}")
        assert ended(path) == (1, f"{path} is no GGUF file: it does not begin with the letters GGUF.\n")

    def test_a_head_that_is_cut_off(self, tmp_path: Path, model: Path) -> None:
        """A download that broke off in the vocabulary is no whole file."""
        path = tmp_path / "cut.gguf"
        path.write_bytes(model.read_bytes()[:20_000])
        code, said = ended(path)
        assert (code, "is no whole GGUF file" in said, len(said.splitlines())) == (1, True, 1)

    def test_weights_that_are_cut_off(self, tmp_path: Path, model: Path) -> None:
        """A download that broke off in the weights ends with llama.cpp's words and one of ours."""
        path = tmp_path / "cut.gguf"
        path.write_bytes(model.read_bytes()[:5_000_000])
        code, said = ended("--port", "0", path)
        assert code == 1
        assert "is not within the file bounds, model is corrupted or incomplete" in said
        assert said.endswith("llama.cpp could not load the model; what it said stands above.\n")
        assert "Traceback" not in said

    def test_a_port_that_is_taken(self, model: Path) -> None:
        """A port that another server has is not shared with it."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = f"Port {port} is in use: choose another one with --port.\n"
            assert ended("--port", str(port), model) == (1, said)

    def test_the_extra_is_missing(self, model: Path) -> None:
        """Without xllamacpp the extra that brings it is named."""
        script = """import sys
sys.modules["xllamacpp"] = None
sys.argv = ["embedwire", "serve", "--port", "0", sys.argv[1]]
from embedwire.__main__ import main
main()
"""
        ran = subprocess.run(
            [sys.executable, "-c", script, model], capture_output=True, text=True, check=False
        )
        said = 'embedwire serve MODEL.gguf needs xllamacpp: install embedwire with its extra "llama-cpp".\n'
        assert (ran.returncode, ran.stderr) == (1, said)

    def test_more_context_than_the_model_has(self, model: Path) -> None:
        """A model is not asked for more than it was made for."""
        said = "The model reads 512 tokens: --context cannot be 1024.\n"
        assert ended(model, "--context", "1024") == (1, said)

    @pytest.mark.parametrize("option", ["--slots", "--threads", "--context", "--pooling", "--alias"])
    def test_an_option_without_a_model(self, option: str) -> None:
        """What the bundled model does not take is refused."""
        code, said = ended(option, "last" if option == "--pooling" else "1")
        assert (code, f"Invalid value for {option}: it goes with a MODEL.gguf only." in said) == (2, True)


# The head of a file


def head(path: Path, fields: dict[str, str | float | bool | list[str] | list[int]]) -> Path:
    """Writes a GGUF file without weights."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def packed(value: str | float | bool | list[str] | list[int]) -> bytes:
        match value:
            case bool():
                return struct.pack("<I?", 7, value)
            case str():
                return struct.pack("<I", 8) + text(value)
            case int():
                return struct.pack("<II", 4, value)
            case float():
                return struct.pack("<If", 6, value)
            case [str(), *_]:
                return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, map(str, value)))
        return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)

    body = b"".join(text(name) + packed(value) for name, value in fields.items())
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(fields)) + body)
    return path


BERT: dict[str, Any] = {
    "general.architecture": "bert",
    "tokenizer.ggml.tokens": ["[PAD]", "안녕", ""],
    "tokenizer.ggml.token_type": [3, 1, -1],
    "bert.attention.causal": False,
    "bert.attention.layer_norm_epsilon": 1e-12,
    "bert.context_length": 512,
    "bert.embedding_length": 384,
    "bert.pooling_type": 2,
}


class TestHead:
    """What a file says of its model."""

    def test_of_a_real_file(self, model: Path) -> None:
        """The real model's numbers are read."""
        assert read_model(model) == Model(architecture="bert", context=512, dimensions=384, pooling="mean")

    def test_values_behind_lists_are_found(self, tmp_path: Path) -> None:
        """Where the vocabulary stands does not matter."""
        read = read_model(head(tmp_path / "model.gguf", BERT))
        assert read == Model(architecture="bert", context=512, dimensions=384, pooling="cls")

    @pytest.mark.parametrize(("number", "pooling"), [(0, None), (3, "last"), (4, "rank"), (99, None)])
    def test_the_pooling(self, tmp_path: Path, number: int, pooling: str | None) -> None:
        """Pooling has a name; none is as good as one that is not given."""
        assert read_model(head(tmp_path / "m", BERT | {"bert.pooling_type": number})).pooling == pooling

    def test_each_cut_is_a_damage(self, tmp_path: Path) -> None:
        """Wherever a head is cut off, that is what is said."""
        path = head(tmp_path / "model.gguf", BERT)
        whole = path.read_bytes()
        for length in range(4, len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(ServeError, match="is no whole GGUF file"):
                read_model(path)

    def test_nonsense_is_a_damage(self, tmp_path: Path) -> None:
        """Bytes that are changed anywhere give a sentence or a model, never another exception."""
        path = head(tmp_path / "model.gguf", BERT)
        whole = bytearray(path.read_bytes())
        for place in range(4, len(whole)):
            changed = whole.copy()
            changed[place] ^= 0xFF
            path.write_bytes(changed)
            try:
                read_model(path)
            except ServeError:
                continue

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"general.architecture": "clip", "general.type": "mmproj"}, r"can embed \(mmproj\)\.$"),
            ({"general.type": "adapter"}, r"can embed \(adapter\)\.$"),
            ({}, "file without a context length"),
            ({"split.no": 1}, "It is one part of several; name the first one.$"),
            ({"general.architecture": 5}, "no model that can embed"),
        ],
    )
    def test_files_that_hold_no_model(self, tmp_path: Path, fields: dict[str, Any], said: str) -> None:
        """What belongs to a model without being one is called so."""
        with pytest.raises(ServeError, match=said):
            read_model(head(tmp_path / "model.gguf", fields))

    def test_a_file_of_another_age(self, tmp_path: Path) -> None:
        """A version that is not known is named."""
        path = tmp_path / "model.gguf"
        path.write_bytes(b"GGUF" + struct.pack("<I", 1))
        with pytest.raises(ServeError, match="of version 1; 2 and 3 can be read"):
            read_model(path)


class TestPlan:
    """How a model is served."""

    @pytest.mark.parametrize(
        ("context", "served", "slots"),
        [(300, 300, 4), (512, 512, 4), (2048, 2048, 4), (4096, 4096, 2), (8192, 8192, 1), (131_072, 8192, 1)],
    )
    def test_memory_is_that_of_one_long_text(self, context: int, served: int, slots: int) -> None:
        """There are four slots, or fewer, so that together they have no more than 8192 tokens."""
        made = plan(
            Model(architecture="x", context=context, dimensions=1, pooling="mean"),
            Path("m.gguf"),
            Wishes(),
            4,
        )
        assert (made.context, made.slots, made.threads, made.notes != ()) == (
            served,
            slots,
            3,
            context > served,
        )

    def test_what_is_asked_for_is_done(self) -> None:
        """Each number is obeyed."""
        asked = Wishes(context=32_768, slots=8, threads=7, pooling="last", alias="q")
        made = plan(
            Model(architecture="qwen3", context=32_768, dimensions=1, pooling="mean"), Path("m"), asked, 1
        )
        assert (made.context, made.slots, made.threads, made.pooling, made.alias) == (
            32_768,
            8,
            7,
            "last",
            "q",
        )
        assert made.notes == ()

    def test_a_chat_model_is_served_with_a_warning(self) -> None:
        """Without a pooling the mean is taken, and said to be a guess; one that is asked for is not."""
        chat = Model(architecture="llama", context=4096, dimensions=1, pooling=None)
        made = plan(chat, Path("m"), Wishes(), 1)
        assert made.pooling == "mean"
        assert "may not be good for search" in made.notes[0]
        assert plan(chat, Path("m"), Wishes(pooling="last"), 1).notes == ()

    def test_a_reranker_is_refused(self) -> None:
        """What scores pairs has no vectors."""
        with pytest.raises(ServeError, match="reranker"):
            plan(
                Model(architecture="bert", context=512, dimensions=1, pooling="rank"), Path("m"), Wishes(), 1
            )
