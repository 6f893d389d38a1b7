"""What the documentation shows is run, and what it prints is compared; links lead somewhere, the reference is fresh.

A ```python block runs in the namespace of its page; a ```text block right after it is what it prints. A ```console
block holds `$ simonides …` lines, each run in a shell, and what they print. In both, `…` stands for anything in a
line, and a line of nothing but `…` for any lines. A ```python no-run block is only compiled.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

import simonides
import simonides.query
from simonides import Memory

ROOT = Path(__file__).resolve().parent.parent
HELD_BACK = 3  # blocks of all pages that are not run
README_MAX = 120  # lines
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "changelog.d").glob("*.md")])
FENCE = re.compile(r"^(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(?P<text>.+?)\s*$", re.MULTILINE)
SORTS = frozenset({"python", "python no-run", "pyi", "console", "sh", "text", "toml", "json", ""})
HALVES = (("/wo", "rk/"), ("/ro", "ot/"), ("/ho", "me/"), ("pypi", ".org"), ("registry.", "npmjs"))  # unnamed here too
FORBIDDEN = tuple("".join(halves).encode() for halves in HALVES)
WEIGHTS = (".onnx", ".npy", ".npz", "vocab.txt")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    info: str
    body: str
    prints: str | None = None  # the ```text block that follows at once

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    found = list(FENCE.finditer(text))
    made = []
    for match, after in zip_longest(found, found[1:]):
        follows = after and after["info"].strip() == "text" and not text[match.end() : after.start()].strip()
        prints = after["body"] if after and follows else None
        line = text.count("\n", 0, match.start()) + 1
        made.append(Block(page, line, match["info"].strip(), match["body"], prints))
    return made


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


SHOWING = [page for page in PAGES if any(block.info in ("python", "console") for block in blocks(page))]


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder where nothing was ever remembered, and `simonides` on the path."""
    here, programs = home / "here", home / "bin"
    here.mkdir()
    programs.mkdir()
    program = programs / "simonides"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m simonides "$@"\n')
    program.chmod(0o755)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SIMONIDES_EMBEDDER", "hashing:")
    monkeypatch.chdir(here)
    yield here


@pytest.mark.parametrize("page", SHOWING, ids=name)
def test_what_a_page_shows_runs_and_prints_what_it_says(page: Path, place: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        for block in blocks(page):
            if block.info == "python":
                _run_python(block, namespace)
            elif block.info == "console":
                _run_console(block)
    finally:
        for value in namespace.values():
            if isinstance(value, Memory):
                value.close()


def _run_python(block: Block, namespace: dict[str, Any]) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(_compiled(block), namespace)
    if block.prints is not None:
        _compare(block, printed.getvalue(), block.prints)


def _compiled(block: Block) -> Any:
    return compile("\n" * block.line + block.body, str(block.page), "exec")


def _run_console(block: Block) -> None:
    for command, expected in _commands(block):
        ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, encoding="utf-8", timeout=120)
        assert ran.returncode == 0, f"{block.where}: {command}\n{ran.stdout}{ran.stderr}"
        if expected:
            _compare(block, ran.stdout, expected)


def _commands(block: Block) -> list[tuple[str, str]]:
    """Return each command with what it prints."""
    found: list[tuple[str, str]] = []
    for line in block.body.splitlines():
        if line.startswith("$ "):
            assert re.search(r"\bsimonides ", line), f"{block.where}: only simonides is run here, not {line!r}"
            found.append((line[2:], ""))
        else:
            assert found, f"{block.where}: a console block begins with a command"
            found[-1] = found[-1][0], f"{found[-1][1]}{line}\n"
    return found


def _compare(block: Block, printed: str, expected: str) -> None:
    def pattern(line: str) -> str:
        if line.strip() == "…":
            return r"(?:[^\n]*\n)*?"
        return re.sub(r"\\?…", "[^\\\\n]*?", re.escape(line.rstrip())) + r"[ \t]*\n"

    wanted = "".join(pattern(line) for line in expected.splitlines())
    shown = "".join(f"{line}\n" for line in printed.splitlines())
    assert re.fullmatch(wanted, shown), f"{block.where} says\n\n{expected}\nbut it printed\n\n{shown}"


def test_only_a_few_blocks_are_not_run() -> None:
    every = [block for page in PAGES for block in blocks(page)]
    assert {block.info for block in every} <= SORTS, "a new sort of block: say above what it means"
    held_back = [block for block in every if block.info == "python no-run"]
    for block in held_back:
        _compiled(block)
    assert len(held_back) <= HELD_BACK, f"run them: {', '.join(block.where for block in held_back)}"


