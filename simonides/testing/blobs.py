"""What every store of blobs owes. Subclass BlobSuite, give it the two fixtures below, and run pytest (asyncio_mode =
"auto").

`make_blobs` returns an async function that opens the same store of blobs, empty at first, each time; whoever calls it
closes it. `blobs` is one such, closed after the test. See `tests/test_blobs.py` for both.

    class TestMyBlobs(BlobSuite):
        pass
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ..blob import Blob, BlobStore, every
from ..errors import Damaged, Invalid, NotFound

MakeBlobs = Callable[[], Awaitable[BlobStore]]

BIG = 20 * 1024 * 1024 + 17  # bytes: more than two parts of an upload
WILD = ("", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a/.b", "a b", "ä", "a\\b", "a\0b", "a\n", "C:", "x" * 501)


class BlobSuite:
    async def test_what_is_put_is_got(self, blobs: BlobStore) -> None:
        blob = await blobs.put("a/b.bin", b"bytes")
        assert blob == Blob("a/b.bin", 5, hashlib.sha256(b"bytes").hexdigest())
        assert await got(blobs, "a/b.bin") == b"bytes"
        assert await blobs.size("a/b.bin") == 5

    async def test_nothing_is_a_blob_too(self, blobs: BlobStore) -> None:
        await blobs.put("empty", b"")
        await blobs.put("empty-stream", stream())
        for name in ("empty", "empty-stream"):
            assert (await got(blobs, name), await blobs.size(name)) == (b"", 0)

    async def test_a_blob_is_replaced_as_a_whole(self, blobs: BlobStore) -> None:
        await blobs.put("a", b"a long first text")
        await blobs.put("a", b"short")
        assert await got(blobs, "a") == b"short"
        assert await blobs.list() == [Blob("a", 5)]

    async def test_a_stream_is_put_and_got_in_pieces(self, blobs: BlobStore) -> None:
        pieces = [os.urandom(BIG // 7), b"", os.urandom(BIG - BIG // 7)]
        digest = hashlib.sha256(b"".join(pieces)).hexdigest()
        blob = await blobs.put("big", stream(*pieces), digest=digest)
        assert (blob.size, blob.digest) == (BIG, digest)
        sizes = [len(piece) async for piece in blobs.get("big", digest=digest)]
        assert sum(sizes) == BIG and max(sizes) < BIG / 2
        assert await got(blobs, "big") == b"".join(pieces)

    @pytest.mark.parametrize("size", [1000, BIG])
    async def test_what_has_another_digest_is_not_kept(self, blobs: BlobStore, size: int) -> None:
        await blobs.put("kept", b"as it was")
        for name in ("kept", "new"):
            with pytest.raises(Damaged):
                await blobs.put(name, os.urandom(size), digest="0" * 64)
            with pytest.raises(Damaged):
                await blobs.put(name, stream(os.urandom(size)), digest="0" * 64)
        assert await got(blobs, "kept") == b"as it was"
        assert await blobs.list() == [Blob("kept", 9)]

    @pytest.mark.parametrize("size", [1000, BIG])
    async def test_a_stream_that_breaks_off_leaves_nothing(self, blobs: BlobStore, size: int) -> None:
        class Broken(Exception):
            pass

        async def breaking() -> AsyncIterator[bytes]:
            yield os.urandom(size)
            raise Broken

        await blobs.put("kept", b"as it was")
        for name in ("kept", "new"):
            with pytest.raises(Broken):
                await blobs.put(name, breaking())
        assert await got(blobs, "kept") == b"as it was"
        assert await blobs.size("new") is None
        assert await blobs.list() == [Blob("kept", 9)]

    async def test_damage_is_seen_at_the_end(self, blobs: BlobStore) -> None:
        await blobs.put("a", b"bytes")
        read = list[bytes]()
        with pytest.raises(Damaged):
            async for piece in blobs.get("a", digest="0" * 64):
                read.append(piece)
        assert b"".join(read) == b"bytes"

    async def test_what_is_not_there(self, blobs: BlobStore) -> None:
        with pytest.raises(NotFound):
            await got(blobs, "a/b")
        assert await blobs.size("a/b") is None
        assert await blobs.delete("a/b") is False
        assert await blobs.list() == await blobs.list("a") == []

    async def test_a_blob_is_deleted(self, blobs: BlobStore) -> None:
        await blobs.put("a/b", b"b")
        await blobs.put("a/c", b"c")
        assert await blobs.delete("a/b") is True
        assert await blobs.delete("a/b") is False
        assert await blobs.list() == [Blob("a/c", 1)]

    async def test_names_are_listed_in_order_and_in_pages(self, blobs: BlobStore) -> None:
        names = ["a-b/1", "a.b", "a/1", "a/2/3", "a/20", "ab/1", "b"]
        for name in reversed(names):
            await blobs.put(name, b"x")
        assert [blob.name for blob in await blobs.list()] == names
        assert [blob.name for blob in await blobs.list("a")] == ["a/1", "a/2/3", "a/20"]
        assert [blob.name for blob in await blobs.list("a", after="a/1", limit=1)] == ["a/2/3"]
        assert [blob.name for blob in await blobs.list(limit=2)] == names[:2]
        assert [blob.name for blob in await blobs.list(after="a/2", limit=3)] == ["a/2/3", "a/20", "ab/1"]
        assert [blob.name async for blob in every(blobs)] == names

    @pytest.mark.parametrize("name", WILD)
    async def test_a_wild_name_is_refused(self, blobs: BlobStore, name: str) -> None:
        for call in (blobs.put(name, b"x"), got(blobs, name), blobs.size(name), blobs.delete(name)):
            with pytest.raises(Invalid):
                await call
        assert await blobs.list() == []

    async def test_what_one_wrote_another_reads(self, blobs: BlobStore, make_blobs: MakeBlobs) -> None:
        await blobs.put("a", b"bytes")
        other = await make_blobs()
        try:
            assert await got(other, "a") == b"bytes"
        finally:
            await other.close()

    async def test_many_write_at_once(self, blobs: BlobStore) -> None:
        await asyncio.gather(*(blobs.put(f"many/{number}", stream(b"%d" % number)) for number in range(20)))
        await asyncio.gather(*(blobs.put("one", b"%d" % number * 1000) for number in range(5)))
        assert {await got(blobs, f"many/{number}") for number in range(20)} == {b"%d" % number for number in range(20)}
        assert await got(blobs, "one") in {b"%d" % number * 1000 for number in range(5)}


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def got(blobs: BlobStore, name: str) -> bytes:
    return b"".join([piece async for piece in blobs.get(name)])
