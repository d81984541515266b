"""Bodies that come compressed: what comes out, and how much of it."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire._http.unpacking import Packed, Unpacker

TEXT = b'{"data":[' + b"0.25," * 5000 + b"1]}"


def raw(data: bytes) -> bytes:
    """Deflate without a frame."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKED = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, " GZIP ": gzip.compress}


def unpacked(coding: str, body: bytes, size: int = 1000, most: int = 10**6) -> tuple[bytes, bool]:
    """What comes out of a body that arrives in pieces, and whether it was all."""
    unpacker, out = Unpacker(coding), b""
    for at in range(0, len(body), size):
        out += unpacker.feed(body[at : at + size], most - len(out))
    return out, unpacker.whole


class TestUnpacking:
    """What is compressed is unpacked, what only says so is not."""

    @pytest.mark.parametrize("coding", PACKED)
    @pytest.mark.parametrize("size", [1, 7, 10**6])
    def test_unpacks(self, coding: str, size: int) -> None:
        """Gzip and deflate, in pieces of any size."""
        assert unpacked(coding, PACKED[coding](TEXT), size) == (TEXT, True)

    @pytest.mark.parametrize("size", [1, 10**6])
    def test_deflate_without_its_frame(self, size: int) -> None:
        """Some servers send deflate without zlib's frame."""
        assert unpacked("deflate", raw(TEXT), size) == (TEXT, True)

    def test_several_streams(self) -> None:
        """Gzip may consist of several streams one after another."""
        for size in (1, 10, 10**6):
            assert unpacked("gzip", gzip.compress(TEXT[:9]) + gzip.compress(TEXT[9:]), size) == (TEXT, True)

    @pytest.mark.parametrize(
        "coding",
        ["", "identity", "none", "utf-8", "UTF-8", "binary", "8bit", "chunked", "application/json", "?"],
    )
    def test_words_that_mean_none(self, coding: str) -> None:
        """Words that name no way of compressing mean none."""
        assert unpacked(coding, TEXT) == (TEXT, True)

    @pytest.mark.parametrize("coding", ["gzip", "deflate", "identity, gzip"])
    def test_what_only_says_so(self, coding: str) -> None:
        """A proxy that unpacks may leave the header: plain JSON is taken as it is."""
        assert unpacked(coding, TEXT) == (TEXT, True)
        assert unpacked(coding, b"[1]") == (b"[1]", True)

    @pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, br", "gzip, gzip"])
    def test_ways_that_are_not_known(self, coding: str) -> None:
        """Other ways are refused by their names, and so is what is compressed twice."""
        with pytest.raises(Packed, match=coding):
            Unpacker(coding)

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    def test_broken_and_cut(self, coding: str) -> None:
        """What is broken is refused, and what stops in the middle is not whole."""
        with pytest.raises(Packed, match=f"{coding}, broken"):
            unpacked(coding, b"no gzip, no JSON")
        out, whole = unpacked(coding, PACKED[coding](TEXT)[:-5])
        assert (TEXT.startswith(out), whole) == (True, False)

    @given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", ""]), st.integers(1, 50))
    def test_anything(self, body: bytes, coding: str, most: int) -> None:
        """Whatever comes, it is refused or gives no more than may be."""
        try:
            out, _ = unpacked(coding, body, 20, most)
        except Packed:
            return
        assert len(out) <= most

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    def test_a_bomb(self, coding: str) -> None:
        """500 KB that would be 500 MB take no more memory than the cap."""
        packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
        start = packer.compress(b" ") + packer.flush(zlib.Z_FULL_FLUSH)
        bomb = start + 500 * (packer.compress(bytes(10**6)) + packer.flush(zlib.Z_FULL_FLUSH))
        assert len(bomb) < 600_000
        unpacker, most = Unpacker(coding), 2**20
        tracemalloc.start()
        try:
            assert len(unpacker.feed(bomb, most)) == most
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4 * most