def test_the_backend_of_the_guide_is_opened_by_its_name(place: Path) -> None:
    """As a package of somebody else's: its module, and the entry point that the guide shows."""
    guide = ROOT / "docs" / "guides" / "write-a-backend.md"
    [code] = [block.body for block in blocks(guide) if block.body.startswith('"""Vectors')]
    [entry] = [block.body for block in blocks(guide) if "entry-points" in block.body]
    points = re.sub(r"\[project\.entry-points\.\"(.+?)\"\]", r"[\1]", entry).replace('"', "")
    (place / "simonides_letters.py").write_text(code)
    (place / "simonides_letters-1.0.dist-info").mkdir()
    (place / "simonides_letters-1.0.dist-info" / "METADATA").write_text("Name: simonides-letters\nVersion: 1.0\n")
    (place / "simonides_letters-1.0.dist-info" / "entry_points.txt").write_text(points)
    asked = (
        "from simonides import Memory\n"
        "with Memory(':memory:', embedder='letters:') as memory:\n"
        "    memory.remember('harbour'); memory.remember('zzz')\n"
        "    print(memory.recall('harbours')[0].text, memory.stats()['embedder'])\n"
    )
    ran = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=120)
    assert ran.stdout.split() == ["harbour", "letters/1"], ran.stderr


def test_the_suite_runs_as_the_guide_shows(place: Path) -> None:
    guide = ROOT / "docs" / "guides" / "write-a-backend.md"
    [code] = [block.body for block in blocks(guide) if block.body.startswith('"""test_my_store.py')]
    (place / "test_my_store.py").write_text(code)
    (place / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    asked = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "test_what_is_put_is_found"]
    ran = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0 and "1 passed" in ran.stdout, ran.stdout + ran.stderr


# -- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    for match in LINK.finditer(text):
        path, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), f"{name(page)} links to {match['target']}"
        if anchor:
            assert anchor in _anchors(target), f"{name(page)} links to {match['target']}, a heading that is not there"


def _anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text("utf-8"))
    plain = [re.sub(r"[^\w\- ]", "", match["text"].lower()) for match in HEADING.finditer(text)]
    return {heading.replace(" ", "-") for heading in plain}


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = {match["target"].partition("#")[0] for match in LINK.finditer(page.read_text("utf-8"))}
        targets = {(page.parent / link).resolve() for link in links if link.endswith(".md")}
        waiting += [target for target in targets if target.exists() and target not in reached]
    left = [name(page) for page in PAGES if page not in reached and page.is_relative_to(ROOT / "docs")]
    assert not left, f"no link leads to {', '.join(left)}"


def test_the_reference_is_fresh() -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= README_MAX


def test_the_news_say_how_they_are_kept() -> None:
    assert (ROOT / "changelog.d" / "README.md").exists()
    assert list((ROOT / "changelog.d").glob("*.md")) != [ROOT / "changelog.d" / "README.md"]


@pytest.mark.parametrize("module", [simonides.query], ids=lambda module: module.__name__)
def test_the_examples_of_a_docstring_run_and_print_what_they_say(module: Any) -> None:
    ran = doctest.testmod(module)
    assert ran.attempted and not ran.failed


def test_the_first_lines_of_the_package_run(place: Path) -> None:
    """The example in the package's own docstring."""
    example = "\n".join(line[4:] for line in (simonides.__doc__ or "").splitlines() if line.startswith("    "))
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(example, "simonides/__init__.py", "exec"), namespace)
    namespace["memory"].close()


def test_nothing_names_one_machine_or_a_registry() -> None:
    found = [
        f"{name(path)} names {forbidden.decode()}"
        for path in _kept()
        for forbidden in FORBIDDEN
        if forbidden in path.read_bytes()
    ]
    assert not found


def _kept() -> list[Path]:
    """Return the files that belong to the repository: what git knows or would take, or failing that all there are."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        ran = subprocess.run(asked, cwd=ROOT, capture_output=True, timeout=60)
        if ran.returncode == 0:
            return [path for part in ran.stdout.split(b"\0") if part and (path := ROOT / os.fsdecode(part)).is_file()]
    every = (path for path in ROOT.rglob("*") if path.is_file() and not path.name.endswith(WEIGHTS))
    return [path for path in every if not {"build", "dist", "__pycache__"} & set(path.parts) and not _hidden(path)]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(ROOT).parts)
