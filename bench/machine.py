"""Where and with what it was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import apsw

import simonides


def machine(folder: Path) -> dict[str, str]:
    """Return what a reader must know to compare, by name."""
    system = f"{platform.system()} {platform.release()}"
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{os.cpu_count()} × {_processor()}, {_memory_gib():.0f} GiB, {system}",
        "folder": f"{folder} ({_file_system(folder)})",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()) + " at the start",
        "versions": ", ".join(
            [
                f"simonides {simonides.__version__}",
                f"Python {platform.python_version()}",
                f"SQLite {apsw.sqlite_lib_version()}",
                *(f"{name} {_version(name)}" for name in ("apsw", "numpy", "faiss-cpu", "onnxruntime")),
            ]
        ),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3


def _file_system(folder: Path) -> str:
    """Return the type of the file system: a flush in memory (tmpfs) costs nothing, and says nothing."""
    path = Path("/proc/mounts")
    mounts = [line.split()[1:3] for line in path.read_text().splitlines()] if path.exists() else []
    holding = [(mount, kind) for mount, kind in mounts if folder.resolve().is_relative_to(mount)]
    return max(holding, key=lambda found: len(found[0]))[1] if holding else "unknown"
