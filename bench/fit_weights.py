"""Finds what the signals of recall weigh: `python bench/fit_weights.py --data DIR [--kept FILE] [--out FILE]`

Every question of the data sets is asked, its candidates are collected as recall does it, and weights are sought under
which the turns that answer it come first: a softmax over the candidates of each question, no weight below zero, small
weights preferred. One fit for each kind of company: people who talk (LoCoMo), a person with an assistant (BEAM), notes
(LoCoMo's turns as if each stood alone), and notes when a whole dialogue is asked (MADial-Bench). What makes a relevance
of the sums is fitted on all of them together, and on questions asked of a conversation that they are not about.

What is printed was found on conversations that were left out of the fit, one after the other; what is written was
fitted on all. It needs scipy: `pip install --group fit`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import simonides
from simonides import AsyncMemory
from simonides.quality import measure
from simonides.quality.sets import Conversation, DataSet, Imported, Question, find
from simonides.recall import EFFORTS, weights
from simonides.recall.gather import gather
from simonides.recall.rank import fit as fits
from simonides.recall.rank import lead, valued
from simonides.recall.signals import SIGNALS, Evidence, voices

Array = NDArray[np.float64]
NAMES = tuple(SIGNALS)
LATE = ("late", "late_around", "session_late")  # not there without token vectors
SHRINK = 1e-3  # how much a weight costs, times the square of what it moves
FOLDS = 6  # of sets that are one conversation
LEAST = {"exact": 2.0, "when": 0.5}  # hardly anybody in the data asks by identifier, or for a day
DEPTH = 10  # hits of each question from which the relevance is learned
HOME = {"talk": "locomo", "chat": "beam", "notes": "locomo", "dialogue": "madial"}
STRANGERS = 20  # questions of the next conversation that are asked of each, where nothing answers them
VOICES = ("speaker", "speaker_words", "person")  # say nothing of notes


@dataclass(frozen=True)
class Values:
    """The candidates' values: of the signals, of how well each fits in itself, and who says it; see `recall.rank`."""

    signals: Array  # (candidates, signals)
    fits: Array
    voices: NDArray[np.int8]

    @classmethod
    def of(cls, evidence: Evidence) -> Self:
        return cls(valued(evidence)[1].astype(float), fits(evidence).astype(float), voices(evidence))


@dataclass(frozen=True)
class Asked:
    """One question: its candidates' values as they are and as company of other kinds, which of them answer it, and how
    many turns do in all.
    """

    family: str
    group: str  # left out together
    late: Values
    plain: Values  # without token vectors
    notes: Mapping[str, Values]  # late and plain, as if each stood alone
    right: NDArray[np.bool_]
    gold: int
    sessions: tuple[str, ...]  # of each candidate
    wanted: frozenset[str]  # the sessions that answer it
    answerable: bool = True
    stranger: bool = False  # asked of a conversation that it is not about


@dataclass(frozen=True)
class Seen:
    """One question as it is fitted: as one kind of company, with or without token vectors."""

    asked: Asked
    company: str
    values: Values


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kept", type=Path, help="a store that is filled once and used again")
    parser.add_argument("--out", type=Path, default=Path(simonides.__file__).parent / "recall" / weights.FILE)
    given = parser.parse_args(arguments)
    asked = asyncio.run(collected(given.data, given.kept))
    models, held_out, told = {}, {}, {}
    for kind in ("late", "plain"):
        models[kind], held_out[kind], told[kind] = fitted(kind, asked)
    made = {
        "how": "bench/fit_weights.py: a softmax over the candidates of each question, weights of at least 0",
        "date": f"{date.today():%Y-%m-%d}",
        "shrink": SHRINK,
        "sets": {family: sum(each.family == family and learned(each) for each in asked) for family in HOME.values()},
        "left out": held_out,
        "left out, AUROC": told,
    }
    given.out.write_text(json.dumps({"made": made, **models}, indent=1) + "\n", "utf-8")
    weights.read(given.out.read_bytes())


