"""Blobs in a bucket of S3, or of what speaks its protocol: `s3://bucket/prefix`.

`?endpoint=https://…` names a server other than Amazon's (plain http on this machine alone), `?region=…` the region.
Credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or what containers
and instances are given), from `~/.aws/credentials` (AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE), or from files that the
URL names: `?access_key_file=/run/secrets/id&secret_key_file=/run/secrets/key`. They never stand in the URL.
"""

from __future__ import annotations

import configparser
import contextlib
import ipaddress
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..blob import PIECE, Blob, Content, Seen, check_name, watched
from ..errors import Invalid, NotFound, SimonidesError, Unavailable

OPTIONS = ("endpoint", "region", "access_key_file", "secret_key_file")
PART = 8 << 20  # bytes of a part of an upload; S3 takes 10,000 of them
PARTS_AT_ONCE = 3
CLIENT: dict[str, Any] = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "24h"}


class S3Blobs:
    def __init__(self, url: str) -> None:
        try:
            import obstore
            from obstore.store import S3Store
        except ModuleNotFoundError as error:
            raise Unavailable(f"s3: needs {error.name}: pip install 'simonides[s3]'") from None
        bucket, prefix, given = _parsed(url)
        self._s3, self._where = obstore, f"s3://{bucket}/{prefix}".rstrip("/")
        endpoint = given.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        more: dict[str, Any] = dict(_credentials(given))
        if endpoint:
            more["endpoint"] = _safe(endpoint)
        if region := given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
            more["region"] = region
        client = {**CLIENT, "allow_http": bool(endpoint and endpoint.startswith("http:"))}
        with self._translated():
            self._store = S3Store(bucket, prefix=prefix or None, client_options=client, **more)  # type: ignore[arg-type]

    async def put(self, name: str, content: Content, *, digest: str | None = None) -> Blob:
        check_name(name)
        seen = Seen()
        pieces = watched(content, seen, name, digest)
        with self._translated(name):
            if isinstance(content, bytes) and len(content) <= PART:
                whole = b"".join([piece async for piece in pieces])
                await self._s3.put_async(self._store, name, whole, use_multipart=False)
            else:
                await self._put_parts(name, pieces)
        return Blob(name, seen.size, seen.digest)

    async def _put_parts(self, name: str, pieces: AsyncIterator[bytes]) -> None:
        """Upload in parts; an error of the content's own is raised as it is, and gives the upload up."""
        failed: list[BaseException] = []

        async def passed() -> AsyncIterator[bytes]:
            try:
                async for piece in pieces:
                    if piece:
                        yield piece
            except BaseException as error:
                failed.append(error)
                raise

        try:
            await self._s3.put_async(self._store, name, passed(), chunk_size=PART, max_concurrency=PARTS_AT_ONCE)
        except BaseException as error:
            raise (failed[0] if failed else error) from None

    async def get(self, name: str, *, digest: str | None = None) -> AsyncIterator[bytes]:
        check_name(name)
        seen = Seen()
        with self._translated(name):
            found = await self._s3.get_async(self._store, name)
            async for piece in found.stream(PIECE):
                seen.take(said := bytes(piece))
                yield said
        seen.check(name, digest)

    async def size(self, name: str) -> int | None:
        check_name(name)
        try:
            with self._translated(name):
                return int((await self._s3.head_async(self._store, name))["size"])
        except NotFound:
            return None

    async def list(self, folder: str = "", *, after: str = "", limit: int = 1000) -> list[Blob]:
        found = list[Blob]()
        where = check_name(folder) if folder else None
        with self._translated():
            pages = self._s3.list(self._store, where, offset=after or None, chunk_size=min(limit, 1000))
            async for page in pages:
                found += [Blob(each["path"], each["size"]) for each in page]
                if len(found) >= limit:
                    break
        return found[:limit]

    async def delete(self, name: str) -> bool:
        there = await self.size(name) is not None
        with self._translated(name):
            await self._s3.delete_async(self._store, name)
        return there

    async def close(self) -> None:
        pass

    @contextlib.contextmanager
    def _translated(self, name: str = "") -> Iterator[None]:
        """Say in our words what the server, or the way to it, refused."""
        from obstore import exceptions

        about = f"{self._where}/{name}".rstrip("/")
        try:
            yield
        except SimonidesError:
            raise
        except (exceptions.NotFoundError, FileNotFoundError):
            raise NotFound(f"there is no {about}, or no such bucket") from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError):
            raise Unavailable(f"{about} is refused to these credentials") from None
        except exceptions.BaseError as error:
            raise Unavailable(f"{about}: {str(error).splitlines()[0][:300]}") from error


def _parsed(url: str) -> tuple[str, str, Mapping[str, str]]:
    """Return bucket, prefix and options."""
    split = urlsplit(url)
    if split.username is not None or split.password is not None:
        raise Invalid("the URL of a bucket holds no credentials: put them into the environment, or into files")
    given = parse_qs(split.query, keep_blank_values=True)
    if unknown := sorted(given.keys() - set(OPTIONS)):
        raise Invalid(f"an s3: URL has no option {unknown[0]!r}; there are: {', '.join(OPTIONS)}")
    if not split.netloc:
        raise Invalid(f"{url!r} names no bucket: write s3://bucket/prefix")
    prefix = split.path.strip("/")
    return split.netloc, check_name(prefix) if prefix else "", {name: values[-1] for name, values in given.items()}


def _safe(endpoint: str) -> str:
    """Return the endpoint; what is not encrypted may go to this machine alone."""
    split = urlsplit(endpoint)
    if split.scheme not in ("http", "https") or not split.hostname:
        raise Invalid(f"{endpoint!r} is no endpoint: write https://host or https://host:port")
    if split.scheme == "http" and not _is_here(split.hostname):
        raise Invalid(f"{endpoint}: beyond this machine only https is spoken")
    return endpoint


def _is_here(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _credentials(given: Mapping[str, str]) -> dict[str, str]:
    """Return the credentials from files; where there are none, those of the environment are found by the client."""
    files = given.get("access_key_file"), given.get("secret_key_file")
    if all(files):
        return {"access_key_id": _held(files[0]), "secret_access_key": _held(files[1])}
    if any(files):
        raise Invalid("name both access_key_file and secret_key_file, or neither")
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    shared = configparser.RawConfigParser()
    path = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path("~/.aws/credentials").expanduser()
    with contextlib.suppress(OSError, configparser.Error):
        shared.read(path, "utf-8")
    profile = os.environ.get("AWS_PROFILE", "default")
    if not shared.has_section(profile):
        return {}
    names = {"aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key",
             "aws_session_token": "session_token"}  # fmt: skip
    return {ours: shared[profile][theirs] for theirs, ours in names.items() if theirs in shared[profile]}


def _held(path: str | None) -> str:
    try:
        return Path(path or "").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"cannot read {path}: {error}") from error


open = S3Blobs
