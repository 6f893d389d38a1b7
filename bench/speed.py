"""How fast it is: every figure that the design promises, measured through the public API, beside a peer where given.

    python bench/speed.py [--sizes 1000,10000] [--peer PYTHON] [--markdown FILE] [--json FILE] [--folder DIR]

The README beside this file says what each row means. Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import processes
import reads
import texts
import upkeep
import writes
from clock import WARM, Figure
from clusters import Clustered
from machine import machine
from report import Report

SIZES = "1000,10000,100000,1000000"
PEER_MAX = 100_000  # records that the peer is measured with; it takes minutes for more
PEER = Path(__file__).with_name("peer_chroma.py")
BEGUN = time.monotonic()


def main(given: Sequence[str] | None = None) -> int:
    options = _options(given)
    os.environ["SIMONIDES_CONFIG"] = os.devnull  # the settings of whoever runs this are not what is measured
    report = Report()
    with tempfile.TemporaryDirectory(prefix="simonides-speed-", dir=options.folder) as place:
        there = machine(Path(place).parent)
        measure(options.sizes, options.peer, Path(place), report)
    there["load"] += f", {os.getloadavg()[0]:.1f} at the end"
    there["took"] = f"{time.monotonic() - BEGUN:.0f} s"
    if report.peer:
        there["peer"] = report.peer_name
    table = report.markdown(there, options.sizes)
    print(table, end="")
    if options.markdown:
        options.markdown.write_text(f"# Speed\n\n{table}", "utf-8")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(there), indent=1) + "\n", "utf-8")
    return 0


def measure(sizes: Sequence[int], peer: str | None, folder: Path, report: Report) -> None:
    with _saying("the disk, starting, the model"):
        writes.flush(folder, report)
        processes.starts(report)
        reads.model(report)
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            measure_size(size, peer, Path(place), report)


def measure_size(size: int, peer: str | None, folder: Path, report: Report) -> None:
    """Measure everything at one size. What reads comes first: what writes makes the store grow by some thousands."""
    database, embedder = folder / "speed.db", Clustered()
    url, vectors = f"sqlite:///{database}", folder / "vectors.npy"
    with _saying(f"{size:,}: bulk import"):
        bulk(url, size, embedder, folder, report)
    sizes_on_disk(database, size, report)
    hold(folder)
    with _saying(f"{size:,}: recall"):
        reads.recalls(url, size, embedder, report)
    with _saying(f"{size:,}: its parts, and exact search beside"):
        reads.parts(url, size, embedder, vectors, report)
    sizes_on_disk(database, size, report)
    if peer and size <= PEER_MAX:
        with _saying(f"{size:,}: the peer"):
            beside(peer, size, embedder, vectors, folder, report)
    vectors.unlink()
    with _saying(f"{size:,}: opening"):
        processes.openings(url, size, embedder, folder, report)
        processes.opening_anew(url, size, folder, Path(f"{database}-files"), report)
    if size == upkeep.EXPORTED_AT:
        with _saying(f"{size:,}: export and restore"):
            upkeep.exchange(url, size, folder, report)
    with _saying(f"{size:,}: forgetting"):
        upkeep.forgets(url, size, embedder, report)
    with _saying(f"{size:,}: adding"):
        reads.recalls_after_adds(url, size, embedder, report)
        writes.adds(url, size, embedder, report)


def bulk(url: str, size: int, embedder: Clustered, folder: Path, report: Report) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        alone = f"sqlite:///{place}/words.db"
        report.put("bulk_words", size, writes.bulk(alone, min(size, writes.BULK_WORDS_MAX), "none"))
    report.put("bulk", size, writes.bulk(url, size, embedder))


def hold(folder: Path) -> None:
    """Let the disk take what was written, and read every file once: the system has all of them at hand."""
    os.sync()
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def sizes_on_disk(database: Path, size: int, report: Report) -> None:
    """Take the sizes of the files of a store that is closed; the index may not be there before the first recall."""
    store = sum(path.stat().st_size for path in database.parent.glob(f"{database.name}*") if path.is_file())
    index = sum(path.stat().st_blocks * 512 for path in Path(f"{database}-files").rglob("*") if path.is_file())
    report.put("bytes_store", size, Figure(store / size))
    report.put("bytes_index", size, Figure(index / size))


def beside(peer: str, size: int, embedder: Clustered, vectors: Path, folder: Path, report: Report) -> None:
    asked = folder / "asked.npy"
    np.save(asked, embedder.vectors(texts.questions(size, reads.ASKED + WARM)))
    command = [peer, str(PEER), str(vectors), str(asked), str(folder / "peer")]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    report.peer_name = told["name"]
    report.peer[size] = {name: Figure(**figure) for name, figure in told["figures"].items()}


@contextlib.contextmanager
def _saying(what: str) -> Iterator[None]:
    begun = time.monotonic()
    print(f"{begun - BEGUN:6.1f} s  {what} … ", end="", file=sys.stderr, flush=True)
    yield
    print(f"{time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure how fast Simonides is. See bench/README.md.")
    parser.add_argument("--sizes", type=_sizes, default=_sizes(SIZES), help=f"records, by commas; default {SIZES}")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has chromadb")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the stores are made; default, the system's")
    return parser.parse_args(given)


def _sizes(text: str) -> list[int]:
    sizes = [int(part.replace("_", "")) for part in text.split(",")]
    if any(size < texts.THOUSAND or size % texts.THOUSAND for size in sizes):
        raise argparse.ArgumentTypeError(f"sizes are whole thousands, not {text}")
    return sorted(sizes)


if __name__ == "__main__":
    sys.exit(main())
