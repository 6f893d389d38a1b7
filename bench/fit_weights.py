"""Finds what the signals of recall weigh: `python bench/fit_weights.py --data DIR [--kept FILE] [--out FILE]`

Every question of the data sets is asked, its candidates are collected as recall does it, and weights are sought under
which the turns that answer it come first: a softmax over the candidates of each question, no weight below zero, small
weights preferred. One fit for each kind of company: people who talk (LoCoMo), a person with an assistant (BEAM), notes
(LoCoMo's turns as if each stood alone), and notes when a whole dialogue is asked (MADial-Bench).

What is printed was found on conversations that were left out of the fit, one after the other; what is written was
fitted on all. It needs scipy.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

import simonides
from simonides import AsyncMemory
from simonides.quality.sets import Conversation, Imported, find
from simonides.recall import EFFORTS, weights
from simonides.recall.gather import gather
from simonides.recall.rank import valued
from simonides.recall.signals import SIGNALS, Evidence, late, near, passage

Array = NDArray[np.float64]
NAMES = tuple(SIGNALS)
LATE = ("late", "late_around", "session_late")  # not there without token vectors
SHRINK = 1e-3  # how much a weight costs, times the square of what it moves
FOLDS = 6  # of sets that are one conversation
LEAST = {"exact": 2.0, "when": 0.5}  # hardly anybody in the data asks by identifier, or for a day
DEPTH = 10  # hits of each question from which the relevance is learned
HOME = {"talk": "locomo", "chat": "beam", "notes": "locomo", "dialogue": "madial"}
ALONE = {  # what a signal says of a turn that stands alone
    **dict.fromkeys(("near_before", "near_after", "session_near"), "near"),
    **dict.fromkeys(("late_around", "session_late"), "late"),
    **dict.fromkeys(("words_before", "passage", "answered"), "words"),
}


@dataclass(frozen=True)
class Asked:
    """One question: its candidates' values, which of them answer it, and how many turns do in all."""

    group: str  # left out together
    category: str
    values: Array  # (candidates, signals)
    plain: Array  # the same without token vectors
    fits: Array  # (candidates, 3): late, near and passage in themselves
    right: NDArray[np.bool_]
    gold: int
    answerable: bool = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kept", type=Path, help="a store that is filled once and used again")
    parser.add_argument("--out", type=Path, default=Path(simonides.__file__).parent / "recall" / weights.FILE)
    given = parser.parse_args()
    asked = asyncio.run(collected(given.data, given.kept))
    held_out = {"late": {}, "plain": {}}
    models = {}
    for kind, names in (("late", NAMES), ("plain", tuple(name for name in NAMES if name not in LATE))):
        found = {name: np.zeros(len(weights.COMPANY)) for name in names}
        scored = []
        for company, family in HOME.items():
            mine = [one if kind == "late" else dataclasses.replace(one, values=one.plain) for one in asked[family]]
            if company == "notes":
                mine = [alone(each) for each in mine]
            sums = left_out(mine, names)
            scored += list(zip(mine, sums, strict=True))
            held_out[kind][company] = measured(mine, sums)
            print(kind, company, held_out[kind][company], flush=True)
            for name, weight in zip(names, fit(spoken(mine), names), strict=True):
                found[name][weights.COMPANY.index(company)] = weight
        level, scale = relevance(scored)
        print(kind, "relevance", level, scale, "AUROC", separated(scored, level))
        models[kind] = {
            "weights": {name: [round(float(w), 3) for w in ws] for name, ws in found.items() if ws.any()},
            "level": [round(float(x), 3) for x in level],
            "scale": round(float(scale), 3),
        }
    made = {
        "how": "bench/fit_weights.py: a softmax over the candidates of each question, weights of at least 0",
        "date": f"{date.today():%Y-%m-%d}",
        "shrink": SHRINK,
        "sets": {family: len(spoken(asked[family])) for family in asked},
        "left out": held_out,
    }
    given.out.write_text(json.dumps({"made": made, **models}, indent=1) + "\n", "utf-8")
    weights.read(given.out.read_bytes())


# -- what is asked -----------------------------------------------------------------------------------------------------


async def collected(data: Path, kept: Path | None) -> dict[str, list[Asked]]:
    found: dict[str, list[Asked]] = {}
    async with AsyncMemory(kept or ":memory:", zone="UTC") as memory:
        for each in find(data, sorted(set(HOME.values()))):
            conversations = list(each.read(each.name))
            for conversation in conversations:
                await remember(memory, each.name, conversation)
            for conversation in conversations:
                asked = found.setdefault(each.family, [])
                asked += [one async for one in questions(memory, each.name, conversation)]
    return found


async def remember(memory: AsyncMemory, space: str, conversation: Conversation) -> None:
    whose = {"user": conversation.user, "space": space}
    for said in conversation.said:
        if isinstance(said, Imported):
            await memory.keep(list(said.records))
        elif said.session is not None:
            await memory.remember([*said.contents], session=said.session, **whose)
        else:
            for note in said.contents:
                await memory.remember(note["content"], at=note["at"], id=note["id"], **whose)


async def questions(memory: AsyncMemory, space: str, conversation: Conversation) -> AsyncIterator[Asked]:
    turns = conversation.turns
    for number, question in enumerate(conversation.questions):
        query = dataclasses.replace(memory._query("recall", {"user": conversation.user, "space": space}), limit=50)
        understood, means = await memory._asking(question.text)
        pool = await gather(understood, query, means, EFFORTS["medium"])
        evidence = Evidence.of(understood, pool)
        _, values = valued(evidence)
        for candidate in pool.candidates.values():
            candidate.tokens = b""
        _, plain = valued(Evidence.of(understood, pool))
        yield Asked(
            group=conversation.user if len(conversation.questions) < 250 else str(number % FOLDS),
            category=question.category,
            values=values.astype(float),
            plain=plain.astype(float),
            fits=np.stack([signal(evidence) for signal in (late, near, passage)], axis=1).astype(float),
            right=np.array([turns.get(id, id) in question.gold for id in evidence.ids], bool),
            gold=len(question.gold),
            answerable=question.answerable,
        )


