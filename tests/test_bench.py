"""The scripts that measure and fit: they can be run, so that a change elsewhere does not break them unnoticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
SCRIPTS = sorted(path.stem for path in BENCH.glob("*.py"))
PEERS = {"peer_chroma"}  # run by an interpreter of their own, which has the peer


def python(*arguments: str, cwd: Path = BENCH) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(BENCH.parent)},
    )  # fmt: skip


def test_there_are_scripts() -> None:
    assert {"speed", "quality", "fit_weights", "reads"} <= set(SCRIPTS)


def test_every_script_can_be_imported() -> None:
    names = [name for name in SCRIPTS if name not in PEERS]
    done = python("-c", "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)", *names)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "script", ["exchange", "fit_tokens", "fit_weights", "quality", "scale_workers", "serve", "speed"]
)
def test_a_script_says_what_it_does(script: str) -> None:
    done = python(str(BENCH / f"{script}.py"), "--help")
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def test_the_server_is_measured_and_loses_nothing(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    given = ["--bare", "--size", "1000", "--seconds", "0.2", "--soak", "0.5", "--paired", "20", "--idle", "50"]
    done = python(str(BENCH / "serve.py"), *given, "--folder", str(tmp_path), "--json", str(found))
    assert done.returncode == 0, done.stderr
    figures = {name: row["sizes"]["1000"]["value"] for name, row in json.loads(found.read_text())["figures"].items()}
    assert {name: figures[name] for name in ("lost", "cut", "held_dead", "errors")} == dict.fromkeys(
        ("lost", "cut", "held_dead", "errors"), 0
    )
    assert all(value > 0 for name, value in figures.items() if name.endswith("_rate") or name in ("ready", "stop"))


def test_imports_and_exports_are_measured(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    done = python(str(BENCH / "exchange.py"), "--size", "1", "--folder", str(tmp_path), "--json", str(found))
    assert done.returncode == 0, done.stderr
    rows = json.loads(found.read_text())["rows"]
    assert [row["what"].partition(",")[0] for row in rows] == ["import", "import", "export", "import of that export"]
    assert rows[2]["lines"] - 1 == rows[3]["lines"] and all(row["anonymous"] >= row["before"] for row in rows)
