"""Packs hits into a budget of tokens: a text for a prompt, grouped for reading, every passage with its citation.

What was remembered may come from anybody, and may look like our own marks. So only a citation begins a line with "[",
and only a heading with "#": every further line of a passage is indented, and titles and names are one line each.
Without the indent after each line break a passage is what was said, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..query import Hit
from .means import Hits

Count = Callable[[str], int]
EXCERPT = 40  # tokens; a shorter piece of a long text says too little to spend a citation on
INDENT = "    "

_BREAK = re.compile("\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")  # wherever some reader begins a line: str.splitlines
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a numbered passage comes from; `cut` where only its beginning had room."""

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


def fitted(hits: Hits, budget: int, count: Count | None) -> Context:
    """Take the best hits that fit, and set them in order. Without a tokenizer four characters count as a token."""
    notes = hits.notes if count else (*hits.notes, "tokens are estimated: there is no tokenizer without an embedder")
    measure = count or estimated
    chosen = _chosen(hits, budget, measure)
    while chosen:
        text, citations = _set(chosen)
        if (tokens := measure(text)) <= budget:
            return Context(text, tokens, citations, notes)
        chosen.pop()
    return Context("", 0, (), notes)


def estimated(text: str) -> int:
    return (len(text) + 3) // 4


def _chosen(hits: Sequence[Hit], budget: int, measure: Count) -> list[tuple[Hit, str]]:
    """Return (hit, text), best first; what is too long is cut when enough of it has room."""
    chosen, left, titles = list[tuple[Hit, str]](), budget, set[str | None]()
    for hit in hits:
        cost = measure(_line(0, hit, hit.text)) + 1
        if hit.record.part_of not in titles:
            cost += measure(_title(hit)) + 1
        if cost <= left:
            chosen.append((hit, hit.text))
            left -= cost
            titles.add(hit.record.part_of)
        elif left >= EXCERPT * 2 and (part := _beginning(hit.text, left - EXCERPT, measure)):
            chosen.append((hit, part))
            break
    return chosen


def _beginning(text: str, budget: int, measure: Count) -> str:
    """Return as many whole words of the beginning as fit, with an ellipsis."""
    low, high = 0, min(len(text), budget * 8)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measure(quoted(text[:middle])) <= budget else (low, middle - 1)
    cut = text[:low]
    if " " in cut:
        cut = cut[: cut.rfind(" ")]
    return f"{cut} …" if measure(cut) >= EXCERPT else ""


def _set(chosen: Sequence[tuple[Hit, str]]) -> tuple[str, tuple[Citation, ...]]:
    """Group by conversation, the one with the best hit first; within it by time."""
    groups: dict[str, list[tuple[Hit, str]]] = {}
    for hit, text in chosen:
        groups.setdefault(hit.record.part_of or "", []).append((hit, text))
    lines, citations = list[str](), list[Citation]()
    for group in groups.values():
        lines.append(_title(group[0][0]))
        for hit, text in sorted(group, key=lambda item: (item[0].record.at is None, item[0].record.at, item[0].id)):
            citations.append(Citation(len(citations) + 1, hit, cut=text != hit.text))
            lines.append(_line(len(citations), hit, text))
    return "\n".join(lines), tuple(citations)


def _title(hit: Hit) -> str:
    return f"## {_one_line(hit.title or '') or 'Notes'}"


def _line(number: int, hit: Hit, text: str) -> str:
    at, who = hit.record.at, _one_line(hit.record.body.who or "")
    said = ", ".join(part for part in (f"{at:%Y-%m-%d}" if at else None, who) if part)
    return f"[{number}] ({said}) {quoted(text)}" if said else f"[{number}] {quoted(text)}"


def quoted(text: str) -> str:
    """Indent every line but the first, so that none of them can pass for a citation or a heading."""
    return _BREAK.sub(lambda found: found[0] + INDENT, text)


def _one_line(name: str) -> str:
    """Return the name without control characters and line breaks."""
    return " ".join(_CONTROL.sub(" ", name).split())
