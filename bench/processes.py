"""What is measured in processes of their own: starting, opening, memory."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import texts
from clock import Figure
from clusters import Clustered
from reads import local
from report import ONCE, Report

STARTS, OPENINGS, ASKED = 9, 5, 21
Told = dict[str, float]

OPENING = str(Path(__file__).with_name("opening.py"))


def starts(report: Report) -> None:
    """Measure what the library and its command line add to the start of a bare interpreter."""
    commands = {"bare": ["-c", "pass"], "import": ["-c", "import simonides"], "help": ["-m", "simonides", "--help"]}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(STARTS + 1):
        for name, command in commands.items():
            lap = _started([sys.executable, *command])
            if number:  # the first fills the caches
                taken[name].append(lap)
    wall, cpu = ({name: median(lap[n] for lap in laps) * 1e3 for name, laps in taken.items()} for n in (0, 1))
    for name in ("import", "help"):
        report.put(name, ONCE, Figure(wall[name] - wall["bare"], cpu=cpu[name] - cpu["bare"]))


def _started(command: Sequence[str]) -> tuple[float, float]:
    """Return the wall and the CPU seconds of a process."""
    cpu, wall = _children_cpu(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - wall, _children_cpu() - cpu


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def openings(url: str, size: int, embedder: Clustered, folder: Path, report: Report) -> None:
    asked = texts.questions(size, ASKED)
    questions, vectors = folder / "questions.json", folder / "questions.npy"
    questions.write_text(json.dumps(asked), "utf-8")
    np.save(vectors, embedder.vectors(asked))
    report.put("open_words", size, _first(_opened(url, questions, "none")))
    found = _opened(url, questions, vectors)
    report.put("open", size, _first(found))
    for name in ("anonymous", "private", "resident"):
        if name in found[0]:
            report.put(name, size, Figure(median(one[name] for one in found)))
    if local():
        found = _opened(url, questions, vectors, "--model")
        report.put("open_model", size, _first(found))
        if "anonymous" in found[0]:
            report.put("anonymous_model", size, Figure(median(one["anonymous"] for one in found)))


def opening_anew(url: str, size: int, folder: Path, files: Path, report: Report) -> None:
    """Measure one opening after the index's files were removed: it makes them again before it answers."""
    shutil.rmtree(files, ignore_errors=True)
    report.put("open_anew", size, _first(_opened(url, folder / "questions.json", folder / "questions.npy", times=1)))


def _opened(
    url: str, questions: Path, vectors: Path | str, *options: str, times: int = OPENINGS
) -> list[dict[str, float]]:
    command = [sys.executable, OPENING, url, str(questions), str(vectors), *options]
    return [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(times)]


def _first(found: Sequence[Told]) -> Figure:
    return Figure(median(one["first"] for one in found), cpu=median(one["cpu"] for one in found))
