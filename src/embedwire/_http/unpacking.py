"""Bodies that come compressed though that was not asked for → bytes, never more than a cap. Pure."""

from __future__ import annotations

import zlib

# Servers write all sorts of words into `Content-Encoding` that mean none; these are the ones that mean one.
_UNPACKED = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's number for the frame
_UNKNOWN = {"br", "zstd", "compress", "x-compress", "dcb", "dcz"}
_RAW = -15  # deflate without zlib's frame, as some servers send it
_JSON = (b"{", b"[")  # how nothing compressed begins


class Packed(Exception):
    """A body that cannot be unpacked; its text is the way in which it is compressed."""


class Unpacker:
    """Takes a body piece by piece. Its state is the compressed stream.

    Args:
        coding: The reply's ``Content-Encoding``.

    Raises:
        Packed: It is compressed in a way that is not known here.
    """

    def __init__(self, coding: str) -> None:
        ways = [
            way
            for way in map(str.strip, coding.lower().split(","))
            if way in _UNPACKED | dict.fromkeys(_UNKNOWN)
        ]
        if len(ways) > 1 or not _UNPACKED.keys() >= set(ways):
            raise Packed(", ".join(ways))
        self._way = ways[0] if ways else None
        self._stream = zlib.decompressobj(_UNPACKED[ways[0]]) if ways else None
        self._begun = False

    def feed(self, piece: bytes, most: int) -> bytes:
        """What comes out of the next piece, at most so many bytes; what goes beyond is lost.

        Raises:
            Packed: It is not what it says, and no plain JSON either.
        """
        if not self._begun and piece:
            self._begin(piece)
        if self._stream is None:
            return piece[:most]
        if self._stream.eof and self._way == "deflate":  # what comes after it is kept by nobody
            return b""
        out: list[bytes] = []
        try:
            while piece and most > 0:
                out.append(self._stream.decompress(piece, most))
                most -= len(out[-1])
                piece = self._stream.unconsumed_tail or self._next_member()
        except zlib.error:
            raise Packed(f"{self._way}, broken") from None
        return b"".join(out)

    @property
    def whole(self) -> bool:
        """Whether nothing is missing, once there is no more."""
        return self._stream is None or not self._begun or self._stream.eof

    def _begin(self, piece: bytes) -> None:
        """Looks at how the body begins: it may be plain after all, or deflate without a frame."""
        self._begun = True
        if self._stream is not None and piece.startswith(_JSON):
            self._stream = None
        elif self._way == "deflate" and not _has_frame(piece):
            self._stream = zlib.decompressobj(_RAW)

    def _next_member(self) -> bytes:
        """The rest of the piece, where one gzip stream ends and another begins."""
        assert self._stream is not None  # noqa: S101 - it has just given something
        rest = self._stream.unused_data
        if rest and self._way != "deflate":
            self._stream = zlib.decompressobj(31)
            return rest
        return b""


def _has_frame(piece: bytes) -> bool:
    """Whether deflate has zlib's frame, by its first two bytes."""
    return piece[0] & 15 == 8 and (len(piece) < 2 or int.from_bytes(piece[:2], "big") % 31 == 0)
