"""What is done now and then: forgetting, export and restore."""

from __future__ import annotations

import time
from pathlib import Path

from clock import Lap, Watch, of_laps, rate
from clusters import Clustered
from report import Report

from simonides import Memory, Record, exports

FORGOTTEN, SECONDS = 5, 30.0
EXPORTED_AT = 10_000  # the size at which export and restore are measured


def forgets(url: str, size: int, embedder: Clustered, report: Report) -> None:
    laps, begun = list[Lap](), time.perf_counter()
    with Memory(url, embedder=embedder) as memory:
        for record in memory.find(limit=FORGOTTEN):
            if not laps or time.perf_counter() - begun < SECONDS:
                watch = Watch()
                memory.forget(record.id)
                laps.append(watch.lap())
    report.put("forget", size, of_laps(laps))


def exchange(url: str, size: int, folder: Path, report: Report) -> None:
    """Measure an export to a plain file and its restore into an empty store, without vectors."""
    path = folder / "export.jsonl"
    with Memory(url, embedder="none") as memory:
        watch = Watch()
        memory.export(path)
        report.put("export", size, rate(size, [watch.lap()]))
    with Memory(f"sqlite:///{folder / 'restored.db'}", embedder="none") as memory:
        watch = Watch()
        count = memory.restore(record for record in exports.read(path) if isinstance(record, Record))
        report.put("restore", size, rate(count, [watch.lap()]))
