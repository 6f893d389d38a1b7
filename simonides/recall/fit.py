"""Packs hits into a budget of tokens: a text for a prompt, grouped for reading, every passage with its citation.

What was remembered may come from anybody, and may look like our own marks. So only a citation begins a line with "[",
and only a heading with "#": every further line of a passage is indented, and titles and names are one line each.
Without the indent after each line break a passage is what was said, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ..query import Hit
from ..words import Counter
from .means import Hits

Count = Callable[[str], int]
EXCERPT = 40  # tokens; a much shorter piece of a long text says too little to spend a citation on
FIRST = 5  # the hits of which, where they are too long, a part comes before what is whole further down
SHARE = 3  # what is too long gets so much of the room at first, so that others have some; at last, what is left
LETTERS_MAX = 16  # characters a token has at most, about: a longer text need not be counted to know that it is too long
READ_MAX = 200  # characters of a long text that are looked through for each token there is room for
INDENT = "    "

_BREAK = re.compile("\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")  # wherever some reader begins a line: str.splitlines
_SENTENCE = re.compile(r"(?<=[.!?…。！？])[\"'”’)]*\s+|\n+")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a numbered passage comes from; `cut` where only a part of it had room."""

    number: int
    hit: Hit
    cut: bool = False

    @property
    def id(self) -> str:
        return self.hit.id


