"""Measure this memory on public data: how well it recalls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import terminal
from ..asked import PAIR, UPKEEP, Asked, Group
from ..errors import Invalid
from .remember import remark

if TYPE_CHECKING:
    from ..quality import Difference, Measured

WORSE = 7  # the exit status where a headline measure is significantly worse than in the run compared with
FILE, NUMBER = click.Path(path_type=Path, dir_okay=False), click.IntRange(min=1)


@click.group(cls=Group, section=UPKEEP, example="simonides bench quality --data ~/recall-data")
def bench() -> None:
    """Measure how well this memory recalls, on public data."""


@bench.command(
    "quality",
    example="simonides bench quality --data ~/recall-data --out run.json --markdown run.md\n"
    "simonides bench quality --data ~/recall-data --only locomo --against run.json",
)
@click.option(
    "--data",
    required=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Where LoCoMo, LongMemEval, BEAM or MADial-Bench lie, in their official formats.",
)
@click.option("--only", metavar="NAMES", help="Only these sets, by name, separated by commas.")
@click.option("--limit-conversations", type=NUMBER, metavar="N", help="At most this many conversations of each set.")
@click.option(
    "--hidden", type=click.IntRange(min=0), default=0, metavar="N",
    help="Hide the conversations among this many unrelated, made-up records.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="Recall alone: leave out the contexts under a budget.")
@click.option("--ask", type=PAIR, multiple=True, metavar="NAME=VALUE", help="Hand this to every recall besides.")
@click.option("--kept", type=FILE, metavar="FILE", help="Remember in this file, and use it next time as it is.")
@click.option("--against", type=FILE, metavar="FILE", help="Compare with a run that --out saved.")
@click.option("--out", type=FILE, metavar="FILE", help="Save the run here, as JSON, with every answer.")
@click.option("--markdown", type=FILE, metavar="FILE", help="Write the tables here.")
@click.pass_obj
def quality(
    asked: Asked,
    data: Path,
    only: str | None,
    limit_conversations: int | None,
    hidden: int,
    quick: bool,
    ask: tuple[tuple[str, Any], ...],
    kept: Path | None,
    against: Path | None,
    out: Path | None,
    markdown: Path | None,
) -> int:
    """Remember public conversations, ask their questions, and see whether recall finds what answers them.

    A memory of its own is made for it; yours is not touched. No language model judges anything: the data names the
    turns that answer a question. With --against, the exit status is 7 if a headline measure (recall@10, recall@50,
    MRR, session recall@5) is significantly worse, by paired bootstrap.
    """
    from ..quality import Plan, compare, find, lost, read_run, run, table

    if asked.store is not None:
        raise Invalid("this makes a memory of its own: leave --store out, or name a file for it with --kept")
    for path in (out, markdown, kept):
        if path and not path.absolute().parent.is_dir():
            raise Invalid(f"there is no folder {path.parent}: make it first")
    before = read_run(against) if against else None
    sets = find(data, [name.strip() for name in only.split(",")] if only else [])
    plan = Plan(
        embedder=asked.embedder, store=kept, conversations=limit_conversations, hidden=hidden, quick=quick,
        asking=dict(ask),
    )  # fmt: skip
    with terminal.counting("Remembering and asking", asked.quiet) as progress:
        measured = run(sets, plan, progress)
    differences = compare(measured, before) if before else []
    if out:
        measured.save(out)
    text = table(measured.summary(), differences)
    if markdown:
        markdown.write_text(text, "utf-8")
    remark(asked, *measured.notes)
    terminal.say_json(_as_json(measured, differences)) if asked.json else terminal.say(terminal.safe(text.rstrip()))
    return WORSE if lost(differences) else 0


def _as_json(measured: Measured, differences: Sequence[Difference]) -> dict[str, Any]:
    from ..quality.run import finite

    found: dict[str, Any] = {
        "conditions": dict(measured.conditions),
        "sets": finite(measured.summary()),
        "notes": list(measured.notes),
    }
    return found | ({"differences": [difference.as_json() for difference in differences]} if differences else {})
