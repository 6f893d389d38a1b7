"""Organise: labels, folders, pins, and the archive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from .. import shown, terminal, wire
from ..asked import ORGANISE, Asked, Command, command, the_record, the_records
from ..errors import Invalid
from ..record import Record

OFF = "\0"  # put before -work while click looks at the arguments, who would take it for options


class Labelling(Command):
    """Takes -work as an argument, where other commands would see options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [f"{OFF}{arg}" if re.match(r"-[^-q]|-q.", arg) else arg for arg in args])


@command(ORGANISE, "simonides label 8a3f21c0 +travel -work", cls=Labelling)
@click.argument("id")
@click.argument("changes", nargs=-1, required=True, metavar="+NAME|-NAME...")
def label(asked: Asked, id: str, changes: tuple[str, ...]) -> None:
    """Put labels on a record (+travel), and take them off (-work)."""
    added, removed = _signed(changes)
    with asked.memory() as memory:
        old = the_record(memory, id, asked)
        labels = sorted({*old.labels, *added} - removed)
        record = memory.revise(old.id, labels=labels, **asked.whose)
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
    """Put a record into a folder, or take it out."""
    if (name is None) == (not out):
        raise Invalid(f"name one folder, or --none: simonides folder {id} work/bridge")
    with asked.memory() as memory:
        record = memory.revise(the_record(memory, id, asked).id, folder="" if out else name, **asked.whose)
    _organised(asked, [record], f"folder: {record.folder or 'none'}")


@command(ORGANISE, "simonides pin 8a3f21c0\nsimonides pin 8a3f21c0 5d1e --off")
@click.argument("ids", nargs=-1, required=True)
@click.option("--off", is_flag=True, help="Unpin.")
def pin(asked: Asked, ids: tuple[str, ...], off: bool) -> None:
    """Keep records at hand, or no longer."""
    _organised(asked, _revised(asked, ids, pinned=not off), "unpinned" if off else "pinned")


@command(ORGANISE, "simonides archive 8a3f21c0\nsimonides archive 8a3f21c0 --off")
@click.argument("ids", nargs=-1, required=True)
@click.option("--off", is_flag=True, help="Bring back.")
def archive(asked: Asked, ids: tuple[str, ...], off: bool) -> None:
    """Put records aside, to be found only with --archived."""
    _organised(asked, _revised(asked, ids, archived=not off), "active again" if off else "archived")


def _revised(asked: Asked, ids: Sequence[str], **changes: Any) -> list[Record]:
    with asked.memory() as memory:
        found = the_records(memory, ids, asked)
        return [memory.revise(record.id, **changes, **asked.whose) for record in found]


def _organised(asked: Asked, records: Sequence[Record], state: str) -> None:
    if asked.json:
        terminal.say_json([wire.as_json(record) for record in records])
    elif not asked.quiet:
        for record in records:
            terminal.show(shown.plain(f"{shown.short(record.id)} {state}"))
