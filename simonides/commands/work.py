"""Workers: follow the log beside a server, see how far that is, and what could not be followed."""

from __future__ import annotations

import gc
from typing import Any

import click

from .. import shown, terminal, wire
from ..asked import SERVE, UPKEEP, Asked, Command, Group, command
from ..errors import Invalid, NotFound
from ..flags import serving_flags
from .remember import remark


@command(SERVE, "simonides worker\nsimonides worker --concurrency 4 --port 40025")
@click.option("--followers", default="vectors,sinks", show_default=True, metavar="A,B", help="What to do of it.")
@click.option("--concurrency", type=click.IntRange(1, 64), default=1, show_default=True, help="Batches at once.")
@click.option(
    "--tries", type=click.IntRange(1, 100), default=5, show_default=True, help="Before a change becomes a letter."
)
@click.option(
    "--lease-seconds", type=click.FloatRange(0.5, 3600), default=10.0, show_default=True,
    help="After how long without a heartbeat others take over.",
)  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="For probes and /metrics; 0, the default: none.")
@serving_flags("host", "log", "log_level", "drain_seconds")
def worker(
    asked: Asked, followers: str, concurrency: int, tries: int, lease_seconds: float, port: int, **flags: Any
) -> None:
    """Embed what others remember in the same store, until Ctrl+C; several workers share it.

    Servers leave it to workers with the setting `work = "elsewhere"`. A worker that dies is missed after
    --lease-seconds. Each takes as many cores as its embedder has threads: `--embedder local:?threads=1`.
    """
    names = tuple(name.strip() for name in followers.split(",") if name.strip())
    if not names:
        raise Invalid("--followers names nobody: leave it out, or write vectors")
    gc.disable()
    try:
        from ..servers import work
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"a worker needs {error.name}: install it with `pip install 'simonides[serve]'`"
        ) from None
    gc.enable()
    work.work(
        asked.settings, flags, port=port, tries=tries, followers=names, at_once=concurrency, taken_over_s=lease_seconds
    )


@command(UPKEEP, "simonides status\nsimonides status --json")
def status(asked: Asked) -> None:
    """Show how far each follower of the log is, which workers share it, and what waits."""
    from .. import config

    serving = config.serving()
    with asked.memory() as memory:
        found, (waiting, _) = memory.status(), memory.backlog()
    bound = {"waiting": waiting, "queue_max": serving.queue_max, "when_full": serving.when_full}
    if asked.json:
        terminal.say_json({**wire.status_as_json(found), **bound})
        return
    most = f" of at most {serving.queue_max:,} ({serving.when_full})" if serving.queue_max else ""
    terminal.show(shown.pairs({"log": f"{found.head:,} lines", "waiting": f"{waiting:,}{most}"}))
    if found.followers:
        terminal.show(shown.followers(found.followers))


@click.group(
    cls=Group, invoke_without_command=True, section=UPKEEP, example="simonides letters\nsimonides letters replay 812"
)
@click.pass_context
def letters(context: click.Context) -> int:
    """List what could not be followed; have it tried again, or throw it away."""
    return _list(context.obj, None, 100, 0) if context.invoked_subcommand is None else 0


@letters.command("list", cls=Command, example="simonides letters list --follower vectors/hashing/256/2")
@click.option("--follower", metavar="NAME", help="Only of this follower.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--after", type=click.IntRange(0), default=0, metavar="SEQ", help="Behind this line of the log.")
@click.pass_obj
def listed(asked: Asked, follower: str | None, limit: int, after: int) -> int:
    """List them in the order of the log."""
    return _list(asked, follower, limit, after)


def _list(asked: Asked, follower: str | None, limit: int, after: int) -> int:
    with asked.memory() as memory:
        found = memory.letters(follower, after=after, limit=limit)
    if asked.json:
        terminal.say_json([wire.letter_as_json(each) for each in found])
    elif found:
        terminal.show(shown.letters(found, asked.zone))
    else:
        remark(asked, "there are no letters: everything was followed")
    return 0 if found else 1


@letters.command("show", cls=Command, example="simonides letters show 812")
@click.argument("seq", type=click.IntRange(1))
@click.pass_obj
def show(asked: Asked, seq: int) -> None:
    """Show all there is about one line of the log."""
    with asked.memory() as memory:
        found = [each for each in memory.letters(after=seq - 1, limit=100) if each.change.seq == seq]
    if not found:
        raise NotFound(f"no letter about line {seq} of the log: see `simonides letters`")
    if asked.json:
        terminal.say_json([wire.letter_as_json(each) for each in found])
        return
    for each in found:
        terminal.show(shown.pairs({name: str(value) for name, value in wire.letter_as_json(each).items()}))


def _chosen(name: str, does: str, done: str, which: str) -> None:
    @letters.command(
        name, cls=Command, help=does, example=f"simonides letters {name} 812\nsimonides letters {name} --all"
    )
    @click.argument("seqs", type=click.IntRange(1), nargs=-1)
    @click.option("--all", "everything", is_flag=True, help="All there are.")
    @click.option("--follower", metavar="NAME", help="Only of this follower.")
    @click.pass_obj
    def run(asked: Asked, seqs: tuple[int, ...], everything: bool, follower: str | None) -> None:
        if bool(seqs) == everything:
            raise Invalid("name lines of the log, or say --all")
        with asked.memory() as memory:
            count: int = getattr(memory, which)(seqs or None, follower=follower)
        if asked.json:
            terminal.say_json({"count": count})
        else:
            remark(asked, f"{shown.count(count, 'letter')} {done}")


_chosen("replay", "Have them tried again; what fails again is a letter again.", "to be tried again", "replay_letters")
_chosen("drop", "Throw them away: what they are about is not followed.", "thrown away", "drop_letters")
