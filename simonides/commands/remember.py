"""Remember and recall: the two things a memory is for, and looking at what it holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from .. import shown, terminal, wire
from ..asked import (
    PAIR,
    REMEMBER,
    Asked,
    F,
    LocalTime,
    among,
    command,
    limit,
    matching,
    text_given,
    the_place,
    the_record,
    time_option,
    timed,
    which,
)
from ..errors import Invalid
from ..kinds import Conversation, Document
from ..query import Place

NOTHING = 1  # the exit status where nothing was found

effort = click.option(
    "--effort",
    default="medium",
    show_default=True,
    metavar="low|medium|high",
    shell_complete=among(("low", "medium", "high")),
    help="How far to look: low is the quickest.",
)
min_relevance = click.option(
    "--min-relevance",
    type=float,
    default=0.0,
    metavar="0..1",
    help="Leave out what scores below this.",
)


def asking(most: int) -> Callable[[F], F]:
    """Add what every question takes: its words, the filters, how many to return by default, and how far to look."""

    def added(function: F) -> F:
        for option in (effort, limit(most), timed, matching, click.argument("query", nargs=-1, required=True)):
            function = option(function)
        return function

    return added


@command(
    REMEMBER,
    'simonides remember "The spare key is with Ana" --label home\n'
    "git log -1 | simonides remember --folder work/bridge\n"
    'simonides remember "I moved to Porto" --session talk-7 --role user --at 2026-09-12',
)
@click.argument("text", nargs=-1)
@click.option("--role", metavar="ROLE", shell_complete=among(("user", "assistant", "system", "tool")),
              help="Who says it: user, assistant, system or tool.")  # fmt: skip
@click.option("--name", metavar="NAME", help="The speaker's name.")
@time_option("--at", "When it was said, or began to be true.")
@time_option("--ends", "When it stops being true.")
@click.option("--id", metavar="ID", help="An id of your own: the same write twice is one.")
@click.option("--title", metavar="TEXT", help="The title of a new session.")
@click.option("--label", "labels", multiple=True, metavar="NAME", help="A label; may be given several times.")
@click.option("--folder", metavar="PATH", help="A folder, like work/bridge.")
@click.option("--importance", type=int, metavar="1..10", help="How much it matters; default: 5.")
@click.option("--pin", "pinned", is_flag=True, help="Keep it at hand.")
@click.option("--metadata", type=PAIR, multiple=True, help="Something of your own to keep with it.")
def remember(asked: Asked, text: tuple[str, ...], metadata: tuple[tuple[str, Any], ...], **given: Any) -> None:
    """Keep a text: the words given, or what is piped in.

    A text that names a session, a role or a speaker is a message; any other is a note.
    """
    content = text_given(text)
    if content is None:
        raise Invalid('there is nothing to remember: simonides remember "…", or pipe a text in')
    given |= {name: LocalTime.placed(given[name], asked.zone) for name in ("at", "ends")}
    with asked.memory(new=True) as memory, terminal.busy("Remembering…", asked.quiet):
        kept = memory.remember(content, metadata=dict(metadata), **given, **asked.whose)
    if asked.json:
        terminal.say_json(wire.as_json(kept))
    elif asked.quiet:
        terminal.say(kept.id)
    else:
        terminal.show(shown.plain(f"Kept as {kept.kind} {shown.short(kept.id)}."))


@command(
    REMEMBER,
    'simonides recall "where do I live?"\n'
    'simonides recall "the dose" --as-of 2026-05-01 --explain\n'
    'simonides recall "bridge" --folder work --since 2026-06-01 -n 3 --json',
)
@asking(10)
@min_relevance
@click.option("--explain", is_flag=True, help="Say why each was found.")
def recall(
    asked: Asked, query: tuple[str, ...], limit: int, effort: str, min_relevance: float, explain: bool, **filters: Any
) -> int:
    """Find what is worth having in mind for a question, best first.

    What was expected and did not come: see `simonides why`.
    """
    how: dict[str, Any] = {"limit": limit, "effort": effort, "min_relevance": min_relevance, "explain": explain}
    with asked.memory() as memory:
        began = time.perf_counter()
        with terminal.busy("Recalling…", asked.quiet):
            found = memory.recall(" ".join(query), **how, **which(asked, filters))
        took_ms = 1000 * (time.perf_counter() - began)
    notes = list(found.notes)
    if asked.json:
        hits = [wire.hit_as_json(hit) for hit in found]
        terminal.say_json({"query": " ".join(query), "hits": hits, "notes": notes, "took_ms": round(took_ms, 3)})
        return 0 if found else NOTHING
    terminal.show(*shown.hits(list(found), asked.zone, explain=explain)) if found else None
    remark(asked, *notes, *([] if found else ["nothing found"]))
    return 0 if found else NOTHING


@command(
    REMEMBER,
    'simonides why 8a3f21c0 "where do I live?"\nsimonides why 8a3f21c0 "the dose" --label health --min-relevance 0.3',
)
@click.argument("id")
@asking(10)
@min_relevance
def why(
    asked: Asked, id: str, query: tuple[str, ...], limit: int, effort: str, min_relevance: float, **filters: Any
) -> None:
    """Say why recall does not return a record for a question, or where it does.

    With the options of the recall that is meant.
    """
    how: dict[str, Any] = {"limit": limit, "effort": effort, "min_relevance": min_relevance}
    with asked.memory() as memory, terminal.busy("Recalling…", asked.quiet):
        record = the_record(memory, id, asked)
        found = memory.explain_missing(record.id, " ".join(query), **how, **which(asked, filters))
    if asked.json:
        terminal.say_json(wire.missing_as_json(found))
    else:
        terminal.show(*shown.missing(found))
        remark(asked, *found.notes)


@command(
    REMEMBER,
    'simonides context "what should I know before the vet?" --budget 800\n'
    'simonides context "the tender" --folder work | pbcopy',
)
@click.option("--budget", default=1500, show_default=True, metavar="TOKENS", help="At most this many tokens.")
@asking(50)
def context(asked: Asked, query: tuple[str, ...], budget: int, limit: int, effort: str, **filters: Any) -> int:
    """Print what to have in mind, ready for a prompt."""
    with asked.memory() as memory, terminal.busy("Recalling…", asked.quiet):
        found = memory.context(" ".join(query), budget=budget, limit=limit, effort=effort, **which(asked, filters))
    notes = list(found.notes)
    if asked.json:
        citations = [wire.citation_as_json(citation) for citation in found.citations]
        terminal.say_json({"text": found.text, "tokens": found.tokens, "citations": citations, "notes": notes})
    elif found.text:
        terminal.say(terminal.safe(found.text))
        remark(asked, *notes, f"{found.tokens} tokens of {budget}")
    else:
        remark(asked, *notes, "nothing found")
    return 0 if found.text else NOTHING


@command(
    REMEMBER,
    "simonides list --label home\n"
    "simonides list --kind note --since 2026-05-01 --json\n"
    "simonides list --after 8a3f21c0",
    name="list",
)
@matching
@timed
@limit(20)
@click.option("--after", metavar="PLACE|ID", help="Go on where the last page ended, or after this record.")
def list_(asked: Asked, limit: int, after: str | None, **filters: Any) -> int:
    """List what is remembered, newest first.

    Where there may be more, the place to go on after is said below, and in JSON as "next". It holds whatever becomes of
    the last record meanwhile.
    """
    with asked.memory() as memory:
        place = the_place(memory, after, asked) if after else None
        found = memory.find(limit=limit, after=place, **which(asked, filters))
    more = str(Place.of(found[-1])) if len(found) == limit else None
    if asked.json:
        terminal.say_json({"records": [wire.as_json(record) for record in found], "next": more})
    elif found:
        terminal.show(shown.records(found, asked.zone))
    if more:
        remark(asked, f"there may be more: add --after {more}, or -n {limit * 5}")
    elif not found:
        remark(asked, "nothing found")
    return 0 if found else NOTHING


@command(REMEMBER, "simonides count --kind message --since 2026-05-01")
@matching
@timed
def count(asked: Asked, **filters: Any) -> None:
    """Count what matches."""
    with asked.memory() as memory:
        number = memory.count(**which(asked, filters))
    terminal.say_json({"count": number}) if asked.json else terminal.say(str(number))


@command(REMEMBER, "simonides show 8a3f21c0\nsimonides show 8a3f21c0 --json")
@click.argument("id")
def show(asked: Asked, id: str) -> None:
    """Show one record, and what it is made of.

    Of an id its end is enough, or its beginning, as long as no other has it.
    """
    with asked.memory() as memory:
        record = the_record(memory, id, asked)
        whole = isinstance(record.body, Conversation | Document)
        parts = memory.messages(record.id, **asked.whose) if whole else []
    if asked.json:
        terminal.say_json(wire.as_json(record) | ({"parts": [wire.as_json(part) for part in parts]} if whole else {}))
        return
    terminal.show(*shown.card(record, asked.zone))
    if parts:
        terminal.show("", shown.records(parts, asked.zone))


@command(REMEMBER, "simonides conversations\nsimonides conversations --since 2026-05-01 --label travel")
@matching
@timed
@limit(20)
def conversations(asked: Asked, limit: int, **filters: Any) -> int:
    """List the conversations, newest first."""
    with asked.memory() as memory:
        found = memory.conversations(limit=limit, **which(asked, filters))
        counted = [(record, memory.count(conversation=record.id, **asked.whose)) for record in found]
    if asked.json:
        terminal.say_json([wire.as_json(record) | {"messages": messages} for record, messages in counted])
    elif counted:
        terminal.show(shown.conversations(counted, asked.zone))
    else:
        remark(asked, "nothing found")
    return 0 if counted else NOTHING


def remark(asked: Asked, *remarks: str) -> None:
    """Say something beside the answer, unless only the answer is wanted."""
    if not asked.quiet:
        for text in remarks:
            terminal.tell(f"simonides: {text}")
