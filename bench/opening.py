"""A process of its own that opens a store and asks: how long until its first answer, and how much memory it takes.

python bench/opening.py STORE_URL QUESTIONS.json VECTORS.npy|none [--model]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(url: str, questions: str, vectors: str, *options: str) -> dict[str, float]:
    asked = json.loads(Path(questions).read_text("utf-8"))
    from simonides import Memory

    embedder = "none" if vectors == "none" else _embedder(vectors, "--model" in options)
    opening, cpu = time.perf_counter(), time.process_time()
    with Memory(url, embedder=embedder) as memory:
        memory.recall(asked[0])
        first, cpu = time.perf_counter() - opening, time.process_time() - cpu
        for question in asked[1:]:
            memory.recall(question)
        return {"first": first * 1e3, "cpu": cpu * 1e3, **resident()}


def _embedder(vectors: str, with_model: bool):  # type: ignore[no-untyped-def]  # imports only what is asked for
    import numpy as np
    from clusters import Modelled, Recorded

    recorded = Recorded(np.load(vectors))
    if not with_model:
        return recorded
    from simonides.config import open_backend

    return Modelled(recorded, open_backend("embedders", "local:"))


def resident(process: int | str = "self") -> dict[str, float]:
    """Return a process's memory in MB, as /proc/self/smaps_rollup has it; nothing where there is no such file.

    `anonymous` is its own alone and cannot be dropped; `private` also counts pages of files (the database, the index)
    that no other process happens to map, which the system may drop at any time; `resident` is all.
    """
    path = Path(f"/proc/{process}/smaps_rollup")
    if not path.exists():
        return {}
    kb = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in path.open()) if "kB" in rest}
    private = kb["Private_Clean"] + kb["Private_Dirty"]
    return {"anonymous": kb["Anonymous"] / 1024, "private": private / 1024, "resident": kb["Rss"] / 1024}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
