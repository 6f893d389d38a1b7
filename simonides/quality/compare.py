"""Whether one run is better than another on the same questions: paired bootstrap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import Invalid
from .measure import Answer, measures
from .run import Measured

HEADLINE = ("recall@10", "recall@50", "mrr", "session_recall@5")  # a significant loss in one of these is a loss
SAMPLES, SEED = 5_000, 1
INTERVAL = 0.95
CHUNK = 250  # samples drawn at once


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher the new run's mean is, and the interval that the true difference lies in with 95 % confidence."""

    set: str
    measure: str
    questions: int
    before: float
    after: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        return self.after - self.before

    @property
    def significant(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def lost(self) -> bool:
        return self.high < 0

    def as_json(self) -> dict[str, Any]:
        return {
            "set": self.set,
            "measure": self.measure,
            "questions": self.questions,
            "before": self.before,
            "after": self.after,
            "difference": self.mean,
            "interval": [self.low, self.high],
            "significant": self.significant,
        }


def compare(new: Measured, old: Measured) -> list[Difference]:
    """Return the differences in the headline measures, over the answerable questions that both runs have.

    Raise Invalid where they have no question in common. A question that cites other turns now is another question.
    """
    found = [each for name in new.titles if name in old.titles for each in _of_set(name, new, old)]
    if not found:
        raise Invalid("the two runs have no question in common: there is nothing to compare")
    return found


def lost(differences: Iterable[Difference]) -> bool:
    return any(difference.lost for difference in differences)


def _of_set(name: str, new: Measured, old: Measured) -> Iterator[Difference]:
    before, after = _measured(name, old.answers), _measured(name, new.answers)
    both = sorted(before.keys() & after.keys())
    for measure in HEADLINE:
        pairs = [(before[id][measure], after[id][measure]) for id in both if measure in before[id]]
        if pairs:
            yield _difference(name, measure, np.array(pairs))


def _measured(name: str, answers: Sequence[Answer]) -> dict[Any, Mapping[str, float]]:
    return {(a.id, a.gold, a.sessions): measures(a) for a in answers if a.set == name and a.answerable}


def _difference(name: str, measure: str, pairs: Any) -> Difference:
    before, after = pairs.mean(axis=0)
    low, high = interval(pairs[:, 1] - pairs[:, 0])
    return Difference(name, measure, len(pairs), float(before), float(after), low, high)


def interval(differences: Any, samples: int = SAMPLES, seed: int = SEED) -> tuple[float, float]:
    """Return the percentile interval of the mean: questions drawn anew, with replacement, `samples` times (Efron, 1979;
    for rankings, Sakai, 2006). The same seed gives the same interval.
    """
    draw, size = np.random.default_rng(seed), len(differences)
    parts = [differences[draw.integers(size, size=(CHUNK, size))].mean(axis=1) for _ in range(samples // CHUNK)]
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail])
    return float(low), float(high)
