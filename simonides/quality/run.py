"""Remembers a data set as any user would, asks it every question, and keeps what came back."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from .. import __version__
from ..config import OFF, open_backend, settings
from ..errors import Damaged, NotFound, Unavailable
from ..query import Hit
from ..recall import EFFORTS
from ..record import TENANT
from ..sync import Memory
from .hidden import unrelated
from .measure import BUDGETS, DEPTH, Answer, Found, auroc, means, measures, quantile
from .sets import Conversation, DataSet, Imported, Question, Said

Progress = Callable[[int], object]
BATCH = 128  # records kept at once, as `simonides import` does
MADE_UP = "made up"  # the source of what the conversations are hidden in
AT_EACH_EFFORT = 50  # questions of a set that are asked with each effort, to see what it takes
FORMAT = 1  # of the file that a run is saved to


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to measure. `store` is a file that is filled once and used again as it was filled; without it a temporary one
    is made.

    `conversations`: at most so many of each set. `hidden`: so many unrelated records beside every conversation.
    `quick`: recall alone, no contexts. `asking`: what is handed to `recall` and `context` besides.
    """

    embedder: str | None = None
    store: Path | None = None
    conversations: int | None = None
    hidden: int = 0
    quick: bool = False
    asking: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Costs:
    """What a set cost: whose records were remembered and the seconds that took, the processor time of every recall, and
    what the first questions take with each effort.
    """

    users: list[str] = field(default_factory=list)
    records: int = 0
    remembering_s: float | None = 0.0  # None: some of it was there already
    recall_cpu_ms: list[float] = field(default_factory=list)
    efforts_ms: dict[str, list[float]] = field(default_factory=dict)  # wall time of a recall with each effort


@dataclass(frozen=True, slots=True)
class Measured:
    """A run: the conditions it was made under, every answer, and what each set cost. `notes`: what fell back."""

    conditions: Mapping[str, Any]
    titles: Mapping[str, str]
    answers: Sequence[Answer]
    costs: Mapping[str, Costs]
    notes: Sequence[str] = ()

    def summary(self) -> dict[str, Any]:
        """Return the figures of each set: of what can be answered (the headline), of each category, of all."""
        return {name: self._set(name) for name in self.titles}

    def _set(self, name: str) -> dict[str, Any]:
        mine = [answer for answer in self.answers if answer.set == name]
        costs, latencies = self.costs[name], [answer.latency_ms for answer in mine]
        categories = {answer.category: None for answer in sorted(mine, key=lambda answer: answer.category)}
        return {
            "title": self.titles[name],
            "users": list(costs.users),
            "records": costs.records,
            "questions": len(mine),
            "all": _figures(mine),
            "answerable": _figures([answer for answer in mine if answer.answerable]),
            "categories": {
                each: _figures([answer for answer in mine if answer.category == each]) for each in categories
            },
            "auroc": auroc(
                [_first(answer) for answer in mine if answer.answerable],
                [_first(answer) for answer in mine if not answer.answerable],
            ),
            "recall_ms": _spread(latencies),
            "efforts_ms": {effort: _spread(taken) for effort, taken in costs.efforts_ms.items()},
            "recall_cpu_ms": sum(costs.recall_cpu_ms) / len(costs.recall_cpu_ms) if costs.recall_cpu_ms else None,
            "remembered_per_s": costs.records / costs.remembering_s if costs.remembering_s else None,
        }

    def save(self, path: Path) -> None:
        """Write the run with every raw answer: names and figures, no text of the data."""
        whole = {
            "simonides_quality": FORMAT,
            "conditions": dict(self.conditions),
            "titles": dict(self.titles),
            "notes": list(self.notes),
            "summary": finite(self.summary()),
            "costs": {name: dataclasses.asdict(costs) for name, costs in self.costs.items()},
            "answers": [finite(dataclasses.asdict(a) | {"measures": measures(a)}) for a in self.answers],
        }
        path.write_text(json.dumps(whole, ensure_ascii=False, separators=(",", ":")), "utf-8")


