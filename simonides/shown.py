"""What was remembered, as people read it. Everything goes through `terminal.safe` on its way into a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING

from .kinds import Conversation, Document
from .query import Factor, Hit
from .record import ACTIVE, IMPORTANCE, NEVER, Record
from .terminal import line, safe
from .words import MONTHS

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from .forgetting import Preview
    from .happened import Following
    from .pruning import Proposal
    from .recall import Missing
    from .store import Certificate, Letter

TEXT_MAX, PASSAGE_MAX = 200, 700  # characters of a text that a table shows, and that stand below each other
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Why a hit was found, in plain words. That a text is short, or holds a figure, is no reason by itself: it is not here.
REASONS = {
    "near": "close in meaning",
    "late": "close in meaning, word by word",
    "late_around": "close in meaning, word by word",
    "near_before": "the turn before is close in meaning",
    "near_after": "the turn after is close in meaning",
    "words": "shares words",
    "words_before": "shares words, with the turn before",
    "passage": "shares words, with the turns around it",
    "answered": "shares words, with the question it answers",
    "session_near": "its conversation is close in meaning",
    "session_late": "its conversation is close in meaning",
    "session_words": "its conversation is about this",
    "exact": "letter for letter",
    "when": "from the time asked about",
    "speaker": "said by whom was asked about",
    "around": "beside what was found",
    "recent": "recent",
    "pinned": "pinned",
}


# -- for people --------------------------------------------------------------------------------------------------


def when(at: datetime | None, zone: tzinfo | None, *, clock: bool = True) -> str:
    """Return a time as people write it, in their zone: 2 May 2026 09:00."""
    if at is None:
        return ""
    try:
        at = at.astimezone(zone)
    except (OverflowError, ValueError, OSError):  # the first and the last day there is
        return at.isoformat()
    day = f"{at.day} {MONTHS[at.month - 1][:3]} {at.year}"
    return f"{day} {at:%H:%M}" if clock else day


def short(id: str) -> str:
    """Return what is enough of an id to name it: the end of a UUID is its own, its beginning only the time."""
    return id[-8:] if _UUID.fullmatch(id) else safe(id)


def cut(text: str, most: int = TEXT_MAX) -> str:
    """Return a text as one line, at most so long."""
    plain = line(text[: most * 4])
    return plain if len(plain) <= most else f"{plain[: most - 1].rstrip()}…"


def table(*names: str) -> Table:
    """Return an empty table; its last column takes the room that is left, on one line."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for name in names[:-1]:
        made.add_column(name, no_wrap=True, overflow="ellipsis")
    made.add_column(names[-1], overflow="ellipsis", ratio=1)  # the only one that may shrink; its texts do not wrap
    return made


def records(found: Iterable[Record], zone: tzinfo | None) -> Table:
    made = table("Id", "When", "Kind", "Who", "Text")
    for record in found:
        made.add_row(*_plain(short(record.id), when(record.at, zone), record.kind, _who(record), _text(record)))
    return made


def conversations(found: Iterable[tuple[Record, int]], zone: tzinfo | None) -> Table:
    made = table("Id", "Began", "Messages", "Title")
    for record, messages in found:
        made.add_row(*_plain(short(record.id), when(record.at, zone), str(messages), _text(record)))
    return made


def versions(found: Sequence[Record], zone: tzinfo | None) -> Table:
    made = table("Version", "Believed since", "Changed", "Text")
    for old, record in zip((None, *found), found, strict=False):
        made.add_row(*_plain(str(record.version), when(record.known.since, zone), changed(old, record), _text(record)))
    return made


def changed(old: Record | None, new: Record) -> str:
    """Return what a version changed, by name."""
    if old is None:
        return ""
    if new.valid == NEVER != old.valid:
        return "retracted"
    names = ("text", "valid", "labels", "folder", "importance", "pinned", "status", "metadata", "links", "part_of")
    return ", ".join(name for name in names if getattr(old, name) != getattr(new, name)) or "nothing"


def certificates(found: Iterable[Certificate], zone: tzinfo | None) -> Table:
    made = table("Id", "When", "Records", "Whose", "How")
    for each in found:
        whose = ", ".join(name for _, name in each.scope.levels if name) or "everybody"
        made.add_row(*_plain(short(each.id), when(each.at, zone), str(each.count), cut(whose, 40), cut(each.method)))
    return made


