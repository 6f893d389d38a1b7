"""Correct and forget: new versions, what is true instead, what never was, and what must go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .. import shown, terminal, wire
from ..asked import (
    CORRECT,
    PAIR,
    Asked,
    LocalTime,
    command,
    matching,
    text_given,
    the_record,
    the_records,
    time_option,
    which,
)
from ..errors import Invalid
from ..record import Record

if TYPE_CHECKING:
    from ..forgetting import Preview
    from ..sync import Memory

STAYED = 1  # the exit status where nothing was erased


@command(CORRECT, "simonides history 8a3f21c0")
@click.argument("id")
def history(asked: Asked, id: str) -> None:
    """Show every version of a record, the first one first."""
    with asked.memory() as memory:
        found = memory.history(the_record(memory, id, asked).id, **asked.whose)
    if asked.json:
        terminal.say_json([wire.as_json(record) for record in found])
    else:
        terminal.show(shown.versions(found, asked.zone))


@command(
    CORRECT,
    'simonides revise 8a3f21c0 "The spare key is with Ana Lopes"\n'
    "simonides revise 8a3f21c0 --importance 9 --metadata room=2\n"
    "simonides revise 8a3f21c0 - < corrected.txt",
)
@click.argument("id")
@click.argument("text", nargs=-1)
@click.option("--importance", type=int, metavar="1..10", help="How much it matters.")
@click.option("--metadata", type=PAIR, multiple=True, help="Added to what is there.")
@time_option("--at", "When it was said, or began to be true.")
@time_option("--ends", "When it stops being true.")
@click.option("--if-version", "version", type=int, metavar="N", help="Only if this is the latest version.")
def revise(asked: Asked, id: str, text: tuple[str, ...], metadata: tuple[tuple[str, Any], ...], **given: Any) -> None:
    """Write the next version of a record.

    What is not named stays. For what was put badly or wrongly. For what has changed in the world, see `supersede`.
    """
    given |= {name: LocalTime.placed(given[name], asked.zone) for name in ("at", "ends")}
    content = text_given(text) if text else None
    if content is None and not metadata and all(value is None for name, value in given.items() if name != "version"):
        raise Invalid("there is nothing to change: give a new text, or one of the options")
    with asked.memory() as memory:
        old = the_record(memory, id, asked)
        merged = {**old.metadata, **dict(metadata)} if metadata else None
        new = memory.revise(old.id, text=content, metadata=merged, **given, **asked.whose)
    _changed(asked, new, f"Version {new.version} of {shown.short(new.id)} is kept.")


@command(
    CORRECT,
    'simonides supersede 8a3f21c0 "The spare key is with Rui"\n'
    'simonides supersede 8a3f21c0 "I live in Porto" --at 2026-09-12',
)
@click.argument("id")
@click.argument("text", nargs=-1)
@time_option("--at", "Since when; default: now.")
def supersede(asked: Asked, id: str, text: tuple[str, ...], at: Any) -> None:
    """Keep what is true instead, from now on.

    The old one stays the answer to what was true before.
    """
    content = text_given(text)
    if content is None:
        raise Invalid(f'say what is true instead: simonides supersede {id} "…"')
    with asked.memory() as memory:
        old = the_record(memory, id, asked)
        new = memory.supersede(old.id, content, at=LocalTime.placed(at, asked.zone), **asked.whose)
    _changed(asked, new, f"{shown.short(new.id)} is true instead of {shown.short(old.id)}.")


@command(CORRECT, "simonides retract 8a3f21c0")
@click.argument("id")
def retract(asked: Asked, id: str) -> None:
    """Say that a record was never true.

    It is not found again, but its history stays.
    """
    with asked.memory() as memory:
        record = memory.retract(the_record(memory, id, asked).id, **asked.whose)
    _changed(asked, record, f"Retracted. Its history stays: simonides history {record.id}")


@command(
    CORRECT,
    "simonides forget 8a3f21c0\n"
    "simonides forget --session talk-7 --dry-run\n"
    "simonides forget --user ana --yes\n"
    "simonides forget --label draft --until 2026-01-01",
)
@click.argument("ids", nargs=-1)
@matching
@click.option("--all", "everything", is_flag=True, help="Everything, of the user where one is named.")
@click.option("--dry-run", is_flag=True, help="Only show what would go; never asks.")
@click.option("--yes", is_flag=True, help="Erase without asking.")
def forget(asked: Asked, ids: tuple[str, ...], everything: bool, dry_run: bool, yes: bool, **filters: Any) -> int:
    """Erase for good, everywhere, and print the certificate.

    Every version goes, from every index, export and file of this memory.
    Name ids, or --user, --agent, --session, --label, --folder, --kind, --since, --until, which must all match. What
    others share is not touched. The parts of a whole go with it. Shows what would go, and asks.
    """
    _named_something(asked, ids, everything, filters)
    if not (dry_run or yes or terminal.can_ask()):
        raise Invalid("nothing was erased, for there is no terminal to ask on: add --yes, or look first with --dry-run")
    with asked.memory() as memory:
        chosen, narrowed = _chosen(memory, asked, ids, filters)
        if dry_run or not yes:
            preview = memory.forget(*chosen, everything=everything, dry_run=True, **narrowed)
            if not _wanted(asked, preview, dry_run):
                return 0 if dry_run and preview.records else STAYED
        with terminal.busy("Erasing…", asked.quiet):
            certificate = memory.forget(*chosen, everything=everything, **narrowed)
    if asked.json:
        terminal.say_json(wire.certificate_as_json(certificate))
    elif asked.quiet:
        terminal.say(certificate.id)
    else:
        terminal.show(*shown.certified(certificate, asked.zone))
    return 0


def _named_something(asked: Asked, ids: tuple[str, ...], everything: bool, filters: dict[str, Any]) -> None:
    """The user of the settings alone names nothing: nobody erases all there is by a command without an argument."""
    levels = any(name is not None for name in (asked.user, asked.agent, asked.session))
    if not (ids or everything or levels or any(value not in (None, ()) for value in filters.values())):
        raise Invalid("nothing is named to forget: give ids, --user, --session, --label, --since, …, or say --all")


def _chosen(memory: Memory, asked: Asked, ids: tuple[str, ...], filters: dict[str, Any]) -> tuple[list[str], Any]:
    """Return the ids in full, and the filters. A record that was named by its id goes, though it be shared."""
    narrowed = which(asked, filters)
    if not ids:
        return [], narrowed
    found = the_records(memory, ids, asked)
    for level in asked.whose:
        if any(getattr(record.scope, level) is None for record in found):
            narrowed.pop(level, None)  # type: ignore[misc]
    return [record.id for record in found], narrowed


def _wanted(asked: Asked, preview: Preview, dry_run: bool) -> bool:
    """Show what would go, and ask unless it is only to be shown."""
    if asked.json and dry_run:
        terminal.say_json(wire.preview_as_json(preview))
    elif not preview.records:
        terminal.tell("simonides: nothing matches: nothing would be erased")
    elif dry_run:
        terminal.show(*shown.doomed(preview, asked.zone))
    else:
        terminal.show_beside(*shown.doomed(preview, asked.zone))
        if terminal.confirmed("Erase this for good?"):
            return True
        terminal.tell("simonides: nothing was erased")
    return False


def _changed(asked: Asked, record: Record, sentence: str) -> None:
    if asked.json:
        terminal.say_json(wire.as_json(record))
    elif asked.quiet:
        terminal.say(record.id)
    else:
        terminal.show(shown.plain(sentence))