def _figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Return the means, and how many questions they are of: those with gold turns, or with gold sessions alone."""
    found = [made for answer in answers if (made := measures(answer))]
    return {"questions": len(found), **means(found)}


def _spread(taken_ms: Sequence[float]) -> dict[str, float] | None:
    return {"p50": quantile(taken_ms, 0.5), "p95": quantile(taken_ms, 0.95)} if taken_ms else None


def _first(answer: Answer) -> float:
    return answer.hits[0].score if answer.hits else 0.0


def finite(value: Any) -> Any:
    """Return the value as JSON can hold it: what is infinite is null."""
    if isinstance(value, Mapping):
        return {str(name): finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_run(path: Path) -> Measured:
    """Return a saved run. Raise NotFound or Damaged where there is none."""
    try:
        read = msgspec.json.decode(path.read_bytes(), type=_Saved)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise Damaged(f"{path} is no run that `simonides bench quality --out` saved: {error}") from None
    return Measured(read.conditions, read.titles, read.answers, read.costs, read.notes)


class _Saved(msgspec.Struct):
    conditions: dict[str, Any]
    titles: dict[str, str]
    answers: list[Answer]
    costs: dict[str, Costs]
    notes: list[str] = []  # a Struct copies it


# -- a run ---------------------------------------------------------------------------------------------------------


def run(sets: Sequence[DataSet], plan: Plan | None = None, progress: Progress | None = None) -> Measured:
    """Measure the sets one after the other; `progress` is told how many more records and questions are done.

    Each set is a space of one store on disk, each conversation of it a user.
    """
    plan = plan or Plan()
    answers, costs, notes = list[Answer](), dict[str, Costs](), dict[str, None]()
    with _memory(plan) as (memory, tokens):
        for each in sets:
            costs[each.name] = Costs()
            space = f"{each.name}-hidden-{plan.hidden}" if plan.hidden else each.name
            asking = _Asking(each.name, space, memory, plan, tokens, costs[each.name], progress or _silent, notes)
            asking.remember(islice(each.read(space), plan.conversations))
            answers += asking.answers(islice(each.read(space), plan.conversations))
            asking.time(islice(each.read(space), plan.conversations))
        conditions = _conditions(plan, memory)
    return Measured(conditions, {each.name: each.title for each in sets}, answers, costs, list(notes))


def _silent(done: int) -> None:
    pass


@contextmanager
def _memory(plan: Plan) -> Iterator[tuple[Memory, Callable[[str], int]]]:
    """Open a store for the run, and yield it with what counts tokens: the embedder's tokenizer, where there is one."""
    name = plan.embedder or settings().embedder
    embedder = None if name == OFF else open_backend("embedders", name)
    with tempfile.TemporaryDirectory(prefix="simonides-quality-") as folder:
        store = plan.store or Path(folder) / "quality.db"
        with Memory(f"sqlite:///{store}", embedder=embedder or OFF, tenant=TENANT, zone="UTC") as memory:
            yield memory, embedder.tokens if embedder else lambda text: (len(text) + 3) // 4


def _conditions(plan: Plan, memory: Memory) -> dict[str, Any]:
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "simonides": __version__,
        "model": memory.stats()["embedder"],
        "machine": f"{os.cpu_count()} × {_processor()}, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "limit": DEPTH,
        "conversations_max": plan.conversations,
        "hidden": plan.hidden,
        "asking": dict(plan.asking),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(slots=True)