def letters(found: Iterable[Letter], zone: tzinfo | None) -> Table:
    made = table("Line", "Record", "Kind", "Follower", "Tries", "When", "What went wrong")
    for each in found:
        change, tries = each.change, str(each.tries or "again")
        made.add_row(
            *_plain(str(change.seq), short(change.id), change.kind, cut(each.follower, 40), tries),
            *_plain(when(each.at, zone), each.error),
        )
    return made


def followers(found: Iterable[Following]) -> Table:
    made = table("Follower", "Place", "Behind", "Since", "Letters", "Workers")
    for each in found:
        workers = ", ".join(f"{name}: {shards} shards" for name, shards in each.workers.items())
        alone = "none alive" if each.shared else "not shared"
        made.add_row(
            *_plain(each.name, f"{each.place:,}", f"{each.lag:,}", f"{each.lag_s:.0f} s" if each.lag else "-"),
            *_plain(str(each.letters), workers or alone),
        )
    return made


def pairs(rows: Mapping[str, str] | Sequence[tuple[str, str]]) -> Table:
    """Return names and values under each other, without a head."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    for name, value in rows.items() if isinstance(rows, Mapping) else rows:
        made.add_row(plain(name, "dim"), plain(value))
    return made


def card(record: Record, zone: tzinfo | None) -> list[RenderableType]:
    """Return everything there is to say about one record: the text, then the rest by name."""
    scope = ", ".join(f"{level} {name}" for level, name in record.scope.levels if name)
    rows = {
        "id": record.id,
        "kind": record.kind,
        "who": record.body.who or "",
        "when": when(record.at, zone),
        "true": true(record, zone),
        "whose": scope,
        "version": f"{record.version}, known since {when(record.known.since, zone)}",
        "part of": record.part_of or "",
        "links": ", ".join(f"{link.role} {link.target}" for link in record.links),
        "labels": ", ".join(record.labels),
        "folder": record.folder or "",
        "importance": "" if record.importance == IMPORTANCE else str(record.importance),
        "pinned": "yes" if record.pinned else "",
        "status": "" if record.status == ACTIVE else record.status,
        "source": record.source,
        "metadata": ", ".join(f"{name}={value}" for name, value in record.metadata.items()),
    }
    return [plain(record.text, "bold"), plain(""), pairs({name: value for name, value in rows.items() if value})]


def true(record: Record, zone: tzinfo | None) -> str:
    """Return when a record is true in the world, where anything is said of that."""
    since, until = record.valid.since, record.valid.until
    if record.valid == NEVER:
        return "never: retracted"
    if until is None:
        return f"from {when(since, zone, clock=False)}" if since else "always"
    return " ".join(part for part in (when(since, zone, clock=False), "until", when(until, zone, clock=False)) if part)


def hits(found: Sequence[Hit], zone: tzinfo | None, *, explain: bool = False) -> list[RenderableType]:
    """Return the hits as numbered paragraphs: what was said, and below it who, when and where."""
    from rich.console import Group
    from rich.table import Table

    blocks: list[RenderableType] = []
    width = len(str(len(found)))
    for number, hit in enumerate(found, 1):
        lines = [plain(beginning(hit.text)), plain(" · ".join(origin(hit, zone)), "dim")]
        if explain:
            lines.append(plain(f"found because: {reasons(hit)}", "dim italic"))
        grid = Table.grid(padding=(0, 2))
        grid.add_row(plain(str(number).rjust(width), "bold cyan"), Group(*lines))
        blocks += [*([plain("")] if blocks else []), grid]
    return blocks


def beginning(text: str) -> str:
    """Return the text as it stands, but of a long one only its beginning."""
    return text if len(text) <= PASSAGE_MAX else f"{text[: PASSAGE_MAX - 1].rstrip()}…"


def origin(hit: Hit, zone: tzinfo | None) -> list[str]:
    record = hit.record
    also = f"said {len(hit.also) + 1} times" if hit.also else ""
    parts = (_who(record), when(record.at, zone), hit.title or "", short(record.id), f"{hit.score:.2f}", also)
    return [cut(part, 60) for part in parts if part]


def reasons(hit: Hit, most: int = 3) -> str:
    """Return why it was found, in plain words, what counted most first."""
    named = _counted(hit.why) or hit.by
    return "; ".join(_told(named)[:most])


def missing(found: Missing, most: int = 3) -> list[RenderableType]:
    """Return why a record was not returned, and below it what speaks for it all the same."""
    speaks = "; ".join(_told(_counted(found.why))[:most])
    return [plain(str(found)), *([plain(f"what speaks for it: {speaks}", "dim italic")] if speaks else [])]


def _counted(why: Iterable[Factor]) -> list[str]:
    return [factor.name for factor in sorted(why, key=_share, reverse=True) if factor.share > 0]


def _told(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(REASONS[name] for name in names if name in REASONS))


def _share(factor: Factor) -> float:
    return factor.share


def doomed(preview: Preview, zone: tzinfo | None, most: int = 10) -> list[RenderableType]:
    """Return what an erase would take: how much of each kind, and the first few."""
    shown = sorted(preview.records, key=lambda record: isinstance(record.body, Conversation | Document), reverse=True)
    more = [plain(f"… and {preview.count - most} more", "dim")] if preview.count > most else []
    derived = f", {len(preview.derived)} of them as parts of the others or made of them" if preview.derived else ""
    versions = f"{count(preview.versions, 'version')} of {kinds_of(preview.records)}{derived}"
    return [records(shown[:most], zone), *more, plain(""), plain(f"This would erase {versions}.", "bold")]


def proposed(found: Sequence[Proposal], zone: tzinfo | None, most: int = 20) -> list[RenderableType]:
    """Return what may be archived: what it says, and below it why."""
    blocks: list[RenderableType] = []
    for each in found[:most]:
        parts = f"{count(each.messages, 'message')} · " if each.messages else ""
        title = f"{cut(each.record.text, 80)}: " if each.messages else ""
        said = f"{parts}{when(each.said, zone, clock=False)} · {short(each.id)} · {each.score:.2f}"
        blocks += [
            plain(f"{title}{cut(each.preview)}"),
            plain(said, "dim"),
            plain(_shortened(each), "dim italic"),
            plain(""),
        ]
    more = [plain(f"… and {len(found) - most} more", "dim"), plain("")] if len(found) > most else []
    tokens = sum(each.tokens for each in found)
    return [
        *blocks,
        *more,
        plain(f"{count(len(found), 'record')} may be archived, about {count(tokens, 'token')}.", "bold"),
    ]


def _shortened(proposal: Proposal) -> str:
    """Return why it is proposed, with the id of what stands for it as short as ids are shown."""
    instead = proposal.instead
    return str(proposal).replace(instead, short(instead)) if instead else str(proposal)


def kinds_of(found: Iterable[Record]) -> str:
    """Return how many of each kind: 1 conversation, 12 messages."""
    counted: dict[str, int] = {}
    for record in found:
        counted[record.kind] = counted.get(record.kind, 0) + 1
    return ", ".join(count(number, kind) for kind, number in sorted(counted.items())) or "nothing"


def count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun.removesuffix('y')}ies" if noun == "entity" else f"{number:,} {noun}s"


def certified(certificate: Certificate, zone: tzinfo | None) -> list[RenderableType]:
    places = ", ".join(f"{name} {number:,}" for name, number in certificate.places.items() if number)
    rows = {
        "certificate": certificate.id,
        "when": when(certificate.at, zone),
        "erased": count(certificate.count, "record"),
        "from": places,
        "how": certificate.method,
    }
    return [pairs(rows)]


def plain(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(safe(text), style=style)


def _plain(*texts: str) -> list[Text]:
    """Return the texts of one row, each on one line."""
    row = [plain(text) for text in texts]
    for text in row:
        text.no_wrap, text.overflow = True, "ellipsis"
    return row


def _who(record: Record) -> str:
    return cut(record.body.who or "", 20)


def _text(record: Record) -> str:
    marks = "".join(mark for mark, set in (("📌 ", record.pinned), ("(archived) ", record.status != ACTIVE)) if set)
    return f"{marks}{cut(record.text)}"
