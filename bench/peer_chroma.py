"""The same with chromadb, run by an interpreter that has it: one collection with the same texts, vectors, k and filter.

    PEER_PYTHON bench/peer_chroma.py VECTORS.npy QUESTIONS.npy FOLDER

Row n of the vectors is the nth text. Prints JSON. Called by speed.py; `--open` is how it calls itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import chromadb  # type: ignore[import-not-found]
import numpy as np
import texts
from chromadb.config import Settings  # type: ignore[import-not-found]
from clock import WARM, Figure, Lap, Watch, rate, timed
from opening import resident

K, ADDS, OPENINGS, ASKED = 10, 100, 5, 21
ROOM = 50_000  # vectors that are compared at once
RARE = {"label": texts.RARE_NAME}
NAME = "speed"


def main(vectors: str, questions: str, place: str) -> dict[str, Any]:
    rows, asked, folder = np.load(vectors).astype(np.float32), np.load(questions), Path(place)
    collection = _client(folder).create_collection(NAME, metadata={"hnsw:space": "cosine"}, embedding_function=None)
    figures = {
        "bulk": _bulk(collection, rows),
        "query": timed(lambda n: collection.query(asked[n : n + 1], n_results=K), len(asked) - WARM),
        "query_rare": timed(lambda n: collection.query(asked[n : n + 1], n_results=K, where=RARE), len(asked) - WARM),
        "recall_at_10": Figure(_recall(collection, rows, np.arange(len(rows)), asked, None)),
        "recall_at_10_rare": Figure(_recall(collection, rows, _rare(len(rows)), asked, RARE)),
        **_opened(questions, place),
        "add": _add(collection, rows),
    }
    shutil.rmtree(folder)
    return {"name": f"chromadb {chromadb.__version__}", "figures": {name: asdict(f) for name, f in figures.items()}}


def _client(folder: Path) -> Any:
    return chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))


def _bulk(collection: Any, rows: Any) -> Figure:
    laps = list[Lap]()
    for start in range(0, len(rows), texts.THOUSAND):
        said = texts.thousand(start // texts.THOUSAND)
        labels = [{"label": texts.RARE_NAME if n < texts.RARE else texts.COMMON_NAME} for n in range(len(said))]
        ids = [str(start + n) for n in range(len(said))]
        watch = Watch()
        collection.add(ids, embeddings=rows[start : start + len(said)], metadatas=labels, documents=said)
        laps.append(watch.lap())
    return rate(len(rows), [Lap(sum(lap.wall_s for lap in laps), sum(lap.cpu_s for lap in laps))])


def _add(collection: Any, rows: Any) -> Figure:
    said, count = texts.fresh(), len(rows)
    label = [{"label": texts.COMMON_NAME}]
    return timed(
        lambda n: collection.add(
            [f"fresh {n}"], embeddings=rows[n % count : n % count + 1], metadatas=label, documents=[next(said)]
        ),
        ADDS,
    )


def _recall(collection: Any, rows: Any, slots: Any, asked: Any, where: Any) -> float:
    scores = np.concatenate([rows[slots[at : at + ROOM]] @ asked.T for at in range(0, len(slots), ROOM)])
    nearest = np.argpartition(scores, -K, axis=0)[-K:]
    hits = 0
    for n in range(len(asked)):
        [ids] = collection.query(asked[n : n + 1], n_results=K, where=where, include=[])["ids"]
        hits += len({str(slots[row]) for row in nearest[:, n]}.intersection(ids))
    return hits / len(asked) / K


def _rare(count: int) -> Any:
    return np.flatnonzero(np.arange(count) % texts.THOUSAND < texts.RARE)


def _opened(questions: str, place: str) -> dict[str, Figure]:
    command = [sys.executable, __file__, "--open", questions, place]
    runs = [subprocess.run(command, check=True, stdout=subprocess.PIPE) for _ in range(OPENINGS)]
    found: list[dict[str, float]] = [json.loads(run.stdout) for run in runs]
    figures = {name: Figure(median(one[name] for one in found)) for name in found[0] if name not in ("first", "cpu")}
    return {**figures, "open": Figure(median(one["first"] for one in found), cpu=median(one["cpu"] for one in found))}


def open_and_ask(questions: str, place: str) -> dict[str, float]:
    asked = np.load(questions)
    watch, begun = Watch(), time.perf_counter()
    collection = _client(Path(place)).get_collection(NAME)
    collection.query(asked[:1], n_results=K)
    first, cpu = time.perf_counter() - begun, watch.lap().cpu_s
    for n in range(1, ASKED):
        collection.query(asked[n : n + 1], n_results=K)
    return {"first": first * 1e3, "cpu": cpu * 1e3, **resident()}


if __name__ == "__main__":
    told = open_and_ask(*sys.argv[2:]) if sys.argv[1] == "--open" else main(*sys.argv[1:])
    print(json.dumps(told))
