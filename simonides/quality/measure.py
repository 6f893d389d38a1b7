"""What is measured, each a pure function over a ranking: names, best first, none twice.

Means over questions are micro means: every question counts once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

DEPTH = 50  # how far down any ranking is looked at
TURNS_AT, SESSIONS_AT = (5, 10, 20, 50), (1, 3, 5, 10)
BUDGETS = (500, 1_000, 2_000, 4_000)  # tokens of a context


@dataclass(frozen=True, slots=True)
class Found:
    """A hit: the turn that it is, the session that it belongs to, its score, and the tokens that it takes in a prompt.

    A record that is no turn of the data set bears its own id as its turn. Tokens are 0 where they were not counted.
    """

    turn: str
    session: str
    score: float
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What recall answered one question of a set."""

    set: str
    id: str
    category: str
    answerable: bool
    gold: tuple[str, ...]
    sessions: tuple[str, ...]  # those that answer it
    hits: tuple[Found, ...]
    latency_ms: float
    held: Mapping[int, bool] = field(default_factory=dict)  # budget: whether the context held all of the gold, whole

    @property
    def turns(self) -> list[str]:
        return [hit.turn for hit in self.hits]


def measures(answer: Answer) -> dict[str, float]:
    """Return every measure that the question allows: those of turns need gold turns, those of sessions gold sessions.

    Shares and measures of rank are in [0, 1]. `tokens` is infinite where a gold turn is not among the hits.
    """
    found = dict[str, float]()
    if gold := frozenset(answer.gold):
        turns = answer.turns
        for k in TURNS_AT:
            found[f"recall@{k}"] = recall(turns, gold, k)
            found[f"hit@{k}"] = any_of(turns, gold, k)
            found[f"all@{k}"] = all_of(turns, gold, k)
        found["mrr"] = reciprocal_rank(turns, gold)
        found["ndcg@10"] = ndcg(turns, gold, 10)
        for k in (5, 10, 50):
            found[f"lme_ndcg@{k}"] = lme_ndcg(turns, gold, k)
        if answer.held:
            found["tokens"] = tokens_to_all(answer.hits, gold)
            for budget, held in answer.held.items():
                found[f"context@{budget}"] = float(held)
                found[f"plain@{budget}"] = float(found["tokens"] <= budget)
    if wanted := frozenset(answer.sessions):
        sessions = distinct(hit.session for hit in answer.hits)
        for k in SESSIONS_AT:
            found[f"session_recall@{k}"] = recall(sessions, wanted, k)
            found[f"session_any@{k}"] = any_of(sessions, wanted, k)
            found[f"session_all@{k}"] = all_of(sessions, wanted, k)
        for k in (5, 10):
            found[f"lme_session_ndcg@{k}"] = lme_ndcg(sessions, wanted, k)
    return found


# -- of one ranking ------------------------------------------------------------------------------------------------


def recall(ranking: Sequence[str], gold: Collection[str], k: int) -> float:
    """Return the share of the gold that is among the first k."""
    return len(set(gold).intersection(ranking[:k])) / len(gold)


def any_of(ranking: Sequence[str], gold: Collection[str], k: int) -> float:
    return float(not set(gold).isdisjoint(ranking[:k]))


def all_of(ranking: Sequence[str], gold: Collection[str], k: int) -> float:
    return float(set(gold).issubset(ranking[:k]))


def reciprocal_rank(ranking: Sequence[str], gold: Collection[str], depth: int = DEPTH) -> float:
    """Return one over the place of the first gold one, counted from 1; 0 where none is among the first `depth`."""
    return next((1 / place for place, name in enumerate(ranking[:depth], 1) if name in gold), 0.0)


def ndcg(ranking: Sequence[str], gold: Collection[str], k: int) -> float:
    """Return the gain of the first k, each gold one at place i worth 1 / log2(i + 1), as a share of the best possible
    (Järvelin and Kekäläinen, 2002).
    """
    gain = sum(1 / math.log2(place + 1) for place, name in enumerate(ranking[:k], 1) if name in gold)
    return gain / sum(1 / math.log2(place + 1) for place in range(1, min(k, len(gold)) + 1))


def lme_ndcg(ranking: Sequence[str], gold: Collection[str], k: int) -> float:
    """Return what LongMemEval's own code calls ndcg_any@k: as NDCG, but a place i from the second on is worth
    1 / log2(i), so that the second place costs nothing (xiaowu0162/LongMemEval, src/retrieval/eval_utils.py).
    """
    gain = sum(_lme_worth(place) for place, name in enumerate(ranking[:k], 1) if name in gold)
    return gain / sum(_lme_worth(place) for place in range(1, min(k, len(gold)) + 1))


def _lme_worth(place: int) -> float:
    return 1.0 if place == 1 else 1 / math.log2(place)


def distinct(names: Iterable[str]) -> list[str]:
    """Return each once, in the order in which they come first: sessions in the order of their first hit."""
    return list(dict.fromkeys(names))


def tokens_to_all(hits: Sequence[Found], gold: Collection[str]) -> float:
    """Return the tokens of the ranking, read from its top until every gold turn was read; infinite where one is not
    there. So the first k hits as they stand hold all evidence in a budget exactly where this is at most the budget.
    """
    tokens, missing = 0, set(gold)
    for hit in hits:
        tokens += hit.tokens
        missing.discard(hit.turn)
        if not missing:
            return float(tokens)
    return math.inf


# -- of many -------------------------------------------------------------------------------------------------------


def means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each measure over the questions that have it; of tokens the median and the 90th percentile."""
    names = dict.fromkeys(name for each in found for name in each)
    made = dict[str, float]()
    for name in names:
        values = [each[name] for each in found if name in each]
        if name == "tokens":
            made["tokens_p50"], made["tokens_p90"] = quantile(values, 0.5), quantile(values, 0.9)
        else:
            made[name] = sum(values) / len(values)
    return made


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def auroc(answerable: Sequence[float], unanswerable: Sequence[float]) -> float | None:
    """Return how likely an answerable question scores higher than an unanswerable one, a tie counting one half:
    the area under the ROC curve. 0.5 is chance. None where there are none of either.
    """
    if not answerable or not unanswerable:
        return None
    ranks = _ranks([*answerable, *unanswerable])
    above = sum(ranks[: len(answerable)]) - len(answerable) * (len(answerable) + 1) / 2
    return above / (len(answerable) * len(unanswerable))


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, counted from 1; equal ones share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks, start = [0.0] * len(values), 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for place in order[start:end]:
            ranks[place] = (start + 1 + end) / 2
        start = end
    return ranks