def fitted(kind: str, asked: Sequence[Asked]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return a model as it is written, and what was found on the conversations left out: of finding, and of telling
    what cannot be answered.
    """
    names = tuple(name for name in NAMES if kind == "late" or name not in LATE)
    found = {name: np.zeros(len(weights.COMPANY)) for name in names}
    scored, held_out = list[tuple[Seen, Array]](), {}
    for company, family in HOME.items():
        mine = [
            Seen(each, company, each.notes[kind] if company == "notes" else getattr(each, kind))
            for each in asked
            if each.family == family
        ]
        sums = left_out(mine, names)
        scored += zip(mine, sums, strict=True)
        held_out[company] = measured(mine, sums)
        print(kind, company, held_out[company], flush=True)
        for name, weight in zip(names, fit(mine, names), strict=True):
            found[name][weights.COMPANY.index(company)] = weight
    level, scale = relevance(scored)
    told = separated(scored)
    print(kind, "relevance", level, scale, "AUROC", told, flush=True)
    model = {
        "weights": {name: [round(float(w), 3) for w in ws] for name, ws in found.items() if ws.any()},
        "level": [round(float(x), 3) for x in level],
        "scale": round(float(scale), 3),
    }
    return model, held_out, told


# -- what is asked -----------------------------------------------------------------------------------------------------


async def collected(data: Path, kept: Path | None) -> list[Asked]:
    found = list[Asked]()
    async with AsyncMemory(kept or ":memory:", zone="UTC") as memory:
        for each in find(data, sorted(set(HOME.values()))):
            conversations = list(each.read(each.name))
            for conversation in conversations:
                await remember(memory, each.name, conversation)
            for conversation in conversations:
                ask = functools.partial(question, memory, each, conversation)
                found += [await ask(number, of) for number, of in enumerate(conversation.questions)]
            for conversation, other in pairwise([*conversations, conversations[0]]) if len(conversations) > 1 else ():
                ask = functools.partial(question, memory, each, conversation)
                strangers = other.questions[:: max(1, len(other.questions) // STRANGERS)]
                found += [await ask(number, of, stranger=True) for number, of in enumerate(strangers)]
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


async def question(
    memory: AsyncMemory, of: DataSet, conversation: Conversation, number: int, asked: Question, stranger: bool = False
) -> Asked:
    query = dataclasses.replace(memory._query("recall", {"user": conversation.user, "space": of.name}), limit=50)
    _, understood, means = await memory._asking(asked.text)
    pool = await gather(understood, query, means, EFFORTS["medium"])
    evidence = {"late": Evidence.of(understood, pool)}
    for candidate in pool.candidates.values():
        candidate.tokens = b""
    evidence["plain"] = Evidence.of(understood, pool)
    turns = conversation.turns
    gold = frozenset[str]() if stranger else asked.gold
    return Asked(
        family=of.family,
        group=conversation.user if len(conversation.questions) < 250 else str(number % FOLDS),
        late=Values.of(evidence["late"]),
        plain=Values.of(evidence["plain"]),
        notes={kind: alone(each) for kind, each in evidence.items()} if of.family == HOME["notes"] else {},
        right=np.array([turns.get(id, id) in gold for id in evidence["late"].ids], bool),
        gold=len(gold),
        sessions=tuple(record.scope.session or record.id for record in evidence["late"].records),
        wanted=frozenset() if stranger else asked.sessions,
        answerable=asked.answerable and not stranger,
        stranger=stranger,
    )


def alone(evidence: Evidence) -> Values:
    """The same candidates as notes: nothing stands around them, and nobody in particular said them."""
    nobody = np.full(len(evidence.records), -1)
    notes = Values.of(
        dataclasses.replace(
            evidence,
            before=nobody,
            after=nobody,
            talk=np.arange(len(evidence.records)),
            answered=np.zeros_like(evidence.answered),
        )
    )
    values = notes.signals.copy()
    values[:, [NAMES.index(name) for name in VOICES]] = 0
    return Values(values, notes.fits, np.zeros_like(notes.voices))


def learned(asked: Asked) -> bool:
    """Whether weights can be learned from it: it is answerable, and what answers it was found."""
    return asked.answerable and bool(asked.right.any())


# -- fitting -----------------------------------------------------------------------------------------------------------


def fit(seen: Iterable[Seen], names: Sequence[str]) -> Array:
    """Return the weights of at least 0 under which the right candidates are the likeliest of their question; the least
    there may be, where nothing can be learned.
    """
    columns, lows = [NAMES.index(name) for name in names], [LEAST.get(name, 0.0) for name in names]
    mine = [each for each in seen if learned(each.asked)]
    if not mine:
        return np.array(lows)
    asked = [each.asked for each in mine]
    values = np.concatenate([each.values.signals[:, columns] for each in mine])
    sizes = np.array([len(each.right) for each in asked])
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

    return least(loss, lows)


def left_out(seen: Sequence[Seen], names: Sequence[str]) -> list[Array]:
    """Return the sums of each question's candidates, by weights that were fitted without its conversation."""
    columns = [NAMES.index(name) for name in names]
    by_group = {
        group: fit((each for each in seen if each.asked.group != group), names)
        for group in sorted({each.asked.group for each in seen})
    }
    return [each.values.signals[:, columns] @ by_group[each.asked.group] for each in seen]


def relevance(scored: Sequence[tuple[Seen, Array]]) -> tuple[Array, float]:
    """Return level and scale (see `weights.Model`): logistic regression over the first hits of every question."""
    rows, wanted = list[Array](), list[Array]()
    for seen, sums in scored:
        if seen.company == "notes" and not (seen.asked.answerable or seen.asked.stranger):
            continue  # what another said is in vain only where it is known who says what
        best = np.argsort(-sums, kind="stable")[:DEPTH]
        rows.append(np.column_stack([np.tile(leveled(seen, sums), (len(best), 1)), sums[best] - sums[best[0]]]))
        wanted.append((seen.asked.right[best] & seen.asked.answerable).astype(float))
    values, right = np.concatenate(rows), np.concatenate(wanted)

    def loss(guess: Array) -> tuple[float, Array]:
        sums = values @ guess
        chances = 1 / (1 + np.exp(-sums))
        penalty = 1e-4 * guess
        cost = float((np.logaddexp(0, sums) - right * sums).mean())
        return cost + float(guess @ penalty) / 2, values.T @ (chances - right) / len(right) + penalty

    found = least(loss, [-np.inf, *[0.0] * (len(weights.LEVEL) - 1), 0.05])
    return found[:-1], float(found[-1])


def least(loss: Callable[[Array], tuple[float, Array]], lows: Sequence[float]) -> Array:
    """Return where the loss, which comes with its gradient, is least, no number being below its own lowest."""
    from scipy.optimize import minimize  # here, because nothing else needs it

    begin = np.array([low if np.isfinite(low) else 0.0 for low in lows])
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=[(low, None) for low in lows])
    return np.asarray(found.x, float)


