"""What people get wrong: each ends in bounded time, in a sentence that says what to do, and in exit code 2."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import trustme

from embedwire.doctor.asking import Asker
from embedwire.doctor.command import run
from embedwire.doctor.examining import Options, examine, target_at
from embedwire.doctor.findings import Finding, exit_code
from embedwire.doctor.surroundings import access
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.doctor.looks import embeds, found, good, look, named
from tests.helpers import now, simulated
from tests.server.certificates import as_file, certified
from tests.servers import free_port

KEY = "open sesame, please"
PAGE = b"<!DOCTYPE html><html><head><title>Welcome to my shop</title></head></html>"
CHAT_ONLY = Answer.error(
    501,
    "This server does not support embeddings. Start it with `--embeddings`",
    error_type="not_supported_error",
)


async def contact(url: str, **options: Any) -> str:
    """What is said about a server that gives no vector."""
    said: list[Finding] = []
    examined = await examine(url, Options(**options), said.append)
    assert (examined.asked, examined.settings, examined.vector) == (False, (), None)
    assert exit_code([examined], []) == 2
    (finding,) = said
    assert finding.name == "contact"
    return finding.what


@simulated
async def test_a_wrong_port() -> None:
    """Where nothing listens, host and port are to be looked at."""
    what = await contact(f"http://127.0.0.1:{free_port()}")
    assert "no connection could be made" in what
    assert "Check that the server runs and that host and port are right." in what


@simulated
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(status=404, body={"detail": "Not Found"}), "Check base_url (the part before /embeddings)"),
        (Answer(status=404, body=PAGE), "a web page answered"),
        (Answer(body=PAGE), "no JSON"),
        (CHAT_ONLY, "Start llama-server with --embeddings."),
        (Answer.loading(), "still loading its model"),
        (Answer.error(500, "out of memory"), "See the server's log."),
        (Answer.redirect("https://elsewhere.example/v1/embeddings"), "Put the final URL into base_url."),
        (Answer(raw=b"220 mail.example ESMTP ready\r\n", then="close"), "not HTTP"),
        (Answer.hang_up(), "Check http against https"),
        (Answer(body={"data": []}), "0 vectors for 1 texts"),
    ],
    ids=["404", "404 page", "page", "chat", "loading", "500", "redirect", "mail", "hangs up", "empty"],
)
async def test_something_else_answers(answer: Answer, words: str) -> None:
    """A wrong path, a web page, a chat server, another protocol: what it is, and what to do."""
    async with good(script=lambda request: answer) as server:
        assert words in await contact(server.url)


@simulated
async def test_vectors_that_are_none() -> None:
    """A server that gives null, as llama.cpp does after a while at times, is told to be restarted."""
    async with good(script=embeds(lambda request, rows: [[float("nan")] * 8 for _ in rows])) as server:
        what = await contact(server.url)
    assert "null among the numbers of a vector" in what
    assert "Restart or update the server" in what


@simulated
@pytest.mark.parametrize(("key", "words"), [(None, "Pass api_key="), ("another", "does not accept the key")])
async def test_a_wrong_key(key: str | None, words: str) -> None:
    """A 401 says whether a key was sent, and never which."""
    async with good(api_key=KEY) as server:
        what = await contact(server.url, api_key=key)
    assert words in what
    assert "another" not in what


@simulated
async def test_several_models() -> None:
    """Where a server has several models, they are named, and the option that names one."""

    def two(request: Request) -> Answer | None:
        models = {"data": [{"id": "one"}, {"id": "two\x1b[31m"}]}
        return Answer(body=models) if request.place == "/v1/models" else None

    async with good(script=two) as server:
        what = await contact(server.url)
        assert what == "the server has 2 models, among them 'one', 'two?[31m'. Name one: --model NAME."
        assert found(await look(server, model="one")) == {}


@simulated
async def test_a_server_that_hangs() -> None:
    """A server that never answers costs one timeout, or two."""
    begun = now()
    async with good(script=lambda request: Answer.hang()) as server:
        what = await contact(server.url, timeout=5)
    assert "silence" in what or "no complete reply" in what
    assert now() - begun <= 11


@simulated
async def test_a_server_that_hangs_after_a_while() -> None:
    """After two requests without an answer no more are sent; each check that was not made says so."""
    seen: list[Request] = []

    def script(request: Request) -> Answer | None:
        seen.append(request)
        return Answer.hang() if len(seen) > 12 else None

    begun = now()
    async with good(script=script) as server:
        examined = await look(server, timeout=5)
    assert now() - begun <= 25
    assert len(seen) < 20
    assert examined.asked
    assert "not looked at: 2 requests got no answer within 5 s" in named(examined, "keep-alive").what


@simulated
async def test_a_server_that_drips() -> None:
    """A reply that comes a byte at a time is a timeout."""
    drips = Answer(drip=1.0)
    async with good(script=lambda request: drips if request.embeds else None) as server:
        begun = now()
        assert "no complete reply within the total timeout" in await contact(server.url, timeout=5)
        assert now() - begun <= 6


@simulated
async def test_a_slow_server_costs_no_more_than_its_seconds() -> None:
    """Where the time is used up, what was found is told, and what was not looked at."""
    begun = now()
    async with good(latency=4.0, latency_per_text=1.0) as server:
        examined = await look(server, timeout=10, seconds=60)
    assert now() - begun <= 80  # and the client's own share
    assert "not looked at: the 60 s for all questions are used up" in named(examined, "keep-alive").what
    assert named(examined, "unit length").level == "ok"


@simulated
async def test_a_server_that_holds_off() -> None:
    """A 429 is waited for once, for a moment."""
    async with good() as server:
        server.answer(Answer.throttled(1), Answer(), Answer.throttled(2))
        examined = await look(server)
    assert found(examined) == {}


@simulated
async def test_a_server_without_a_lock() -> None:
    """A key that nobody asks for is told; one that is asked for is well."""
    async with good() as server:
        examined = await look(server, api_key=KEY)
    assert found(examined) == {"access": "note"}
    assert "without the key, too" in named(examined, "access").what
    async with good(api_key=KEY) as server:
        examined = await look(server, api_key=KEY)
        assert examined.requests == len(server.batches)
    assert found(examined) == {}
    assert named(examined, "access").what == "this machine alone; without the key it answers 401"
    assert all("EMBEDWIRE_API_KEY" in code for _, code in examined.settings)


@simulated
@pytest.mark.parametrize(
    ("url", "options", "what"),
    [
        ("http://192.0.2.1:8080", {"api_key": KEY}, "the key goes over the network as it is"),
        ("https://192.0.2.1", {"ssl": False}, "TLS, certificate not verified"),
        ("http://192.0.2.1:8080", {}, "no TLS; no key"),
        ("http://[::1]:8080", {}, "this machine alone; no key"),
        ("unix:///run/llama.sock", {}, "this machine alone; no key"),
    ],
)
async def test_who_can_read_along(url: str, options: dict[str, Any], what: str) -> None:
    """What goes over a network without TLS, and a certificate that nobody looks at, are told without asking."""
    ask = Asker(target_at(url, Options(**options)), timeout=1, seconds=1)
    finding = await access(ask, ask if "api_key" in options else None)
    await ask.close()
    assert finding.what == what
    assert bool(finding.cure) == bool(options)
    assert ask.requests == 0


@simulated
async def test_the_key_of_the_environment_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the clients, EMBEDWIRE_API_KEY is sent where no key was passed; a URL's password is one."""
    monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY)
    async with good(api_key=KEY) as server:
        assert found(await look(server)) == {}


