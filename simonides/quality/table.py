"""A run as a table in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .compare import Difference
from .measure import BUDGETS

TURNS = {
    "R@5": "recall@5", "R@10": "recall@10", "R@20": "recall@20", "R@50": "recall@50", "Hit@10": "hit@10",
    "All@10": "all@10", "MRR": "mrr", "NDCG@10": "ndcg@10",
}  # fmt: skip
SESSIONS = {
    "R@1": "session_recall@1", "R@5": "session_recall@5", "R@10": "session_recall@10",
    "any@1": "session_any@1", "any@5": "session_any@5", "any@10": "session_any@10",
    "all@1": "session_all@1", "all@5": "session_all@5", "all@10": "session_all@10",
}  # fmt: skip
LONGMEMEVAL = {
    "turns: recall_all@5": "all@5", "recall_all@10": "all@10", "recall_all@50": "all@50",
    "ndcg_any@5": "lme_ndcg@5", "ndcg_any@10": "lme_ndcg@10", "ndcg_any@50": "lme_ndcg@50",
    "sessions: recall_all@5": "session_all@5", "recall_all@10 ": "session_all@10",
    "ndcg_any@5 ": "lme_session_ndcg@5", "ndcg_any@10 ": "lme_session_ndcg@10",
}  # fmt: skip
Figures = Mapping[str, Any]


def table(summary: Mapping[str, Figures], differences: Sequence[Difference] = ()) -> str:
    """Return every figure of a run, set by set, in one table after the other."""
    parts = [
        _turns(summary),
        _sessions(summary),
        _longmemeval(summary),
        _contexts(summary),
        _costs(summary),
        _efforts(summary),
    ]
    if differences:
        parts.append(_differences(differences))
    return "\n".join(part for part in parts if part)


def _turns(summary: Mapping[str, Figures]) -> str:
    return _section("Turns", ["", "questions", *TURNS], _rows(summary, TURNS, "recall@5"))


def _sessions(summary: Mapping[str, Figures]) -> str:
    return _section("Sessions, in the order of their first hit", ["", "questions", *SESSIONS],
                    _rows(summary, SESSIONS, "session_recall@5"))  # fmt: skip


def _longmemeval(summary: Mapping[str, Figures]) -> str:
    mine = {name: figures for name, figures in summary.items() if name.startswith("longmemeval")}
    title = "The measures of the LongMemEval paper, without the abstention questions"
    return _section(title, ["", "questions", *LONGMEMEVAL], _rows(mine, LONGMEMEVAL, "session_all@5", categories=False))


def _rows(
    summary: Mapping[str, Figures], columns: Mapping[str, str], needed: str, *, categories: bool = True
) -> Iterator[list[str]]:
    for figures in summary.values():
        if needed in figures["answerable"]:
            yield [f"**{figures['title']}**", *_cells(figures["answerable"], columns)]
        for category, found in figures["categories"].items() if categories else ():
            if needed in found and len(figures["categories"]) > 1:
                yield [f"… {category}", *_cells(found, columns)]


def _cells(figures: Figures, columns: Mapping[str, str]) -> list[str]:
    return [str(figures["questions"]), *(_share(figures.get(name)) for name in columns.values())]


def _contexts(summary: Mapping[str, Figures]) -> str:
    heads = ["", *(f"{budget:,} tokens: packed" if i % 2 == 0 else "plain" for budget in BUDGETS for i in range(2))]
    rows = []
    for figures in summary.values():
        found = figures["answerable"]
        if f"context@{BUDGETS[0]}" in found:
            cells = [_share(found[f"{way}@{budget}"]) for budget in BUDGETS for way in ("context", "plain")]
            rows.append([figures["title"], *cells, _count(found["tokens_p50"]), _count(found["tokens_p90"])])
    heads += ["tokens to all evidence: p50", "p90"]
    return _section("All evidence in a context", heads, rows)


def _costs(summary: Mapping[str, Figures]) -> str:
    heads = ["", "conversations", "records", "remembered a second", "recall p50 / p95, ms", "CPU, ms", "AUROC"]
    rows = []
    for figures in summary.values():
        took, cpu, rate = figures["recall_ms"], figures["recall_cpu_ms"], figures["remembered_per_s"]
        rows.append([
            figures["title"], str(len(figures["users"])), f"{figures['records']:,}", _count(rate),
            _times(took), f"{cpu:.1f}" if cpu else "–",
            _share(figures["auroc"]),
        ])  # fmt: skip
    return _section("Cost, and telling what cannot be answered", heads, rows)


def _efforts(summary: Mapping[str, Figures]) -> str:
    timed = {figures["title"]: figures["efforts_ms"] for figures in summary.values() if figures.get("efforts_ms")}
    efforts = list(next(iter(timed.values()), {}))
    rows = [[title, *(_times(taken[effort]) for effort in efforts)] for title, taken in timed.items()]
    return _section("Milliseconds of a recall with each effort, p50 / p95", ["", *efforts], rows)


def _times(taken: Mapping[str, float] | None) -> str:
    return f"{taken['p50']:.1f} / {taken['p95']:.1f}" if taken else "–"


def _differences(differences: Iterable[Difference]) -> str:
    rows = [
        [d.set, d.measure, str(d.questions), _share(d.before), _share(d.after), f"{d.mean:+.3f}",
         f"{d.low:+.3f} … {d.high:+.3f}", "worse" if d.lost else "better" if d.significant else ""]
        for d in differences
    ]  # fmt: skip
    heads = ["", "", "questions", "before", "now", "difference", "95 %", ""]
    return _section("Against the run before", heads, rows)


def _section(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_line(row) for row in rows]
    if not lines:
        return ""
    rule = _line(["---", *["---:"] * (len(heads) - 1)])
    return "\n".join([f"### {title}\n", _line([head.strip() for head in heads]), rule, *lines, ""])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".removeprefix("0") if value < 1 else "1.000"


def _count(value: float | None) -> str:
    return "–" if value is None or value == float("inf") else f"{value:,.0f}"
