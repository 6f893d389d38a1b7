"""Import and export: what other programs kept, files that change, and a file that holds everything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import shown, terminal
from ..asked import EXCHANGE, Asked, command, matching, which
from ..errors import Invalid, NotFound
from .remember import remark

if TYPE_CHECKING:
    from rich.table import Table

    from ..intake import Intake

PROBLEMS_MAX = 50  # problems that are listed; --json has them all
NOTHING = 1  # the exit status where nothing could be read
FILE, SECONDS = click.Path(path_type=Path), click.FloatRange(min=0.1)


@command(
    EXCHANGE,
    "simonides import ~/Downloads/chatgpt-export.zip\n"
    "simonides import notes/ diary.md --user marta\n"
    "simonides import memory-export.jsonl.gz",
    name="import",
)
@click.argument("paths", nargs=-1, required=True, type=FILE)
def import_(asked: Asked, paths: tuple[Path, ...]) -> int:
    """Read what other programs kept: chats, notes, exports.

    What is there already is left alone, so the same file may be imported again. What cannot be read is listed on
    stderr by file and line. The exit status is 0 where something could be read, and 1 where nothing could.
    """
    from .. import importers
    from ..intake import take_in

    _are_there(paths)
    bar = terminal.counting("Importing", asked.quiet, total=importers.size(paths), size=True)
    with asked.memory(new=True) as memory, bar as progress:
        intake = take_in(memory, paths, asked.scope, progress)
    terminal.say_json(_as_json(intake)) if asked.json else _tell(asked, intake)
    return NOTHING if intake.empty else 0


def _are_there(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise NotFound(f"there is no file {path}")


def _tell(asked: Asked, intake: Intake) -> None:
    for problem in intake.problems[:PROBLEMS_MAX]:
        terminal.tell(str(problem))
    if more := len(intake.problems) - PROBLEMS_MAX:
        remark(asked, *([f"… and {more} more problems; --json lists them all"] if more > 0 else []))
    if not asked.quiet and not intake.empty:
        terminal.show(_table(intake))
    if intake.empty:
        terminal.tell("simonides: nothing could be read: see `simonides import --help` for what can be")
    elif intake.problems:
        remark(asked, f"{shown.count(len(intake.problems), 'problem')}: that much could not be read, the rest is kept")


def _table(intake: Intake) -> Table:
    made = shown.table("From", "Read", "New", "What")
    for (source, kind), read in sorted(intake.read.items()):
        made.add_row(shown.plain(shown.cut(source, 40)), f"{read:,}", f"{intake.new[source, kind]:,}", kind)
    return made


def _as_json(intake: Intake) -> dict[str, Any]:
    rows = sorted({*intake.read, *intake.new})
    return {
        "read": sum(intake.read.values()),
        "new": sum(intake.new.values()),
        "archived": intake.archived,
        "from": [{"source": s, "kind": k, "read": intake.read[s, k], "new": intake.new[s, k]} for s, k in rows],
        "problems": [{"file": p.file, "line": p.line, "message": p.message} for p in intake.problems],
    }


@command(EXCHANGE, "simonides export backup.jsonl.gz\nsimonides export --label travel travel.jsonl")
@click.argument("path", required=False, type=FILE)
@matching
def export(asked: Asked, path: Path | None, **filters: Any) -> None:
    """Write everything, or what matches, to a file.

    Every version is in it, and `import` reads it back. Without a name it goes to the `exports` folder beside the
    memory, which `forget` looks through.
    """
    if str(path) == "-":
        raise Invalid("export writes a file, and puts it in its place once it is whole: name one")
    if path and not path.parent.is_dir():
        raise Invalid(f"there is no folder {path.parent}: make it first")
    with asked.memory() as memory, terminal.counting("Exporting", asked.quiet) as progress:
        written = 0

        def count(records: int) -> None:
            nonlocal written
            written += records
            progress(records)

        target = memory.export(path, progress=count, **which(asked, filters))
    if asked.json:
        terminal.say_json({"path": str(target), "versions": written})
    elif asked.quiet:
        terminal.say(terminal.safe(str(target)))
    else:
        terminal.say(f"{shown.count(written, 'version')} in {terminal.safe(str(target))}")


@command(EXCHANGE, "simonides watch ~/notes --user marta\nsimonides watch inbox --every 60")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--every",
    default=5.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="How often to look.",
)
@click.option("--once", is_flag=True, help="Look once, and end.")
def watch(asked: Asked, folder: Path, every: float, once: bool) -> None:
    """Import new and changed files of a folder until Ctrl-C.

    Passages that a document no longer has are archived; they come back with it if it has them again. What a deleted
    file held stays. With --json there is a document for every look that found something, and with --once always one.
    """
    from ..intake import Watch

    with asked.memory(new=True) as memory:
        watching = Watch(memory, folder, asked.scope)
        while True:
            _report(asked, watching.look(), once)
            if once:
                return
            time.sleep(every)


def _report(asked: Asked, intake: Intake, always: bool) -> None:
    for problem in intake.problems:
        terminal.tell(str(problem))
    if asked.json:
        terminal.say_json(_as_json(intake)) if always or intake.new or intake.archived or intake.problems else None
    elif not asked.quiet and (intake.new or intake.archived):
        new = ", ".join(shown.count(number, kind) for kind, number in sorted(_kinds(intake).items()))
        terminal.say(f"{time.strftime('%H:%M:%S')}  new: {new or 'nothing'}; archived: {intake.archived}")


def _kinds(intake: Intake) -> dict[str, int]:
    kinds: dict[str, int] = {}
    for (_, kind), number in intake.new.items():
        kinds[kind] = kinds.get(kind, 0) + number
    return kinds
