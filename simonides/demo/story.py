"""A short story told with a real memory: an archive is imported, asked, corrected, and erased from.

Only the questions are written here. Every answer is what the memory recalls; nobody of whom it speaks exists.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import shown, terminal
from ..arguments import zone_of
from ..errors import Conflict, NotFound
from ..intake import take_in
from ..query import Hit
from ..recall import Hits
from ..record import Record, Scope, now
from ..store import Certificate
from ..sync import Memory

if TYPE_CHECKING:
    from rich.console import RenderableType

ARCHIVE = Path(__file__).with_name("archive.json")
USER, ZONE = "marta", "Europe/Lisbon"
LISBON = zone_of(ZONE)
WIDTH, INDENT, TEXT_MAX = 80, 3, 320
QUESTIONS = (
    "What am I allergic to?",
    "Who promised Ana Lopes a night closure?",
    "What did my father say when he switched the radio on?",
    "Quanto levou o canalizador e que garantia deu?",
    "What was stop code 0x0000009F?",
)
FLIGHTS = "Which booking code do my flights have?"
CHANGED = "The flights were changed once more: 4 to 16 April, booking code R8VD2K."
EARLIER = "2026-07-01"
SECRET = "AP-3307-5521"
AFTERWARDS = """{command} import ~/Downloads/export.zip   # yours, from ChatGPT or Claude
{command} recall "what did I promise?"

from simonides import Memory
memory = Memory()
print(*memory.recall("what did I promise?"), sep="\\n")"""


def tell(keep: Path | None = None, *, embedder: str | None = None, quiet: bool = False) -> None:
    """Tell the story in a folder of its own, which is removed afterwards unless it is to be kept."""
    with _folder(keep) as folder:
        with _memory(folder, embedder, quiet) as memory:
            story = Story(memory, folder, quiet)
            for chapter in (story.opening, story.asking, story.correcting, story.forgetting):
                chapter()
        _close(folder if keep else None)


def _memory(folder: Path, embedder: str | None, quiet: bool) -> Memory:
    """Open a new memory; nothing that is set for the user's own is taken over but the embedder."""
    path = folder / "demo.db"
    with terminal.busy("Opening a new memory…", quiet):
        return Memory(path, tenant="default", space="main", require=(), embedder=embedder, index="flat:", zone=ZONE)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="simonides-demo-", ignore_cleanup_errors=True) as name:
            yield Path(name)
        return
    if (keep / "demo.db").exists():
        raise Conflict(f"there is a memory in {keep} already: name another folder")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep


