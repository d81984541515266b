"""A scriptable embedding server on real sockets, and a proxy that breaks connections, to test code that calls one.

    from embedwire.testing import Answer, EmbeddingServer, is_vector_of

    def test_survives_a_busy_server() -> None:
        with EmbeddingServer(dimensions=384) as server:  # or `async with`
            server.answer(Answer.throttled(retry_after=1))  # the next embedding request only
            rows = my_code(server.url, ["one", "two"])
            assert is_vector_of(rows[0], "one")
            assert server.batches == [["one", "two"]] * 2  # refused once, then repeated

It shares no code with the client, speaks HTTP by itself and decides every byte: an `Answer` can be late,
cut, dripping, reset, malformed or not HTTP at all. All waiting is done with the timers of the event loop, so
simulated time works.

What happens on the way to a server, any server, is a `FaultProxy`'s to decide:

    from embedwire.testing import Fault, FaultProxy

    def test_survives_a_broken_connection() -> None:
        with FaultProxy("http://127.0.0.1:8080") as proxy:  # or `async with`
            proxy.inject(Fault(cut=100))  # the next reply breaks off after 100 bytes
            proxy.fault = Fault(latency=0.2)  # all others are late
            my_code(proxy.url, ["one", "two"])
            assert proxy.requests == 2
"""

from __future__ import annotations

from embedwire.testing._answer import Answer
from embedwire.testing._gate import Gate
from embedwire.testing._http import Request
from embedwire.testing._proxy import Fault, FaultProxy
from embedwire.testing._server import EmbeddingServer
from embedwire.testing._vectors import is_vector_of, vector

__all__ = ["Answer", "EmbeddingServer", "Fault", "FaultProxy", "Gate", "Request", "is_vector_of", "vector"]