def spoken(asked: Iterable[Asked]) -> list[Asked]:
    """Those that can be learned from: answerable, and what answers them was found."""
    return [each for each in asked if each.answerable and each.right.any()]


def alone(asked: Asked) -> Asked:
    """The same candidates as notes: nothing stands around them, and nobody in particular said them."""
    values = asked.values.copy()
    for name, same in ALONE.items():
        values[:, NAMES.index(name)] = values[:, NAMES.index(same)]
    for name in ("speaker", "person"):
        values[:, NAMES.index(name)] = 0
    return dataclasses.replace(asked, values=values)


# -- fitting -----------------------------------------------------------------------------------------------------------


def fit(asked: Sequence[Asked], names: Sequence[str]) -> Array:
    """Return the weights of at least 0 under which the right candidates are the likeliest of their question."""
    columns = [NAMES.index(name) for name in names]
    values = np.concatenate([each.values[:, columns] for each in asked])
    sizes = np.array([len(each.values) for each in asked])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    wanted = np.concatenate([each.right / each.right.sum() for each in asked])
    spread = values.std(axis=0) + 1e-9

    def loss(guess: Array) -> tuple[float, Array]:
        sums = values @ guess
        most = np.repeat(np.maximum.reduceat(sums, starts), sizes)
        whole = np.repeat(np.log(np.add.reduceat(np.exp(sums - most), starts)), sizes) + most
        chances = np.exp(sums - whole)
        cost = -float(wanted @ (sums - whole)) / len(asked) + SHRINK * float(((guess * spread) ** 2).sum())
        return cost, values.T @ (chances - wanted) / len(asked) + 2 * SHRINK * guess * spread**2

    bounds = [(LEAST.get(name, 0.0), None) for name in names]
    found: Array = minimize(loss, np.array([low for low, _ in bounds]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return found


def left_out(asked: Sequence[Asked], names: Sequence[str]) -> list[Array]:
    """Return the sums of each question's candidates, by weights that were fitted without its conversation."""
    columns = [NAMES.index(name) for name in names]
    by_group = {
        group: fit(spoken(each for each in asked if each.group != group), names)
        for group in sorted({each.group for each in asked})
    }
    return [each.values[:, columns] @ by_group[each.group] for each in asked]


def relevance(scored: Sequence[tuple[Asked, Array]]) -> tuple[Array, float]:
    """Return level and scale (see `weights.Model`): logistic regression over the first hits of every question."""
    rows, wanted, counts = list[Array](), list[Array](), list[Array]()
    for asked, sums in scored:
        best = np.argsort(-sums, kind="stable")[:DEPTH]
        fits = np.tile(np.append(1.0, asked.fits[best[0]]), (len(best), 1))
        rows.append(np.column_stack([fits, sums[best] - sums[best[0]]]))
        wanted.append((asked.right[best] & asked.answerable).astype(float))
        counts.append(np.full(len(best), 1.0))
    values, right, weight = np.concatenate(rows), np.concatenate(wanted), np.concatenate(counts)

    def loss(guess: Array) -> tuple[float, Array]:
        sums = values @ guess
        chances = 1 / (1 + np.exp(-sums))
        cost = float((weight * (np.logaddexp(0, sums) - right * sums)).sum() / weight.sum())
        penalty = 1e-4 * guess
        return cost + float(guess @ penalty) / 2, values.T @ (weight * (chances - right)) / weight.sum() + penalty

    bounds = [(None, None), (0, None), (0, None), (0, None), (0.05, None)]
    found = minimize(loss, np.zeros(5), jac=True, method="L-BFGS-B", bounds=bounds).x
    return found[:4], float(found[4])


# -- measuring ---------------------------------------------------------------------------------------------------------


def measured(asked: Sequence[Asked], sums: Sequence[Array]) -> dict[str, float]:
    """Return recall at 10 and 50 and the mean reciprocal rank of what can be answered; see `simonides.quality`."""
    mine = [(each, scores) for each, scores in zip(asked, sums, strict=True) if each.gold and each.answerable]

    def mean(of: Callable[[Asked, NDArray[np.bool_]], float]) -> float:
        return round(float(np.mean([of(each, each.right[np.argsort(-s, kind="stable")]) for each, s in mine])), 4)

    return {
        "questions": len(mine),
        "recall@10": mean(lambda each, right: right[:10].sum() / each.gold),
        "recall@50": mean(lambda each, right: right[:50].sum() / each.gold),
        "mrr": mean(lambda each, right: 1 / (1 + int(right[:50].argmax())) if right[:50].any() else 0.0),
    }


def separated(scored: Sequence[tuple[Asked, Array]], level: Array) -> float:
    """Return the AUROC of the first hit's relevance: does it tell what can be answered from what cannot?"""
    first = [(asked.answerable, np.append(1.0, asked.fits[sums.argmax()]) @ level) for asked, sums in scored]
    yes, no = ([value for answerable, value in first if answerable is which] for which in (True, False))
    pairs = [(a > b) + (a == b) / 2 for a in yes for b in no]
    return round(float(np.mean(pairs)), 3) if pairs else float("nan")


if __name__ == "__main__":
    main()
