"""Organise: labels, folders, pins, and the archive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from .. import shown, terminal, wire
from ..asked import ORGANISE, Asked, Command, command, limit, the_record, the_records, which
from ..errors import Invalid
from ..pruning import IMPORTANT, KINDS, LIMIT, Proposal
from ..record import Record

STAYED = 1  # the exit status where nothing was archived
DAYS_IN = {"d": 1, "w": 7, "m": 30, "y": 365}
OFF = "\0"  # put before -work while click looks at the arguments, who would take it for options


class Age(click.ParamType):  # type: ignore[type-arg]
    """How long ago: 30d, 12w, 6m (of 30 days), 1y; a number alone is days."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d{1,5})([dwmy]?)", str(value))
        if not found:
            self.fail(f"{value!r} is no age: write 30d, 12w, 6m or 1y", param, ctx)
        return float(found[1]) * DAYS_IN[found[2] or "d"]


AGE = Age()


class Labelling(Command):
    """Takes -work as an argument, where other commands would see options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [f"{OFF}{arg}" if re.match(r"-[^-q]|-q.", arg) else arg for arg in args])


@command(ORGANISE, "simonides label 8a3f21c0 +travel -work", cls=Labelling)
@click.argument("id")
@click.argument("changes", nargs=-1, required=True, metavar="+NAME|-NAME...")
def label(asked: Asked, id: str, changes: tuple[str, ...]) -> None:
    """Put labels on a record (+travel), and take them off (-work).

    What is part of it, as the messages of a conversation are, bears the same labels from then on.
    """
    added, removed = _signed(changes)
    with asked.memory() as memory:
        old = the_record(memory, id, asked)
        labels = sorted({*old.labels, *added} - removed)
        record, *_ = memory.organise(old.id, labels=labels, **asked.whose)
    _organised(asked, [record], f"labels: {', '.join(record.labels) or 'none'}")


def _signed(changes: Sequence[str]) -> tuple[set[str], set[str]]:
    plain = [change.removeprefix(OFF) for change in changes]
    if wrong := [change for change in plain if change[:1] not in ("+", "-") or len(change) < 2]:
        raise Invalid(f"{wrong[0]!r} must begin with + or -: +travel puts a label on, -travel takes it off")
    return {change[1:] for change in plain if change[0] == "+"}, {change[1:] for change in plain if change[0] == "-"}


@command(ORGANISE, "simonides folder 8a3f21c0 work/bridge\nsimonides folder 8a3f21c0 --none")
@click.argument("id")
@click.argument("name", required=False)
@click.option("--none", "out", is_flag=True, help="Take it out of its folder.")
def folder(asked: Asked, id: str, name: str | None, out: bool) -> None:
    """Put a record into a folder with all that is part of it, or take it out."""
    if (name is None) == (not out):
        raise Invalid(f"name one folder, or --none: simonides folder {id} work/bridge")
    with asked.memory() as memory:
        record, *_ = memory.organise(the_record(memory, id, asked).id, folder="" if out else name, **asked.whose)
    _organised(asked, [record], f"folder: {record.folder or 'none'}")


@command(ORGANISE, "simonides pin 8a3f21c0\nsimonides pin 8a3f21c0 5d1e --off")
@click.argument("ids", nargs=-1, required=True)
@click.option("--off", is_flag=True, help="Unpin.")
def pin(asked: Asked, ids: tuple[str, ...], off: bool) -> None:
    """Keep records at hand, or no longer.

    Of a conversation it is pinned alone, and not all that was said in it.
    """
    with asked.memory() as memory:
        found = the_records(memory, ids, asked)
        pinned = [memory.revise(record.id, pinned=not off, **asked.whose) for record in found]
    _organised(asked, pinned, "unpinned" if off else "pinned")


@command(ORGANISE, "simonides archive 8a3f21c0\nsimonides archive 8a3f21c0 --off")
@click.argument("ids", nargs=-1, required=True)
@click.option("--off", is_flag=True, help="Bring back.")
def archive(asked: Asked, ids: tuple[str, ...], off: bool) -> None:
    """Put records aside with all that is part of them, to be found only with --archived."""
    with asked.memory() as memory:
        found = [record.id for record in the_records(memory, ids, asked)]
        if off:
            wholes = [memory.organise(id, archived=False, **asked.whose)[0] for id in found]
        else:
            wholes = [record for record in memory.archive(found, **asked.whose) if record.id in found]
    _organised(asked, wholes, "active again" if off else "archived")


@command(
    ORGANISE,
    "simonides prune\n"
    "simonides prune --older-than 90d --importance-max 3 --label draft\n"
    "simonides prune --dry-run --json",
)
@click.option("--older-than", "days", type=AGE, default="30d", show_default=True, metavar="AGE",
              help="Nothing said or recalled for so long: 30d, 12w, 1y.")  # fmt: skip
@click.option("--importance-max", "importance", type=float, default=IMPORTANT, show_default=True, metavar="1..10",
              help="At most so important.")  # fmt: skip
@click.option("--kind", "kinds", multiple=True, type=click.Choice(sorted(KINDS)), help="Only these kinds.")
@click.option("--label", "labels", multiple=True, metavar="NAME", help="Only what bears this label.")
@click.option("--folder", metavar="PATH", help="Only what is in this folder or below it.")
@limit(LIMIT)
@click.option("--dry-run", is_flag=True, help="Only show what is proposed; never asks.")
@click.option("--yes", is_flag=True, help="Archive without asking.")
def prune(asked: Asked, days: float, importance: float, limit: int, dry_run: bool, yes: bool, **filters: Any) -> int:
    """Archive what is out of use: shows what and why, and asks.

    Proposed is what was neither said nor recalled for long and matters little, says the same as something else, or was
    superseded; nothing pinned. Nothing is lost: `simonides archive ID --off` brings it back.
    """
    with asked.memory() as memory:
        found = memory.propose(
            threshold_days=days, importance_threshold=importance, limit=limit, **which(asked, filters)
        )  # fmt: skip
        if found and not (dry_run or yes or terminal.can_ask()):
            raise Invalid(
                "nothing was archived, for there is no terminal to ask on: add --yes, or look first with --dry-run"
            )
        wanted = bool(found) and (yes or _wanted(asked, found, dry_run))
        if wanted:
            memory.archive([each.id for each in found], **asked.whose)
    if asked.json and (dry_run or wanted or not found):
        terminal.say_json({"archived": wanted, "results": [wire.proposal_as_json(each) for each in found]})
    elif not found:
        terminal.tell("simonides: nothing is out of use: nothing would be archived")
    elif wanted and asked.quiet:
        terminal.say("\n".join(each.id for each in found))
    elif wanted:
        ids = " ".join(shown.short(each.id) for each in found)
        terminal.show(
            shown.plain(f"Archived {shown.count(len(found), 'record')}. To bring back: simonides archive --off {ids}")
        )
    return 0 if wanted or (dry_run and found) else STAYED


def _wanted(asked: Asked, found: Sequence[Proposal], dry_run: bool) -> bool:
    """Show what would be archived, and ask unless it is only to be shown."""
    if dry_run:
        if not asked.json:
            terminal.show(*shown.proposed(found, asked.zone))
        return False
    terminal.show_beside(*shown.proposed(found, asked.zone))
    if terminal.confirmed("Archive these?"):
        return True
    terminal.tell("simonides: nothing was archived")
    return False


def _organised(asked: Asked, records: Sequence[Record], state: str) -> None:
    if asked.json:
        terminal.say_json([wire.as_json(record) for record in records])
    elif not asked.quiet:
        for record in records:
            terminal.show(shown.plain(f"{shown.short(record.id)} {state}"))
