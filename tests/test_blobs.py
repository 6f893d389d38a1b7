"""Every store of blobs passes the same suite; what each does beyond it."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from engines import S3

from simonides.blob import BlobStore
from simonides.blobs.folder import ABANDONED_S, FolderBlobs
from simonides.blobs.s3 import S3Blobs
from simonides.config import blob_url, open_backend
from simonides.errors import Invalid, NotFound, Unavailable
from simonides.testing.blobs import BlobSuite, MakeBlobs, got

MB = 1024 * 1024
BUCKETS = itertools.count()


@pytest.fixture
def bucket(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a new bucket, and what opens it in the environment."""
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    name = f"bucket-{os.getpid()}-{next(BUCKETS)}"
    boto3.client("s3", endpoint_url=s3.url, region_name="us-east-1").create_bucket(Bucket=name)
    yield f"s3://{name}/some/prefix?endpoint={s3.url}&region=us-east-1"


@pytest.fixture(params=["folder", "s3"])
def make_blobs(request: pytest.FixtureRequest, tmp_path: Path) -> MakeBlobs:
    url = str(tmp_path / "blobs") if request.param == "folder" else request.getfixturevalue("bucket")

    async def make() -> BlobStore:
        opened: BlobStore = open_backend("blobs", blob_url(url))
        return opened

    return make


@pytest.fixture
async def blobs(make_blobs: MakeBlobs) -> AsyncIterator[BlobStore]:
    opened = await make_blobs()
    yield opened
    await opened.close()


class TestBlobs(BlobSuite):
    pass


# -- a folder --------------------------------------------------------------------------------------------------------


async def test_only_its_owner_reads_a_file(tmp_path: Path) -> None:
    blobs = FolderBlobs(f"file://{tmp_path}/deep/blobs")
    await blobs.put("a/b", b"secret")
    path = tmp_path / "deep" / "blobs" / "a" / "b"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_what_a_writer_left_behind_when_it_died_goes_in_the_end(tmp_path: Path) -> None:
    blobs = FolderBlobs(f"file://{tmp_path}")
    for name, age in ((".old.1.partial", ABANDONED_S + 60), (".new.1.partial", 60.0)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    await blobs.put("a", b"a")
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".new.1.partial"}
    assert [blob.name for blob in await blobs.list()] == ["a"]


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("/mnt/backup", "folder:///mnt/backup"),
        ("file:///mnt/my%20backup", "folder:///mnt/my%20backup"),
        ("/mnt/50%/a b", "folder:///mnt/50%25/a%20b"),
        ("s3://bucket/a?region=b", "s3://bucket/a?region=b"),
    ],
)
def test_a_place_is_a_path_or_a_url(text: str, url: str) -> None:
    assert blob_url(text) == url


def test_a_place_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert blob_url("backups") == f"folder://{tmp_path}/backups"


def test_a_big_blob_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    def peak(megabytes: int) -> int:
        program = f"""
            import asyncio, resource
            from simonides.blobs.folder import FolderBlobs

            async def content():
                for _ in range({megabytes}):
                    yield bytes(1 << 20)

            async def main():
                blobs = FolderBlobs("file://{tmp_path}")
                await blobs.put("big", content())
                assert sum([len(piece) async for piece in blobs.get("big")]) == {megabytes} << 20

            asyncio.run(main())
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """
        ran = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
        )
        return int(ran.stdout) * (1 if sys.platform == "darwin" else 1024)

    assert peak(400) - peak(4) < 40 * MB


# -- S3 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://key:hidden@bucket/a",
        "s3://bucket/a?endpoint=http://example.com",
        "s3://bucket/a?endpoint=ftp://localhost",
        "s3://bucket/a?end=b",
        "s3://bucket/../a",
        "s3://bucket/a?access_key_file=/a",
    ],
)
def test_a_url_of_a_bucket_that_cannot_be(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        S3Blobs(url)
    assert "hidden" not in str(refused.value)


async def test_a_bucket_that_is_not_there(bucket: str) -> None:
    blobs = S3Blobs(bucket.replace("s3://", "s3://no-"))
    with pytest.raises((NotFound, Unavailable)):
        await blobs.put("a", b"a")


async def test_a_server_that_does_not_answer(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = S3Blobs("s3://bucket/a?endpoint=http://127.0.0.1:9&region=us-east-1")
    monkeypatch.setattr(blobs, "_store", _impatient(blobs))
    with pytest.raises(Unavailable):
        await blobs.put("a", b"a")


def _impatient(blobs: S3Blobs) -> object:
    from obstore.store import S3Store

    return S3Store(
        "bucket",
        endpoint="http://127.0.0.1:9",
        region="us-east-1",
        access_key_id="a",
        secret_access_key="b",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("id", "key"):
        (tmp_path / name).write_text("testing\n")
    return f"&access_key_file={tmp_path}/id&secret_key_file={tmp_path}/key"


def _profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = testing\naws_secret_access_key = testing\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    return ""


@pytest.mark.parametrize("given", [_files, _profile])
async def test_credentials_from_files(
    bucket: str,
    given: Callable[[Path, pytest.MonkeyPatch], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    blobs = S3Blobs(bucket + given(tmp_path, monkeypatch))
    await blobs.put("a", b"a")
    assert await got(blobs, "a") == b"a"
