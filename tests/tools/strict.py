"""A Python under which any warning fails, a socket left open among them."""

import sys

EXTRAS_WARN = (
    "ignore:`langchain-community` is being sunset:DeprecationWarning"  # LlamaIndex imports it if it is there
)
STRICT = [sys.executable, "-X", "dev", "-W", "error", "-W", EXTRAS_WARN]


def complaints(stderr: str) -> str:
    """What Python said, but for asyncio's notes on slow callbacks: the first one imports aiohttp and numpy."""
    return "\n".join(line for line in stderr.splitlines() if not line.startswith("Executing <"))
