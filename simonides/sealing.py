"""Streams of frames, packed and sealed: how the parts of a backup are kept in files that anybody may hold.

A frame is a length and so many bytes. Frames are compressed (gzip), and with a key encrypted in chunks with AES-256-GCM
in the STREAM construction (Hoang, Reyhanitabar, Rogaway and Vizár, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance", 2015): the nonce of a chunk is its number and whether it is the last, so none can be left out, moved
or cut off. Every part has a key of its own, made from the passphrase's by HKDF with a salt that stands in its header.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import Damaged, Invalid, Unavailable

PLAIN, SEALED = b"SIMB\x01\x00", b"SIMB\x01\x01"
CHUNK = 256 * 1024  # bytes that are encrypted together
SALT, TAG, LENGTH = 32, 16, struct.Struct(">I")
FRAME_MAX = 1 << 30
LEVEL = 3  # of gzip: more costs much time for few bytes
COST, BLOCK, LANES = 2**17, 8, 1  # of scrypt: 128 MB and some tenths of a second a guess (OWASP, 2025)


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """What a passphrase opens a place of backups with. `about` is public: how the key is made of the passphrase."""

    secret: bytes
    about: Mapping[str, Any]

    def of_part(self, salt: bytes, name: str) -> bytes:
        return self._derived(salt, f"part {name}")

    def seal(self, content: bytes) -> str:
        """Return what proves that whoever wrote this had the key."""
        return hmac.new(self._derived(b"", "seal"), content, hashlib.sha256).hexdigest()

    def _derived(self, salt: bytes, purpose: str) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), 32, salt, f"simonides backup {purpose}".encode()).derive(self.secret)


def key_of(passphrase: str, about: Mapping[str, Any] | None = None) -> Key:
    """Return the key that a passphrase makes, for a new place or for the one that `about` is from.

    Raise Invalid where it is not the passphrase of that place.
    """
    if not passphrase:
        raise Invalid("the passphrase is empty")
    try:
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
    except ModuleNotFoundError as error:
        raise Unavailable(f"encryption needs {error.name}: pip install 'simonides[backup]'") from None
    given = about or {"kdf": "scrypt", "salt": os.urandom(SALT).hex(), "n": COST, "r": BLOCK, "p": LANES}
    try:
        salt, costs = bytes.fromhex(given["salt"]), {name: int(given[name]) for name in ("n", "r", "p")}
        if given["kdf"] != "scrypt" or costs["n"] * costs["r"] > COST * BLOCK * 16:
            raise ValueError
        secret = Scrypt(salt, 32, **costs).derive(passphrase.encode())
    except (KeyError, TypeError, ValueError):
        raise Damaged("it is not said how the passphrase makes the key: the manifest is damaged") from None
    key = Key(secret, {})
    proof = key.seal(salt)[:16]
    if about and not hmac.compare_digest(proof, str(about.get("proof"))):
        raise Invalid("that is not the passphrase of these backups")
    return Key(secret, {**given, "proof": proof})


# -- out ----------------------------------------------------------------------------------------------------------


async def packed(frames: AsyncIterable[bytes], name: str, key: Key | None) -> AsyncIterator[bytes]:
    """Yield the bytes of the part of that name that holds these frames."""
    compressed = _compressed(frames)
    if key is None:
        yield PLAIN
        async for piece in compressed:
            yield piece
        return
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt = os.urandom(SALT)
    cipher, header, number, waiting = AESGCM(key.of_part(salt, name)), SEALED + salt, 0, bytearray()
    yield header
    async for piece in compressed:
        waiting += piece
        while len(waiting) > CHUNK:  # what may be the last chunk is kept back
            yield cipher.encrypt(_nonce(number, False), bytes(waiting[:CHUNK]), header)
            number += 1
            del waiting[:CHUNK]
    yield cipher.encrypt(_nonce(number, True), bytes(waiting), header)


async def _compressed(frames: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    packer, waiting = zlib.compressobj(LEVEL, wbits=31), bytearray()
    async for frame in frames:
        waiting += LENGTH.pack(len(frame)) + frame
        if len(waiting) >= CHUNK:
            if piece := packer.compress(bytes(waiting)):
                yield piece
            waiting.clear()
    yield packer.compress(bytes(waiting)) + packer.flush()


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11) + bytes([last])


# -- in -----------------------------------------------------------------------------------------------------------


async def unpacked(pieces: AsyncIterable[bytes], name: str, key: Key | None) -> AsyncIterator[bytes]:
    """Yield the frames of a part. Raise Damaged where it is not what was written, or is cut short."""
    waiting = bytearray()
    try:
        async for piece in _decompressed(_opened(pieces, name, key)):
            waiting += piece
            start = 0
            while start + LENGTH.size <= len(waiting):
                (size,) = LENGTH.unpack_from(waiting, start)
                if size > FRAME_MAX:
                    raise Damaged(f"{name} is damaged: it holds a frame of {size:,} bytes")
                if start + LENGTH.size + size > len(waiting):
                    break
                yield bytes(waiting[start + LENGTH.size : start + LENGTH.size + size])
                start += LENGTH.size + size
            del waiting[:start]
    except zlib.error as error:
        raise Damaged(f"{name} is damaged: {error}") from None
    if waiting:
        raise Damaged(f"{name} is damaged: it ends within a frame")


async def _decompressed(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31)
    async for piece in pieces:
        rest = piece
        while rest and not unpacker.eof:
            yield unpacker.decompress(rest, CHUNK * 4)
            rest = unpacker.unconsumed_tail
        if rest or unpacker.unused_data:
            raise zlib.error("something follows its end")
    if not unpacker.eof:
        raise zlib.error("it is cut short")


async def _opened(pieces: AsyncIterable[bytes], name: str, key: Key | None) -> AsyncIterator[bytes]:
    waiting, cipher, header, number = bytearray(), None, b"", 0
    async for piece in pieces:
        waiting += piece
        if not header:
            if len(waiting) < len(PLAIN) or (waiting.startswith(SEALED) and len(waiting) < len(SEALED) + SALT):
                continue
            header, cipher = _header(waiting, name, key)
            del waiting[: len(header)]
        if cipher is None:
            yield bytes(waiting)
            waiting.clear()
        while cipher and len(waiting) > CHUNK + TAG:
            yield _decrypted(cipher, _nonce(number, False), bytes(waiting[: CHUNK + TAG]), header, name)
            number += 1
            del waiting[: CHUNK + TAG]
    if not header:
        raise Damaged(f"{name} is damaged: it is too short")
    if cipher:
        yield _decrypted(cipher, _nonce(number, True), bytes(waiting), header, name)


def _header(start: bytearray, name: str, key: Key | None) -> tuple[bytes, Any]:
    if start.startswith(SEALED):
        if key is None:
            raise Invalid(f"{name} is encrypted: give the passphrase")
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        header = bytes(start[: len(SEALED) + SALT])
        return header, AESGCM(key.of_part(header[len(SEALED) :], name))
    if start.startswith(PLAIN) and key is None:
        return PLAIN, None
    raise Damaged(f"{name} is damaged: it does not begin as a part of a backup does" if key is None else
                  f"{name} is not encrypted, and the backup is: somebody has put it there")  # fmt: skip


def _decrypted(cipher: Any, nonce: bytes, chunk: bytes, header: bytes, name: str) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        plain: bytes = cipher.decrypt(nonce, chunk, header)
    except InvalidTag:
        raise Damaged(f"{name} was damaged or tampered with") from None
    return plain