@dataclass(frozen=True, slots=True)
class Context:
    """What to have in mind: `text` for a prompt, its `tokens`, and the `citations` by number. It prints as its text."""

    text: str
    tokens: int
    citations: tuple[Citation, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


def fitted(hits: Hits, budget: int, count: Count | None, terms: Iterable[str] = ()) -> Context:
    """Take the best hits that fit, and set them in order. Without a tokenizer four characters count as a token.

    What is too long is shortened to where it says the terms; what does not fit even so makes room for those after it.
    """
    notes = hits.notes if count else (*hits.notes, "tokens are estimated: there is no tokenizer without an embedder")
    measure = count or estimated
    chosen = _chosen(hits, budget, measure, Counter(terms))
    while chosen:
        text, citations = _set(chosen)
        if (tokens := measure(text)) <= budget:
            return Context(text, tokens, citations, notes)
        chosen.pop()
    return Context("", 0, (), notes)


def estimated(text: str) -> int:
    return (len(text) + 3) // 4


# -- what to take --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Group:
    """What a conversation takes: its texts alone, and their marks with and without the day."""

    days: frozenset[str | None] = frozenset()
    texts: int = 0
    dated: int = 0
    undated: int = 0


@dataclass(slots=True)
class _Page:
    """What was taken so far, and the tokens that it takes as it will be set."""

    left: int
    measure: Count
    widest: int  # the largest number that a citation may get
    taken: list[tuple[Hit, str]] = field(default_factory=list)
    groups: dict[str | None, _Group] = field(default_factory=dict)

    def beside(self, hit: Hit) -> int:
        """Return what is left for the text itself, were this taken too."""
        return self.left - self._cost(hit, self._with(hit, 0)) + self._cost(hit, self._group(hit))

    def take(self, hit: Hit, text: str, size: int) -> None:
        self.left = self.beside(hit) - size
        self.groups[hit.record.part_of] = self._with(hit, size)
        self.taken.append((hit, text))

    def took(self, hit: Hit) -> bool:
        """Take the hit whole, if there is room."""
        room = self.beside(hit)
        size = self.size(hit.text) if len(hit.text) <= room * LETTERS_MAX else room + 1
        if size <= room:
            self.take(hit, hit.text, size)
        return size <= room

    def shortened(self, hit: Hit, counter: Counter) -> bool:
        """Take a part of the hit, if there is room for one."""
        room = self.beside(hit)
        part = shortened(hit.text, counter, max(EXCERPT, room // SHARE), self.measure) if room >= EXCERPT else ""
        fits = bool(part) and (size := self.size(part)) <= room
        if fits:
            self.take(hit, part, size)
        return fits

    def size(self, text: str) -> int:
        return self.measure(f"{quoted(text)}\n")

    def _group(self, hit: Hit) -> _Group:
        return self.groups.get(hit.record.part_of) or _Group()

    def _with(self, hit: Hit, size: int) -> _Group:
        old, dated, undated = self._group(hit), *(self.measure(_mark(self.widest, hit, way)) for way in (True, False))
        return _Group(old.days | {_day([hit])}, old.texts + size, old.dated + dated, old.undated + undated)

    def _cost(self, hit: Hit, group: _Group) -> int:
        if not group.days:
            return 0
        day = next(iter(group.days)) if len(group.days) == 1 else None
        return self.measure(f"{_heading(hit, day)}\n") + group.texts + (group.undated if day else group.dated)


def _chosen(hits: Sequence[Hit], budget: int, measure: Count, counter: Counter) -> list[tuple[Hit, str]]:
    """Return (hit, text): as many whole ones as fit, and a part of those of the first that are too long; of those
    further down only where room is left at last.
    """
    page = _Page(budget, measure, len(hits))
    later = list[Hit]()
    for place, hit in enumerate(hits):
        if not page.took(hit) and (place >= FIRST or not page.shortened(hit, counter)):
            later.append(hit)
    for hit in later:
        page.shortened(hit, counter)
    for place, (hit, text) in enumerate(page.taken):
        if text != hit.text and page.left > 0:
            old = page.size(text)
            longer = shortened(hit.text, counter, old + page.left, measure)
            if longer and old < (size := page.size(longer)) <= old + page.left:
                page.taken[place] = (hit, longer)
                page.left -= size - old
    return page.taken


def shortened(text: str, counter: Counter, room: int, measure: Count) -> str:
    """Return the sentences that say most of the terms, and what stands next to them, with "…" for what is left out.

    Where it says none, its beginning; "" where there is not room for enough to be worth it.
    """
    spans = _sentences(text[: room * READ_MAX])
    said = [len(counter.counts(text[start:end])) for start, end in spans]
    best = max(range(len(spans)), key=lambda place: (said[place], -place))
    left, kept = room, set[int]()
    for place in sorted(range(len(spans)), key=lambda place: (-said[place], abs(place - best), place)):
        start, end = spans[place]
        cost = measure(f"{quoted(text[start:end])} … ")
        if cost <= left:
            left -= cost
            kept.add(place)
        elif place == best:
            begun = _beginning(text[start:], room - measure("… "), measure)
            return f"… {begun}" if begun and start else begun
        elif left < EXCERPT:
            break
    return _joined(text, [spans[place] for place in sorted(kept)]) if room - left >= EXCERPT // 2 else ""


def _sentences(text: str) -> list[tuple[int, int]]:
    """Return where each sentence begins and ends."""
    ends = [found.end() for found in _SENTENCE.finditer(text)]
    return list(pairwise([0, *(end for end in ends if 0 < end < len(text)), len(text)]))


def _joined(text: str, spans: Sequence[tuple[int, int]]) -> str:
    parts, behind = list[str](), 0
    for start, end in spans:
        parts.append(text[start:end] if start == behind else f"… {text[start:end]}")
        if start != behind and parts[:-1]:
            parts[-2] = f"{parts[-2].rstrip()} "
        behind = end
    whole = "".join(parts)
    return whole if behind == len(text) else f"{whole.rstrip()} …"


def _beginning(text: str, budget: int, measure: Count) -> str:
    """Return as many whole words of the beginning as fit, with an ellipsis."""
    low, high = 0, min(len(text), budget * 8)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measure(f"{quoted(text[:middle])} …") <= budget else (low, middle - 1)
    cut = text[:low]
    if " " in cut:
        cut = cut[: cut.rfind(" ")]
    return f"{cut} …" if measure(cut) >= EXCERPT // 2 else ""


# -- how it is set -------------------------------------------------------------------------------------------------


def _set(chosen: Sequence[tuple[Hit, str]]) -> tuple[str, tuple[Citation, ...]]:
    """Group by conversation, the one with the best hit first; within it by time."""
    groups: dict[str, list[tuple[Hit, str]]] = {}
    for hit, text in chosen:
        groups.setdefault(hit.record.part_of or "", []).append((hit, text))
    lines, citations = list[str](), list[Citation]()
    for group in groups.values():
        day = _day(hit for hit, _ in group)
        lines.append(_heading(group[0][0], day))
        for hit, text in sorted(group, key=lambda item: (item[0].record.at is None, item[0].record.at, item[0].id)):
            citations.append(Citation(len(citations) + 1, hit, cut=text != hit.text))
            lines.append(_mark(len(citations), hit, day is None) + quoted(text))
    return "\n".join(lines), tuple(citations)


def _day(hits: Iterable[Hit]) -> str | None:
    """Return the day on which all was said, where it is one, so that it need not stand in every line.

    Not where nobody is named: a text that began its line could pass itself off as another's.
    """
    days = {f"{hit.record.at:%Y-%m-%d}" if hit.record.at and _who(hit) else None for hit in hits}
    return days.pop() if len(days) == 1 else None


def _heading(hit: Hit, day: str | None) -> str:
    title = _one_line(hit.title or "") or "Notes"
    return f"## {title} ({day})" if day else f"## {title}"


def _mark(number: int, hit: Hit, dated: bool) -> str:
    at = hit.record.at if dated else None
    said = ", ".join(part for part in (f"{at:%Y-%m-%d}" if at else None, _who(hit)) if part)
    return f"[{number}] ({said}) " if said else f"[{number}] "


def _who(hit: Hit) -> str:
    return _one_line(hit.record.body.who or "")


def quoted(text: str) -> str:
    """Indent every line but the first, so that none of them can pass for a citation or a heading."""
    return _BREAK.sub(lambda found: found[0] + INDENT, text)


def _one_line(name: str) -> str:
    """Return the name without control characters and line breaks."""
    return " ".join(_CONTROL.sub(" ", name).split())
