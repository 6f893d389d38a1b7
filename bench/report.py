"""What is measured, row by row, and the table that is made of it.

A row bears the target of the design (section 8) where there is one, and the name of the peer's figure where it
does the same. Times are "p50 / p95 (CPU)" in ms, with the p99 after the p95 where it was measured; rates "a second (CPU
µs each)".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clock import Figure

MS, RATE, SHARE, MB, BYTES = "ms", "/s", "share", "MB", "bytes"
ONCE = 0  # the size of what does not depend on any


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    what: str
    unit: str = MS
    target: str = ""
    peer: str = ""  # the name among the peer's figures


@dataclass(frozen=True, slots=True)
class Part:
    title: str
    rows: tuple[Row, ...]


PARTS = (
    Part(
        "Writing, through the public API",
        (
            Row("flush", "the disk alone: 4 KB and one flush (fdatasync)"),
            Row("add_words", "add one, durable, no vectors", target="≤ 1 ms over the flush"),
            Row("add", "add one, durable, with vectors", target="≤ 1 ms over its two flushes", peer="add"),
            Row("add_words_relaxed", "add one, durability=normal, no vectors"),
            Row("add_relaxed", "add one, durability=normal, with vectors"),
            Row("callers_words", "64 callers adding, durable, no vectors", RATE, "≥ 5,000/s"),
            Row("callers", "64 callers adding, durable, with vectors", RATE),
            Row("bulk_words", "bulk import by the thousand, no vectors", RATE, "≥ 20,000/s"),
            Row("bulk", "bulk import by the thousand, with vectors", RATE, peer="bulk"),
        ),
    ),
    Part(
        "Recall, k = 10, through the public API",
        (
            Row("recall_words", "words alone"),
            Row("recall", "words and vectors", target="1M: 15 / 30 ms", peer="query"),
            Row("recall_label", "the same, a label lets 1 % through", peer="query_rare"),
            Row("recall_user", "the same, a user lets 1 % through"),
            Row("recall_as_of", "the same, as of a moment"),
            Row("recall_model", "the same, with the real model", target="p95: 20 / 25 / 40 ms over HTTP"),
            Row("recall_after_add", "the same, right after an add"),
        ),
    ),
    Part(
        "The parts of a recall",
        (
            Row("near", "index.near alone, k = 10", target="100k / 1M, p95: 2 / 8 ms", peer="query"),
            Row("near_rare", "index.near alone, k = 10, a label lets 1 % through", peer="query_rare"),
            Row("near_wide", "index.near as a recall asks, k = 100"),
            Row("words", "store.words as a recall asks, 100 records"),
            Row("model", "the real model, one question"),
            Row("recall_at_10", "recall@10 of index.near", SHARE, "≥ .99", "recall_at_10"),
            Row("recall_at_10_rare", "recall@10, a label lets 1 % through", SHARE, "≥ .99", "recall_at_10_rare"),
        ),
    ),
    Part(
        "Opening, in a fresh process",
        (
            Row("open_words", "open to the first answer, words alone"),
            Row("open", "open to the first answer, words and vectors", target="1M: 200 ms", peer="open"),
            Row("open_model", "open to the first answer, with the real model"),
            Row("open_anew", "the same without index files: they are made again"),
            Row("anonymous", "its own memory, which the system cannot drop", MB, "1M: 300 MB with the model"),
            Row("anonymous_model", "the same, with the real model", MB, "1M: 300 MB"),
            Row("private", "private memory, pages of mapped files among it", MB),
            Row("resident", "resident memory in all", MB, peer="resident"),
            Row("bytes_store", "database, bytes a record", BYTES),
            Row("bytes_index", "index files, bytes a record", BYTES),
            Row("import", "`import simonides`, over a bare interpreter"),
            Row("help", "`simonides --help`, over a bare interpreter"),
        ),
    ),
    Part(
        "Upkeep",
        (
            Row("forget", "forget one record, with its certificate"),
            Row("export", "export", RATE),
            Row("restore", "restore, no vectors", RATE),
        ),
    ),
)  # fmt: skip


@dataclass
class Report:
    """The figures by row and size, ours and the peer's."""

    parts: tuple[Part, ...] = PARTS
    figures: dict[str, dict[int, Figure]] = field(default_factory=dict)
    peer: dict[int, dict[str, Figure]] = field(default_factory=dict)
    peer_name: str = "peer"

    def put(self, name: str, size: int, figure: Figure) -> None:
        assert any(row.name == name for part in self.parts for row in part.rows), name
        self.figures.setdefault(name, {})[size] = figure

    def as_json(self, machine: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "machine": dict(machine),
            "figures": {
                row.name: {
                    "what": row.what,
                    "unit": row.unit,
                    "target": row.target,
                    "sizes": {size: dataclasses.asdict(figure) for size, figure in self.figures[row.name].items()},
                    "times_the_peer": self._ratios(row),
                }
                for part in self.parts
                for row in part.rows
                if row.name in self.figures
            },
            "peer": {size: {n: dataclasses.asdict(f) for n, f in found.items()} for size, found in self.peer.items()},
        }

    def _ratios(self, row: Row) -> dict[int, float]:
        ours = self.figures.get(row.name, {})
        return {
            size: better(row, ours[size], found[row.peer])
            for size, found in self.peer.items()
            if size in ours and row.peer in found
        }

    def markdown(self, machine: Mapping[str, Any], sizes: Sequence[int]) -> str:
        heads = [
            "",
            *(f"{size:,}" for size in sizes),
            "target",
            *([f"{self.peer_name}, and how it compares"] * bool(self.peer)),
        ]
        lines = [f"- {name}: {value}" for name, value in machine.items()]
        lines += ["", "Times in ms: p50 / p95 (CPU). Rates: a second (CPU µs each).", ""]
        lines += [_line(heads), _line(["---"] * len(heads))]
        for part in self.parts:
            rows = [row for row in part.rows if row.name in self.figures]
            if rows:
                lines.append(_line([f"**{part.title}**", *[""] * (len(heads) - 1)]))
                lines += [_line(self._cells(row, sizes)) for row in rows]
        return "\n".join(lines) + "\n"

    def _cells(self, row: Row, sizes: Sequence[int]) -> list[str]:
        ours = self.figures[row.name]
        if ONCE in ours:
            cells = [shown(row, ours[ONCE]), *[""] * (len(sizes) - 1)]
        else:
            cells = [shown(row, ours[size]) if size in ours else "" for size in sizes]
        return [row.what, *cells, row.target, *([self._beside(row)] * bool(self.peer))]

    def _beside(self, row: Row) -> str:
        ratios = self._ratios(row)
        if not ratios:
            return ""
        size = max(ratios)
        figure = shown(row, self.peer[size][row.peer])
        return f"{figure} at {size:,}" + ("" if row.unit == SHARE else f": {_times(ratios[size])}")


def better(row: Row, ours: Figure, theirs: Figure) -> float:
    """Return how many times better ours is: above 1 it is faster or smaller."""
    up = row.unit in (RATE, SHARE)
    above, below = (ours.value, theirs.value) if up else (theirs.value, ours.value)
    return above / below if below else float("inf")


def shown(row: Row, figure: Figure) -> str:
    match row.unit:
        case "ms":
            text = " / ".join(_digits(one) for one in (figure.value, figure.p95, figure.p99) if one is not None)
        case "share":
            return f"{figure.value:.4f}"
        case "/s":
            text = f"{figure.value:,.0f}"
        case _:
            return f"{figure.value:,.0f} {row.unit}"
    return text if figure.cpu is None else f"{text} ({_digits(figure.cpu)})"


def _times(ratio: float) -> str:
    return f"{_digits(ratio)}×"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