class _Asking:
    """One set under way."""

    set: str
    space: str
    memory: Memory
    plan: Plan
    tokens: Callable[[str], int]
    costs: Costs
    progress: Progress
    notes: dict[str, None]
    counted: dict[str, int] = field(default_factory=dict)  # tokens of a record in a prompt, by its id

    def remember(self, conversations: Iterable[Conversation]) -> None:
        """Keep all that was said, before anything is asked: what a memory holds of others may tell in its answers."""
        self._hide()
        for conversation in conversations:
            self._remember(conversation)
        if behind := self.memory.behind:
            raise Unavailable(f"not everything could be embedded, so nothing was measured: {behind}")

    def answers(self, conversations: Iterable[Conversation]) -> Iterator[Answer]:
        for conversation in conversations:
            turns = conversation.turns
            self.counted.clear()
            for question in conversation.questions:
                yield self._ask(conversation.user, question, turns)
                self.progress(1)

    def time(self, conversations: Iterable[Conversation]) -> None:
        """Ask the first questions once more, each with every effort in turn."""
        asked = ((each.user, question.text) for each in conversations for question in each.questions)
        for user, text in islice(asked, AT_EACH_EFFORT):
            for effort in EFFORTS:
                whose: dict[str, Any] = {"user": user, "space": self.space, **self.plan.asking, "effort": effort}
                began = time.perf_counter()
                self.memory.recall(text, limit=DEPTH, **whose)
                self.costs.efforts_ms.setdefault(effort, []).append(1000 * (time.perf_counter() - began))

    def _hide(self) -> None:
        """Keep what has nothing to do with any of it, without a user: so every user of the space sees it."""
        if self.memory.count(space=self.space):
            self.costs.remembering_s = None
        there = self.memory.count(space=self.space, kinds="message", sources=MADE_UP)
        for session, messages in unrelated(self.plan.hidden):
            fresh = messages[there:]  # always the same talk in the same order, so it goes on where it was broken off
            there = max(0, there - len(messages))
            if fresh:
                self.memory.remember([*fresh], session=session, space=self.space, source=MADE_UP)
            self.progress(len(messages))

    def _remember(self, conversation: Conversation) -> None:
        began = time.perf_counter()
        for said in conversation.said:
            self._import(said) if isinstance(said, Imported) else self._say(said, conversation.user)
        if self.costs.remembering_s is not None:
            self.costs.remembering_s += time.perf_counter() - began
        self.costs.users.append(conversation.user)
        self.costs.records += len(conversation.turns)

    def _import(self, said: Imported) -> None:
        records = iter(said.records)
        while batch := list(islice(records, BATCH)):
            self.memory.keep(batch)
            self.progress(len(batch))

    def _say(self, said: Said, user: str) -> None:
        if said.session is not None:
            self.memory.remember([*said.contents], session=said.session, user=user, space=self.space)
        else:
            for note in said.contents:
                self.memory.remember(note["content"], at=note["at"], id=note["id"], user=user, space=self.space)
        self.progress(len(said.contents))

    def _ask(self, user: str, question: Question, turns: Mapping[str, str]) -> Answer:
        whose: dict[str, Any] = {"user": user, "space": self.space, **self.plan.asking}
        began, began_cpu = time.perf_counter(), time.process_time()
        hits = self.memory.recall(question.text, limit=DEPTH, **whose)
        latency_ms = 1000 * (time.perf_counter() - began)
        self.costs.recall_cpu_ms.append(1000 * (time.process_time() - began_cpu))
        self.notes.update(dict.fromkeys(hits.notes))
        return Answer(
            set=self.set,
            id=question.id,
            category=question.category,
            answerable=question.answerable,
            gold=tuple(sorted(question.gold)),
            sessions=tuple(sorted(question.sessions)),
            hits=tuple(self._found(hit, turns) for hit in hits),
            latency_ms=latency_ms,
            held={} if self.plan.quick or not question.gold else dict(self._held(question, turns, whose)),
        )

    def _found(self, hit: Hit, turns: Mapping[str, str]) -> Found:
        turn, session = turns.get(hit.id, hit.id), hit.record.scope.session or hit.id
        return Found(turn, session, hit.score, 0 if self.plan.quick else self._size(hit))

    def _size(self, hit: Hit) -> int:
        """Return the tokens of the hit as a line of a prompt: when, who, and what was said."""
        if hit.id not in self.counted:
            at, who = hit.record.at, hit.record.body.who
            said = ", ".join(part for part in (f"{at:%Y-%m-%d}" if at else None, who) if part)
            self.counted[hit.id] = self.tokens(f"({said}) {hit.text}\n")
        return self.counted[hit.id]

    def _held(
        self, question: Question, turns: Mapping[str, str], whose: Mapping[str, Any]
    ) -> Iterator[tuple[int, bool]]:
        for budget in BUDGETS:
            context = self.memory.context(question.text, budget=budget, limit=DEPTH, **whose)
            whole = {turns.get(cited.id, cited.id) for cited in context.citations if not cited.cut}
            yield budget, question.gold <= whole