@dataclass(frozen=True)
class Story:
    memory: Memory
    folder: Path
    quiet: bool

    # -- the chapters --------------------------------------------------------------------------------------------

    def opening(self) -> None:
        """Import the archive."""
        with terminal.counting("Importing", self.quiet, total=ARCHIVE.stat().st_size, size=True) as progress:
            began = time.perf_counter()
            intake = take_in(self.memory, [ARCHIVE], Scope(user=USER), progress)
            took = time.perf_counter() - began
        kinds = {kind: number for (_, kind), number in intake.new.items()}
        _title("A year of somebody who does not exist")
        _prose(
            f"Imported the chats of Marta Oliveira, engineer, as ChatGPT exports them: "
            f"{kinds.get('conversation', 0)} conversations, {kinds.get('message', 0)} messages, in {took:.1f} s, "
            f"with the embedder {self.memory.stats()['embedder']}. They are in a folder of their own; nothing of yours "
            "is touched."
        )

    def asking(self) -> None:
        """Ask five questions."""
        _title("Asked in her words, answered in hers")
        for number, question in enumerate(QUESTIONS, 1):
            hits, took_ms = self._recalled(question)
            _question(f"{number}. {question}", took_ms)
            self._answer(hits)
        for note in hits.notes:
            _prose(f"({note})")

    def correcting(self) -> None:
        """Say what is true instead, and ask three clocks."""
        _title("What is true now, what was, and what we believed")
        before, took_ms = self._recalled(FLIGHTS)
        _question(FLIGHTS, took_ms)
        old = self._answer(before)
        believed = now()
        new = self.memory.supersede(old.id, CHANGED, user=USER)
        _command(f'supersede {shown.short(old.id)} "{CHANGED}"')
        for asked, clock in (
            ("Asked again", {}),
            (f"As of 1 July: --as-of {EARLIER}", {"as_of": EARLIER}),
            ("As we believed a moment ago: --known-at", {"known_at": believed}),
        ):
            hits, took_ms = self._recalled(FLIGHTS, **clock)
            _question(asked, took_ms)
            self._answer(hits, why=False)
        found = {hit.id for hit in self._recalled(FLIGHTS)[0]}
        state = "still given" if old.id in found else "no longer given"
        _prose(f"The old answer is {state}; {shown.short(new.id)} links to it, and its history stays.")

    def forgetting(self) -> None:
        """Erase a conversation, and look for it in every file."""
        _title("What is forgotten is gone")
        asked = f"Which policy was {SECRET}?"
        hits, took_ms = self._recalled(asked)
        _question(asked, took_ms)
        told = self._answer(hits, why=False)
        held = self._holding(SECRET)
        certificate = self.memory.forget(session=told.scope.session, user=USER)
        _command(f"forget --session {told.scope.session} --yes")
        for thing in shown.certified(certificate, LISBON):
            _indented(thing)
        again, took_ms = self._recalled(asked)
        _question(f"{asked[:-1]}, asked again?", took_ms)
        self._verdict(again, certificate, held)

    # -- what they are told with ---------------------------------------------------------------------------------

    def _recalled(self, question: str, **which: Any) -> tuple[Hits, float]:
        began = time.perf_counter()
        hits = self.memory.recall(question, limit=3, explain=True, user=USER, **which)
        return hits, 1000 * (time.perf_counter() - began)

    def _answer(self, hits: Hits, *, why: bool = True) -> Record:
        if not hits:
            raise NotFound("the demo's memory recalled nothing: please report this")
        first = hits[0]
        _line(shown.cut(first.text, TEXT_MAX), "bold")
        _line(_origin(first), "dim")
        if why:
            _line(f"found because: {shown.reasons(first, 2)}", "dim italic")
        return first.record

    def _verdict(self, hits: Hits, certificate: Certificate, held: int) -> None:
        left = len({hit.id for hit in hits} & set(certificate.ids))
        says = sum(SECRET in hit.text for hit in hits)
        _line(f"{left} of the {certificate.count} erased records are recalled; {says} of what is recalled says it.")
        _line(f"{SECRET} stood in {shown.count(held, 'place')} of the memory's files; now in {self._holding(SECRET)}.")

    def _holding(self, words: str) -> int:
        """Return how often the words stand in the bytes of all files, whatever these are."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sum(path.read_bytes().count(words.encode()) for path in files)


def _origin(hit: Hit) -> str:
    who = "Marta" if hit.record.body.who == "user" else f"the {hit.record.body.who}"
    where = f", in “{shown.cut(hit.title, 50)}”" if hit.title else ""
    return f"{who}, {shown.when(hit.record.at, LISBON)}{where}"


# -- on the page -------------------------------------------------------------------------------------------------


def _title(text: str) -> None:
    terminal.show("", shown.plain(text, "bold cyan"), shown.plain("─" * len(text), "cyan"), width=WIDTH)


def _prose(text: str) -> None:
    terminal.show(shown.plain(text), width=WIDTH)


def _question(text: str, took_ms: float) -> None:
    """Print a question, and at the right how long its recall took."""
    from rich.table import Table

    row = Table.grid(expand=True)
    row.add_column(ratio=1)
    row.add_column(justify="right")
    row.add_row(shown.plain(text, "cyan"), shown.plain(f"{took_ms:.0f} ms", "dim"))
    terminal.show("", row, width=WIDTH)


def _command(text: str) -> None:
    terminal.show("", shown.plain(f"$ simonides {text}", "green"), width=WIDTH)


def _line(text: str, style: str = "") -> None:
    _indented(shown.plain(text, style))


def _indented(thing: RenderableType) -> None:
    from rich.padding import Padding

    terminal.show(Padding(thing, (0, 0, 0, INDENT)), width=WIDTH)


def _close(folder: Path | None) -> None:
    _title("Now yours")
    if folder:
        _line(f'{_program()} --store {folder / "demo.db"} --user {USER} recall "…"    # this one is kept')
    for row in AFTERWARDS.format(command=_program()).splitlines():
        _line(row, "green")


def _program() -> str:
    """Return what to type: the command's name, or where it is when it is in an environment that is not active."""
    here = Path(sys.argv[0])
    if shutil.which("simonides") or here.stem != "simonides":
        return "simonides"
    return os.path.relpath(here) if here.is_relative_to(Path.cwd()) else str(here)