async def test_tls(tmp_path: Path) -> None:
    """A private authority needs its file; plain HTTP where TLS is spoken, and the reverse, is said."""
    authority = trustme.CA()
    async with good(ssl=certified(authority)) as server:
        assert "for a private authority pass ssl=" in await contact(server.url)
        examined = await look(server, ssl=as_file(authority, tmp_path), idle=0.01)
        assert found(examined) == {}
        assert named(examined, "access").what == "TLS; no key"
        assert "http" in await contact(server.url.replace("https", "http"))
    async with good() as server:
        assert "put http:// into base_url" in await contact(server.url.replace("http", "https"))


def told(*urls: str, **options: Any) -> tuple[int, str]:
    """Exit code and output of the command."""
    said: list[str] = []
    machine = bool(options.pop("machine", False))
    code = run(urls, Options(idle=0.01, **options), machine=machine, width=80, say=said.append)
    return code, "\n".join(said)


@pytest.mark.parametrize("machine", [False, True])
def test_no_key_is_shown(machine: bool) -> None:
    """Neither a key nor a URL's password is anywhere in a report, whatever the server repeats."""

    def repeats(request: Request) -> Answer | None:
        sent = request.headers.get("authorization", "")
        if request.embeds and request.json.get("encoding_format") == "base64":
            return Answer.error(400, f"not with {sent}")
        return None

    with good(script=repeats) as server:
        code, said = told(server.url, api_key=KEY, machine=machine)
        assert code == 0
        assert KEY not in said
        assert "withheld" in said
        login = server.url.replace("http://", "http://user:p4ssw0rd@") + "/v1?token=s3cret&api-version=7"
        code, said = told(login, machine=machine)
        assert code == 0
        assert "p4ssw0rd" not in said
        assert "s3cret" not in said
        assert "/v1?api-version=7" in said
    assert KEY not in repr(Options(api_key=KEY))


def test_one_of_two_servers_is_gone() -> None:
    """The other one is looked at all the same, and the exit code is 2."""
    with good() as server:
        code, said = told(f"http://127.0.0.1:{free_port()}", server.url, machine=True)
    report = json.loads(said)
    assert code == report["exit_code"] == 2
    assert [one["asked"] for one in report["servers"]] == [False, True]
    assert report["compared"] == []


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", ""])
def test_no_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no URL is refused before anything is sent, also behind one that is."""
    with EmbeddingServer() as server:
        assert told(server.url, url) == (2, "")
        assert not server.requests
    assert "base_url" in capsys.readouterr().err


@simulated
async def test_a_cancelled_look_leaves_nothing_behind() -> None:
    """Ctrl-C in the middle closes the connections."""
    async with good(latency=0.5) as server:
        looking = asyncio.ensure_future(look(server))
        await server.wait_for(lambda: len(server.batches) == 3)
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        await server.wait_for(lambda: server.open_connections == 0)
