"""The one place where the command line writes.

What was remembered may come from anybody, so no control character of it reaches a terminal: a stored escape sequence is
shown, never obeyed. A reader that went away (`| head`) ends the program silently. Progress goes to stderr, and only
where somebody looks at it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Progress = Callable[[int], None]
PIPE_WIDTH = 120  # columns, where no terminal says how many there are
PATIENCE_S = 0.4
PIECE = 8192  # unbuffered (PYTHONUNBUFFERED), a longer write to a pipe may end early without an error
PIPE_CLOSED = 141  # what a shell reports of a program that SIGPIPE ended

# Tabs and newlines stay. C1 controls, line separators, bidirectional overrides and lone surrogates go too.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def safe(text: str) -> str:
    r"""Return the text with every character that could steer a terminal written out: ESC as \x1b."""
    return _CONTROL.sub(lambda found: _escaped(ord(found[0])), text)


def line(text: str) -> str:
    """Return the text as one line, safe to print."""
    return safe(" ".join(text.split()))


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def say(text: str = "") -> None:
    """Print a text of our own making, or one made safe, to stdout."""
    _write(f"{text}\n", sys.stdout)


def tell(text: str) -> None:
    """Print a remark to stderr."""
    _write(f"{safe(text)}\n", sys.stderr)


def say_json(value: Any) -> None:
    """Print one JSON document. Beyond what JSON demands, what could steer a terminal is written as \\uXXXX."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    _write(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\x7f", "\\u007f")) + "\n", sys.stdout)


def show(*things: RenderableType, width: int | None = None) -> None:
    """Print tables and texts of rich to stdout, at most so wide, without the spaces that rich fills lines with."""
    _write(_drawn(things, sys.stdout, width), sys.stdout)


def show_beside(*things: RenderableType) -> None:
    """Print tables and texts of rich to stderr, beside the answer."""
    _write(_drawn(things, sys.stderr), sys.stderr)


def _drawn(things: Sequence[RenderableType], stream: TextIO, width: int | None = None) -> str:
    console = console_of(stream)
    with console.capture() as captured:
        for thing in things:
            console.print(thing, width=min(width or console.width, console.width))
    return "".join(f"{row.rstrip()}\n" for row in captured.get().removesuffix("\n").split("\n"))


def console_of(stream: TextIO) -> Console:
    """Return a console that takes every text as it is: no markup, no emoji names, no guessed colours."""
    from rich.console import Console

    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


def _write(text: str, stream: TextIO) -> None:
    encoding = stream.encoding or "utf-8"
    possible = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        for start in range(0, len(possible), PIECE):
            stream.write(possible[start : start + PIECE])
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what Python flushes at its end goes nowhere
        raise click.exceptions.Exit(PIPE_CLOSED) from None


def watched() -> bool:
    """Whether somebody looks at stderr."""
    return sys.stderr.isatty()


def can_ask() -> bool:
    return sys.stdin.isatty() and watched()


def confirmed(question: str) -> bool:
    """Ask on stderr; only "y" or "yes" is a yes, the end of the input a no."""
    _write(f"{safe(question)} [y/N] ", sys.stderr)
    return sys.stdin.readline().strip().casefold() in {"y", "yes"}


@contextlib.contextmanager
def busy(what: str, quiet: bool = False) -> Iterator[None]:
    """Show that something is going on, if it lasts long enough for somebody to wonder."""
    if quiet or not watched():
        yield
        return
    shown = contextlib.ExitStack()
    timer = threading.Timer(PATIENCE_S, lambda: shown.enter_context(console_of(sys.stderr).status(safe(what))))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        shown.close()


@contextlib.contextmanager
def counting(what: str, quiet: bool = False, *, total: int | None = None, size: bool = False) -> Iterator[Progress]:
    """Show a bar, and yield what tells it how far things are: how many more, or with `size` how many bytes in all."""
    if quiet or not watched():
        yield lambda amount: None
        return
    from rich import progress as bars

    amount = bars.DownloadColumn() if size else bars.MofNCompleteColumn()
    columns = (bars.TextColumn("{task.description}", markup=False), bars.BarColumn(), amount, bars.TimeElapsedColumn())
    with bars.Progress(*columns, console=console_of(sys.stderr), transient=True) as progress:
        task = progress.add_task(safe(what), total=total)
        yield lambda done: progress.update(task, completed=done) if size else progress.advance(task, done)
