"""Copies of a whole memory: backups, and moves to another store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import shown, terminal
from ..asked import UPKEEP, Asked, Group, command
from ..config import blob_url, keys_url, open_backend, serving, store_url
from ..errors import Invalid, NotFound, Unavailable
from ..serving import hide
from .remember import remark

if TYPE_CHECKING:
    from ..backup import Ask, Backup
    from ..blob import BlobStore
    from ..directory import Directory
    from ..store import Store
    from ..whole import Progress, Sums

T = TypeVar("T")

NONE, DAMAGED, DIFFERENT = 1, 6, 1  # exit statuses
PASSPHRASE = "SIMONIDES_BACKUP_PASSPHRASE"


@click.group(
    cls=Group,
    section=UPKEEP,
    example="simonides backup create /mnt/backup\nsimonides backup restore /mnt/backup --into new.db",
)
def backup() -> None:
    """Make, list, verify, restore and prune backups, in a folder or in S3.

    A backup holds everything that is remembered, of all tenants, with its history. Each one adds what is new since the
    one before. Encrypted ones take a passphrase: from SIMONIDES_BACKUP_PASSPHRASE, from the file that
    SIMONIDES_BACKUP_PASSPHRASE_FILE or --passphrase-file names, or asked for.
    """


def _passphrase(function: Callable[..., Any]) -> Callable[..., Any]:
    path = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.option("--passphrase-file", type=path, metavar="PATH", help="The file that holds the passphrase.")(
        function
    )


def _which(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--backup", "id", metavar="ID", help="Which one, by its id or the end of it; default: the last."
    )(function)


@backup.command(
    "create",
    example="simonides backup create /mnt/backup\n"
    "simonides backup create 's3://bucket/memory?region=eu-west-1' --encrypt\n"
    "simonides backup create /mnt/backup --store postgresql://host/memory",
)
@click.argument("place")
@click.option("--encrypt", is_flag=True, help="Ask for a passphrase to encrypt with, if none is given otherwise.")
@click.option("--without-vectors", is_flag=True, help="Leave out the vectors: they can be made again, at a cost.")
@click.option("--full", is_flag=True, help="Write everything anew, and go on from no backup before.")
@click.option("--with-keys", is_flag=True, help="Take the keys to the server along: what is kept of their secrets.")
@click.option("--dry-run", is_flag=True, help="Say what it would do, and write nothing.")
@_passphrase
@click.pass_obj
def create(
    asked: Asked,
    place: str,
    encrypt: bool,
    without_vectors: bool,
    full: bool,
    with_keys: bool,
    dry_run: bool,
    passphrase_file: Path | None,
) -> None:
    """Back the memory up to PLACE: a folder, or s3://bucket/prefix.

    What was erased since the last backup here is taken out of the backups before, too.
    """
    from .. import backup as backups

    url = store_url(asked.settings.store_url)
    _is_there(url)
    directory = keys_url(url, serving().directory) if with_keys else ""
    if not _there(directory):
        raise NotFound(f"there are no keys at {hide(directory)}: leave --with-keys out")

    async def work(progress: Progress) -> Mapping[str, Any]:
        async with _blobs(place) as blobs, _store(url) as store, _keys(directory) as keys:
            inside = await backups.enter(blobs, _ask(passphrase_file, encrypt))
            if dry_run:
                base, lines, erases = await backups.planned(store, inside, full=full)
                return {"base": base and base.id, "lines": lines, "erased": erases}
            made = await backups.create(
                store, inside, vectors=not without_vectors, full=full, keys=keys, progress=progress
            )
            return {**_as_json(made.backup), "rewritten": made.rewritten}

    with terminal.counting("Backing up", asked.quiet) as progress:
        made = asyncio.run(work(progress))
    if asked.json:
        terminal.say_json(made)
    elif dry_run:
        base = f"what is new since {made['base']}" if made["base"] else "everything"
        lines = shown.count(made["lines"], "line")
        terminal.say(f"would write {base}: {lines} of the log; records erased since: {made['erased']}")
    else:
        keys = f"{shown.count(made['keys'], 'key')}, " if with_keys else ""
        held = f"{shown.count(made['versions'], 'version')}, {keys}{_size(made['added'])} added"
        terminal.say(f"backup {made['id']}: {held}")
        if made["rewritten"]:
            remark(asked, f"{shown.count(made['rewritten'], 'earlier part')} written anew without what was erased")


@backup.command("list", example="simonides backup list /mnt/backup\nsimonides backup list s3://bucket/memory --json")
@click.argument("place")
@click.pass_obj
def list_(asked: Asked, place: str) -> int:
    """List the backups in PLACE: when, how much, and what each goes on from."""
    from .. import backup as backups

    async def work() -> list[Backup]:
        async with _blobs(place) as blobs:
            return (await backups.look(blobs)).backups

    found = asyncio.run(work())
    if asked.json:
        terminal.say_json([_as_json(each) for each in found])
    elif found:
        made = shown.table("Id", "Made", "Records", "Size", "Added", "After")
        for each in found:
            row = (
                shown.short(each.id),
                shown.when(each.at, asked.zone),
                f"{each.counts['records']:,}",
            )
            goes_on = shown.short(each.base) if each.base else "none"
            made.add_row(*row, _size(each.size), _size(each.added), f"{goes_on}{', encrypted' if each.key else ''}")
        terminal.show(made)
    else:
        remark(asked, "there is no backup here: `simonides backup create` makes one")
    return 0 if found else NONE


@backup.command(
    "verify", example="simonides backup verify /mnt/backup\nsimonides backup verify /mnt/backup --backup 3f2a"
)
@click.argument("place")
@_which
@_passphrase
@click.pass_obj
def verify(asked: Asked, place: str, id: str | None, passphrase_file: Path | None) -> int:
    """Read all of a backup, and say whether it could be restored; the exit status is 6 if not."""
    from .. import backup as backups

    async def work(progress: Progress) -> backups.Verified:
        async with _blobs(place) as blobs:
            inside = await backups.enter(blobs, _ask(passphrase_file))
            return await backups.verify(inside, inside.get(id), progress)

    with terminal.counting("Reading", asked.quiet) as progress:
        found = asyncio.run(work(progress))
    if asked.json:
        terminal.say_json({**_as_json(found.backup), **found.counts, "complaints": list(found.complaints)})
    else:
        for complaint in found.complaints:
            terminal.tell(complaint)
        if not found.complaints:
            terminal.say(
                f"backup {found.backup.id} is whole: {shown.count(found.counts['versions'], 'version')}, "
                f"{shown.count(found.counts['embeddings'], 'version')} with vectors, {_size(found.backup.size)}"
            )
    return DAMAGED if found.complaints else 0


@backup.command(
    "restore",
    example="simonides backup restore /mnt/backup --into new.db\n"
    "simonides backup restore s3://bucket/memory --into postgresql://host/memory",
)
@click.argument("place")
@click.option("--into", metavar="URL|PATH", help="The store to write to, which must be empty; default: --store.")
@_which
@click.option("--with-keys", is_flag=True, help="Write the keys that are in it, too, to where those of the store are.")
@click.option("--dry-run", is_flag=True, help="Read and check the backup, and write nothing.")
@_passphrase
@click.pass_obj
def restore(
    asked: Asked,
    place: str,
    into: str | None,
    id: str | None,
    with_keys: bool,
    dry_run: bool,
    passphrase_file: Path | None,
) -> int:
    """Write a backup into an empty store, of whatever kind: ids, versions, clocks, the log and vectors as they were.

    What a later backup in the same place knows to be erased is left out. If it was cut off, the same call goes on.
    """
    from .. import backup as backups

    url = store_url(into or asked.settings.store_url)
    directory, opened = keys_url(url, serving().directory) if with_keys else "", 0

    async def work(progress: Progress) -> backups.Restored | backups.Verified:
        nonlocal opened
        async with _blobs(place) as blobs:
            inside = await backups.enter(blobs, _ask(passphrase_file))
            chosen = inside.get(id)
            if dry_run:
                return await backups.verify(inside, chosen, progress)
            if with_keys and not chosen.of(backups.KEYS):
                raise NotFound(f"backup {chosen.id} was made without the keys: leave --with-keys out")
            async with _store(url) as store:
                done = await backups.restore(inside, chosen, store, progress)
            async with _keys(directory) as keys:
                opened = await backups.restore_keys(inside, chosen, keys) if keys else 0
            return done

    with terminal.counting("Restoring", asked.quiet) as progress:
        done = asyncio.run(work(progress))
    if isinstance(done, backups.Verified):
        for complaint in done.complaints:
            terminal.tell(complaint)
        if asked.json:
            terminal.say_json({"backup": done.backup.id, **done.counts, "complaints": list(done.complaints)})
        elif not done.complaints:
            terminal.say(f"would restore {shown.count(done.counts['versions'], 'version')} into {hide(url)}")
        return DAMAGED if done.complaints else 0
    told = {"lines": done.lines, "versions": done.versions, "embeddings": done.embeddings, "left_out": done.erased}
    told |= {"keys": opened}
    if asked.json:
        terminal.say_json({"backup": done.backup.id, "into": hide(url), **told})
    else:
        terminal.say(f"{shown.count(done.versions, 'version')} restored into {terminal.safe(hide(url))}")
        if with_keys:
            terminal.say(f"{shown.count(opened, 'key')} restored into {terminal.safe(hide(directory))}")
        if done.erased:
            remark(asked, f"{shown.count(done.erased, 'record')} left out, as erased since the backup was made")
    return 0


@backup.command(
    "prune",
    example="simonides backup prune /mnt/backup --keep 7 --dry-run\n"
    "simonides backup prune s3://bucket/memory --keep 7 --keep-days 30",
)
@click.argument("place")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="The last N backups of each memory stay.")
@click.option("--keep-days", type=click.FloatRange(0), metavar="N", help="Those made in the last N days stay.")
@click.option("--dry-run", is_flag=True, help="Say which would go, and remove nothing.")
@_passphrase
@click.pass_obj
def prune(
    asked: Asked, place: str, keep: int | None, keep_days: float | None, dry_run: bool, passphrase_file: Path | None
) -> None:
    """Remove older backups in PLACE: those that neither --keep nor --keep-days spares.

    The last backup of each memory always stays, and so does everything that one which stays is made of.
    """
    from .. import backup as backups

    async def work() -> backups.Pruned:
        async with _blobs(place) as blobs:
            inside = await backups.enter(blobs, _ask(passphrase_file))
            if dry_run:
                return backups.spared(inside, keep=keep, keep_days=keep_days)
            return await backups.prune(inside, keep=keep, keep_days=keep_days)

    found = asyncio.run(work())
    if asked.json:
        ids = {"kept": [each.id for each in found.kept], "removed": [each.id for each in found.gone]}
        terminal.say_json({**ids, "freed": found.size, "dry_run": dry_run})
        return
    would = "would be removed" if dry_run else "removed"
    for each in found.gone:
        terminal.say(f"{shown.short(each.id)} of {shown.when(each.at, asked.zone)} {would}")
    freed = f"; {_size(found.size)} {'would be ' if dry_run else ''}freed" if found.gone else ""
    what = f"{shown.count(len(found.gone), 'backup')} {would}" if found.gone else "nothing to remove"
    terminal.say(f"{what}, {len(found.kept)} {'stay' if len(found.kept) > 1 else 'stays'}{freed}")


@command(
    UPKEEP,
    "simonides move memory.db postgresql://host/memory\n"
    "simonides move memory.db copy.db --dry-run\n"
    "simonides move memory.db copy.db --verify",
)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--dry-run", is_flag=True, help="Say what is left to copy, and write nothing.")
@click.option("--verify", is_flag=True, help="Only compare the two.")
def move(asked: Asked, source: str, target: str, dry_run: bool, verify: bool) -> int:
    """Copy a whole memory into another store, while it is in use, and prove both equal.

    Everything goes along: all tenants, every version, both clocks, the log, erases, vectors, recalls. TO must be empty,
    or be what an earlier move from FROM has begun: then it goes on, and catches up. Nothing is removed from FROM. The
    exit status is 1 where the two differ, or both are empty.
    """
    from .. import move as moves

    urls = store_url(source), store_url(target)
    for url in urls[: 2 if verify else 1]:
        _is_there(url)
    if dry_run and not _there(urls[1]):
        urls = urls[0], "memory:"  # to look whether it is empty must not make it

    async def work(progress: Progress) -> Mapping[str, Any]:
        async with _store(urls[0]) as one, _store(urls[1]) as other:
            if dry_run:
                plan = await moves.plan(one, other)
                return {"lines": plan.lines, "there": plan.there}
            if verify:
                return _compared(*await moves.compare(one, other, progress))
            moved = await moves.move(one, other, progress)
            told = {"lines": moved.lines, "versions": moved.versions, "embeddings": moved.embeddings}
            return {**told, "rounds": moved.rounds, "behind": moved.behind, **_compared(moved.source, moved.target)}

    with terminal.counting("Comparing" if verify else "Copying", asked.quiet) as progress:
        done = asyncio.run(work(progress))
    if asked.json:
        terminal.say_json(done)
    elif dry_run:
        terminal.say(f"would copy {shown.count(done['lines'], 'line')} of the log; {done['there']:,} are there already")
    else:
        _tell(asked, done)
    return 0 if dry_run or (done["equal"] and not done["empty"]) else DIFFERENT


def _compared(one: Sums, other: Sums) -> dict[str, Any]:
    from ..move import differing

    sides = {"from": one, "to": other}
    return {
        "equal": one == other,
        "empty": not one.head and not other.head,
        "differing": [f"{scope.tenant}/{scope.space}" for scope in differing((one, other))],
        **{
            name: {
                "checksum": sums.digest,
                "head": sums.head,
                "realms": [
                    {"tenant": realm.tenant, "space": realm.space, "checksum": realm.digest, **realm.counts}
                    for realm in sums.realms
                ],
            }
            for name, sums in sides.items()
        },
    }


def _tell(asked: Asked, done: Mapping[str, Any]) -> None:
    made = shown.table("", "Tenant", "Space", "Versions", "Log", "With vectors", "Checksum")
    for name in ("from", "to"):
        for realm in done[name]["realms"]:
            counts = (f"{realm.get(what, 0):,}" for what in ("versions", "changes", "embeddings"))
            made.add_row(
                name, terminal.line(realm["tenant"]), terminal.line(realm["space"]), *counts, realm["checksum"]
            )
    terminal.show(made)
    if done["empty"]:
        terminal.say("both are empty: there was nothing to copy or to compare. Are these the stores that you mean?")
    elif done["equal"]:
        terminal.say(f"both are equal: {done['from']['checksum']}")
    else:
        terminal.say(f"they differ: {', '.join(map(terminal.line, done['differing'])) or 'in the places of followers'}")
    if done.get("behind"):
        remark(asked, f"{shown.count(done['behind'], 'line')} written meanwhile: the same call catches up")


# -- opening -----------------------------------------------------------------------------------------------------


def _there(url: str) -> bool:
    scheme, _, path = url.partition(":///")
    return scheme != "sqlite" or path == ":memory:" or Path(path.partition("?")[0]).expanduser().exists()


def _is_there(url: str) -> None:
    if not _there(url):
        raise NotFound(f"there is no memory at {url.partition(':///')[2]}")


@asynccontextmanager
async def _store(url: str) -> AsyncIterator[Store]:
    store: Store = await asyncio.to_thread(open_backend, "stores", url)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _keys(url: str) -> AsyncIterator[Directory | None]:
    """Yield the directory of that URL; None where it is empty."""
    opened: Directory | None = await asyncio.to_thread(open_backend, "directories", url) if url else None
    try:
        yield opened
    finally:
        if opened:
            await opened.close()


@asynccontextmanager
async def _blobs(place: str) -> AsyncIterator[BlobStore]:
    blobs: BlobStore = open_backend("blobs", blob_url(place))
    try:
        yield blobs
    finally:
        await blobs.close()


def _ask(path: Path | None, new: bool = False) -> Ask:
    """Return what gives the passphrase: from the file, the environment, or who sits at the terminal."""

    def ask(encrypted: bool) -> str | None:
        if given := _given(path):
            return given
        if not encrypted and not new:
            return None
        if not terminal.can_ask():
            raise Invalid(f"give the passphrase in {PASSPHRASE}, or a file that holds it with --passphrase-file")
        return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=not encrypted, err=True))

    return ask


def _given(path: Path | None) -> str | None:
    file = path or os.environ.get(f"{PASSPHRASE}_FILE")
    if file:
        try:
            return Path(file).read_text("utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"cannot read {file}: {error}") from error
    return os.environ.get(PASSPHRASE)


def _as_json(backup: Backup) -> dict[str, Any]:
    return {
        "id": backup.id,
        "at": backup.at.isoformat(),
        "store": backup.store,
        "head": backup.head,
        "base": backup.base,
        **backup.counts,
        "size": backup.size,
        "added": backup.added,
        "vectors": backup.vectors,
        "encrypted": backup.key is not None,
    }


def _size(count: int) -> str:
    size, unit = count / 1000, "kB"
    for larger in ("MB", "GB"):
        if size >= 1000:
            size, unit = size / 1000, larger
    return f"{size:,.1f} {unit}"
