"""`simonides` on the command line. Each command is a function in `commands/`; this is the frame around them.

Answers go to stdout, everything else to stderr. The exit status says what kind of failure it was (see EXITS), and an
error is one line that says what to do; with --json, an object.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from . import __version__, terminal
from .asked import SECTIONS, common, format_examples, take_common
from .commands import (
    bench,
    call,
    clients,
    copies,
    correct,
    embeddings,
    exchange,
    keys,
    organise,
    remember,
    serve,
    settings,
    upkeep,
    work,
)
from .disk import is_full
from .errors import SimonidesError

MODULES = (
    remember,
    correct,
    organise,
    exchange,
    serve,
    work,
    call,
    keys,
    upkeep,
    copies,
    embeddings,
    settings,
    bench,
    clients,
)
WRONG, UNAVAILABLE, INTERRUPTED = 2, 5, 130
EXITS = {
    "invalid": WRONG,
    "unauthorized": WRONG,
    "forbidden": WRONG,
    "not_found": 3,
    "conflict": 4,
    "limited": UNAVAILABLE,
    "unavailable": UNAVAILABLE,
    "full": UNAVAILABLE,
    "damaged": 6,
}
STATUSES = (
    ("0", "done"),
    ("1", "nothing found, something is wrong (doctor), or nothing was erased"),
    ("2", "the command itself is wrong, or not allowed"),
    ("3", "no such record, file or memory"),
    ("4", "a conflict with what is there"),
    ("5", "something needed is not available, the disk is full, or there were too many calls"),
    ("6", "a file is damaged: see `simonides doctor`"),
    ("7", "recall is significantly worse than in the run compared with (bench quality --against)"),
    ("130", "interrupted; what was being written is there as a whole, or not at all"),
)
EXAMPLE = """simonides remember "I moved to Porto in September"
simonides recall "where do I live?"
simonides import ~/Downloads/chatgpt-export.zip"""


class Overview(click.Group):
    """The program: groups its commands in the help, and turns errors into one line and an exit status."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *rest: Any, **more: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in given[: given.index("--")] if "--" in given else "--json" in given
        more["standalone_mode"] = False
        try:
            sys.exit(super().main(given, "simonides", *rest, **more) or 0)
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(_failed("interrupted", "interrupted", INTERRUPTED, as_json))
        except click.ClickException as error:
            sys.exit(_failed("invalid", _said(error), WRONG, as_json))
        except SimonidesError as error:
            sys.exit(_failed(error.code, error.message, EXITS.get(error.code, 1), as_json))
        except OSError as error:
            sys.exit(_failed(*_refused(error), UNAVAILABLE, as_json))

    def invoke(self, ctx: click.Context) -> Any:
        take_common(ctx)
        with _warnings_heard(ctx.obj.quiet):
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in SECTIONS:
            inside = [made for made in self.commands.values() if getattr(made, "section", "") == section]
            with formatter.section(section):
                formatter.write_dl([(made.name or "", made.get_short_help_str(90)) for made in inside])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit status"):
            formatter.write_dl(STATUSES)
        format_examples(EXAMPLE, formatter)


def _said(error: click.ClickException) -> str:
    """Return a usage error as one sentence, with where to look."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "simonides"
    return f"{error.format_message().rstrip('.')} (see `{path} --help`)"


def _refused(error: OSError) -> tuple[str, str]:
    """Return the code and the sentence for what the operating system refused."""
    full = is_full(error)
    about = f"{error.filename}: " if error.filename else ""
    return "full" if full else "unavailable", f"{about}{error.strerror or error}"


def _failed(code: str, message: str, status: int, as_json: bool) -> int:
    one_line = " ".join(message.split())
    terminal.tell(json.dumps({"error": code, "message": one_line}) if as_json else f"simonides: {one_line}")
    return status


class _Remarks(logging.Handler):
    """Prints the library's warnings as the program's own remarks."""

    def emit(self, record: logging.LogRecord) -> None:
        terminal.tell(f"simonides: {record.getMessage()}")


@contextlib.contextmanager
def _warnings_heard(quiet: bool) -> Iterator[None]:
    log, remarks = logging.getLogger("simonides"), _Remarks(logging.ERROR if quiet else logging.WARNING)
    log.addHandler(remarks)
    try:
        yield
    finally:
        log.removeHandler(remarks)


@click.group(
    cls=Overview,
    params=common(),
    subcommand_metavar="COMMAND …",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="simonides %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Memory for AI systems: keeps what was said, finds what matters, corrects itself, and forgets provably.

    The options below may stand before a command or after it. Of an id its end is enough.
    """
    if ctx.invoked_subcommand is None:
        terminal.say(ctx.get_help())


for _module in MODULES:
    for _made in vars(_module).values():
        if isinstance(_made, click.Command) and getattr(_made, "section", None) in SECTIONS:
            main.add_command(_made)
