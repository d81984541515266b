"""The shared client, for frameworks that want to know what each call took."""

from __future__ import annotations

import time

from embedwire._clients.asyncio_only import check_asyncio
from embedwire._clients.lists import to_lists
from embedwire._clients.shared import SharedEmbeddingClient
from embedwire._clients.texts import check_kind, checked, prompted
from embedwire._http.steps import in_turns
from embedwire._queue.usage import Ledger, Usage
from embedwire._settings.options import Kind


class SharedCountingClient(SharedEmbeddingClient):
    """A shared client that tells of a call what it took; such calls do not count in `usage`."""

    async def aembed_counted(
        self, texts: list[str], kind: Kind = "document"
    ) -> tuple[list[list[float]], Usage]:
        """As `aembed`, and what this call alone took."""
        begun = time.monotonic()
        check_asyncio()
        texts = await in_turns(checked(texts))
        check_kind(kind)
        ledger = Ledger()
        if not texts:
            return [], ledger.usage()
        texts = await in_turns(prompted(texts, kind, self._settings.prompts))
        vectors = await self._bridge.wait_async(self._bridge.submit(texts, kind, begun=begun, ledger=ledger))
        return await in_turns(to_lists(vectors)), ledger.usage()

    def embed_counted(self, texts: list[str], kind: Kind = "document") -> tuple[list[list[float]], Usage]:
        """As `aembed_counted`; blocks this thread."""
        return self._run(lambda: self.aembed_counted(texts, kind))