def leveled(seen: Seen, sums: Array) -> Array:
    """Return what the level weighs, in the order of LEVEL."""
    return np.array([1.0, *seen.values.fits[sums.argmax()], lead(sums, seen.values.voices)])


# -- measuring ---------------------------------------------------------------------------------------------------------


def measured(seen: Sequence[Seen], sums: Sequence[Array]) -> dict[str, float]:
    """Return recall at 10 and 50, the mean reciprocal rank, and of the first 5 sessions, of what can be answered; see
    `simonides.quality`.
    """
    ranked = [(each.asked, np.argsort(-scores, kind="stable")[:50]) for each, scores in zip(seen, sums, strict=True)]
    mine = [(asked, asked.right[order], order) for asked, order in ranked if asked.gold and asked.answerable]
    found = {
        "recall@10": [right[:10].sum() / asked.gold for asked, right, _ in mine],
        "recall@50": [right.sum() / asked.gold for asked, right, _ in mine],
        "mrr": [1 / (1 + int(right.argmax())) if right.any() else 0.0 for _, right, _ in mine],
        "session_recall@5": [
            measure.recall(measure.distinct(asked.sessions[place] for place in order), asked.wanted, 5)
            for asked, _, order in mine
            if asked.wanted
        ],
    }
    means = {name: round(float(np.mean(values)), 4) for name, values in found.items() if values}
    return {"questions": len(mine), **means}


def separated(scored: Sequence[tuple[Seen, Array]]) -> dict[str, dict[str, float]]:
    """Return the AUROC of the first hit's relevance for each kind of company, by a level that was fitted without the
    conversation: does it tell what can be answered from what its set says cannot, and from what strangers ask?
    """
    firsts: dict[str, list[tuple[Asked, float]]] = {}
    for group in sorted({seen.asked.group for seen, _ in scored}):
        level, _ = relevance([each for each in scored if each[0].asked.group != group])
        for seen, sums in scored:
            if seen.asked.group == group:
                firsts.setdefault(seen.company, []).append((seen.asked, float(leveled(seen, sums) @ level)))
    found: dict[str, dict[str, float]] = {}
    for company, first in firsts.items():
        yes = [value for asked, value in first if asked.answerable]
        for name, stranger in (("unanswerable", False), ("strangers", True)):
            no = [value for asked, value in first if not asked.answerable and asked.stranger is stranger]
            if (told := measure.auroc(yes, no)) is not None:
                found.setdefault(company, {})[name] = round(told, 3)
    return found


if __name__ == "__main__":
    main()
