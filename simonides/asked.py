"""What the command line was asked: the options that every command takes, the filters many share, and ids in short.

A command is a `Command`: it says which section of the overview it belongs to, shows examples in its help, and takes
the common options after its name as well as before. It returns its exit status; None is 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from . import terminal
from .arguments import Which, Whose, named, zone_of
from .config import Settings, settings, store_url
from .errors import Invalid, NotFound
from .kinds import KINDS
from .query import Place
from .record import Record, Scope

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from .sync import Memory

F = TypeVar("F", bound=Callable[..., Any])
Made = Callable[[Callable[..., Any]], "Command"]

ABBREVIATED_MIN = 4  # characters of an id that are enough, where no other id has them
PAGE = 10_000
REMEMBER, CORRECT, ORGANISE, EXCHANGE, SERVE, UPKEEP = SECTIONS = (
    *("Remember and recall", "Correct and forget", "Organise", "Import and export", "Serve", "Upkeep"),
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The common options as they were given, before the command or after it."""

    store: str | None = None
    embedder: str | None = None
    user: str | None = None
    agent: str | None = None
    session: str | None = None
    space: str | None = None
    tenant: str | None = None
    json: bool = False
    quiet: bool = False

    @cached_property
    def settings(self) -> Settings:
        return settings({"store": self.store, "embedder": self.embedder, "tenant": self.tenant, "space": self.space})

    @cached_property
    def zone(self) -> tzinfo | None:
        return zone_of(self.settings.zone)

    @property
    def whose(self) -> Whose:
        """The names that narrow every call; the user is the setting's where none is named. An empty one is refused."""
        user = (self.settings.user or None) if self.user is None else self.user
        given = {"user": user, "agent": self.agent, "session": self.session}
        return cast(Whose, {level: named(level, name) for level, name in given.items() if name is not None})

    @property
    def scope(self) -> Scope:
        names = {level: self.whose.get(level) for level in ("user", "agent", "session")}
        return Scope(tenant=self.settings.tenant, space=self.settings.space, **cast(dict[str, Any], names))

    @contextlib.contextmanager
    def memory(self, *, new: bool = False) -> Iterator[Memory]:
        """Open the memory asked for. Unless it may be `new`, one that is not there is an error, not an empty answer."""
        if not new:
            self.is_there()
        with terminal.busy("Opening the memory…", self.quiet):
            from .sync import Memory

            memory = Memory(self.store, tenant=self.tenant, space=self.space, embedder=self.embedder)
        with memory:
            yield memory

    def is_there(self) -> None:
        scheme, _, path = store_url(self.settings.store_url).partition(":///")
        if scheme == "sqlite" and path != ":memory:" and not Path(path).exists():
            raise NotFound(
                f"there is no memory at {path} yet: begin one with `simonides remember` or `simonides import`, "
                "or look at `simonides demo`"
            )


def common(hidden: bool = False) -> list[click.Parameter]:
    """Return the options that every command takes. A command hides them: its help names them in one line."""
    option = [
        (["--store"], {"metavar": "URL|PATH", "help": "The memory to use; default: your own."}),
        (["--user"], {"metavar": "NAME", "help": "Whose memory; default: the setting `user`."}),
        (["--agent"], {"metavar": "NAME", "help": "Which agent's memory."}),
        (["--session"], {"metavar": "NAME", "help": "Which session of it."}),
        (["--space"], {"metavar": "NAME", "help": "Which space; default: the setting `space`."}),
        (["--tenant"], {"metavar": "NAME", "help": "Which tenant; default: the setting `tenant`."}),
        (["--embedder"], {"metavar": "URL", "help": "What turns text into vectors: local:, hashing:, none, …"}),
        (["--json"], {"is_flag": True, "default": None, "help": "Answer with one JSON document."}),
        (["-q", "--quiet"], {"is_flag": True, "default": None, "help": "Only the answer: no remarks, no progress."}),
    ]
    return [click.Option(names, hidden=hidden, **more) for names, more in option]  # type: ignore[arg-type]


class _Shown(click.Command):
    """Stands in a section of the overview, shows examples in its help, and takes the common options."""

    def __init__(self, *args: Any, section: str = "", example: str = "", **kwargs: Any) -> None:
        kwargs["params"] = [*(kwargs.get("params") or ()), *common(hidden=True)]
        super().__init__(*args, **kwargs)
        self.section, self.example = section, example

    def invoke(self, ctx: click.Context) -> Any:
        take_common(ctx)
        return super().invoke(ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the common options too, which the help hides."""
        from click.shell_completion import CompletionItem

        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            names = ((name, option) for option in common() for name in option.opts if name.startswith(incomplete))
            found += [CompletionItem(name, help=getattr(option, "help", None)) for name, option in names]
        return found

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        format_examples(self.example, formatter)


class Command(_Shown):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Every command also takes"):
            names = [option.opts[-1] for option in common()]
            formatter.write_text(f"{', '.join(names)} (see `simonides --help`)")


class Group(_Shown, click.Group):
    """A group of commands; with `invoke_without_command` a command of its own when nothing follows it."""

    command_class = Command


def take_common(ctx: click.Context) -> None:
    """Move the common options from the parameters to `ctx.obj`, over those given before the command."""
    names = {field.name for field in dataclasses.fields(Asked)}
    given = {name: ctx.params.pop(name) for name in names & ctx.params.keys()}
    before = ctx.obj if isinstance(ctx.obj, Asked) else Asked()
    ctx.obj = dataclasses.replace(before, **{name: value for name, value in given.items() if value is not None})


def format_examples(example: str, formatter: click.HelpFormatter) -> None:
    with formatter.section("Examples" if "\n" in example else "Example"):
        formatter.write("".join(f"  {row}\n" for row in example.splitlines()))


def among(names: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Let the shell complete to these names; what else is typed, the command itself judges."""
    return lambda ctx, param, incomplete: [name for name in names if name.startswith(incomplete)]


def command(
    section: str, example: str, name: str | None = None, cls: type[Command] = Command
) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command; the function gets `Asked` first."""

    def made(function: Callable[..., Any]) -> Command:
        return click.command(name, cls=cls, section=section, example=example)(click.pass_obj(function))

    return made


# -- values ------------------------------------------------------------------------------------------------------


class LocalTime(click.ParamType):  # type: ignore[type-arg]
    """A date or a time. Without an offset it is in the zone of who types it."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date | datetime:
        for read in (date.fromisoformat, datetime.fromisoformat):
            with contextlib.suppress(ValueError):
                return read(value)
        return self.fail(f"{value!r} is no time: write 2026-05-02 or 2026-05-02T09:00:00+01:00", param, ctx)

    @staticmethod
    def placed(value: Any, zone: tzinfo | None) -> Any:
        """Return a time that has no zone in that one, or in the system's; anything else as it is."""
        if not isinstance(value, datetime) or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=zone) if zone else value.astimezone()


class Pair(click.ParamType):  # type: ignore[type-arg]
    """NAME=VALUE; the value is JSON where it reads as JSON (2, true), otherwise text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, equals, text = value.partition("=")
        if not equals or not name:
            self.fail(f"{value!r} must be NAME=VALUE, like project=bridge", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


TIME, PAIR = LocalTime(), Pair()


def time_option(name: str, text: str) -> Callable[[F], F]:
    return click.option(name, type=TIME, metavar="TIME", help=text)


# -- filters -----------------------------------------------------------------------------------------------------


def matching(function: F) -> F:
    """Add the filters that hold for everything that looks at many records."""
    for option in reversed(_MATCHING):
        function = option(function)
    return function


def timed(function: F) -> F:
    """Add the filters that choose a clock, and what is archived or has ended."""
    for option in reversed(_TIMED):
        function = option(function)
    return function


_MATCHING = (
    click.option(
        "--kind",
        "kinds",
        multiple=True,
        metavar="KIND",
        shell_complete=among(KINDS),
        help=f"Only these kinds: {', '.join(KINDS)}.",
    ),
    click.option("--label", "labels", multiple=True, metavar="NAME", help="Only what bears this label."),
    click.option("--folder", metavar="PATH", help="Only what is in this folder or below it."),
    time_option("--since", "Only what was said at this time or after."),
    time_option("--until", "Only what was said before this time."),
    click.option("--pinned/--not-pinned", default=None, help="Only what is pinned, or only what is not."),
)
_TIMED = (
    time_option("--as-of", "What was true at this time."),
    time_option("--known-at", "What was believed at this time."),
    click.option("--archived", is_flag=True, help="What is archived too."),
    click.option("--ended", is_flag=True, help="What has ended, was superseded or retracted too."),
)


def limit(default: int) -> Callable[[F], F]:
    return click.option("-n", "--limit", default=default, show_default=True, metavar="N", help="At most this many.")


def which(asked: Asked, given: Mapping[str, Any]) -> Which:
    """Return the filters as the memory takes them: what was not given is left out, times are placed in the zone."""
    placed = {name: LocalTime.placed(value, asked.zone) for name, value in given.items()}
    kept = {name: value for name, value in placed.items() if value is not None and value is not False and value != ()}
    if given.get("pinned") is False:
        kept["pinned"] = False
    return cast(Which, {**asked.whose, **kept})


# -- ids ---------------------------------------------------------------------------------------------------------


def the_record(memory: Memory, id: str, asked: Asked) -> Record:
    """Return the record of that id, or the only one whose id begins or ends with it."""
    try:
        return memory.get(id, **asked.whose)
    except NotFound:
        found = [record for record in _everything(memory, asked) if _abbreviates(id, record.id)]
    if len(found) > 1:
        raise Invalid(f"{id!r} is the beginning or end of {len(found)} ids, write more of it: {_listed(found)}")
    if not found:
        raise NotFound(f"no record {id!r} here: `simonides list` shows ids, of which the end is enough")
    return found[0]


def the_records(memory: Memory, ids: Sequence[str], asked: Asked) -> list[Record]:
    return list({record.id: record for record in (the_record(memory, id, asked) for id in ids)}.values())


def the_place(memory: Memory, text: str, asked: Asked) -> Place | str:
    """Return the place that was printed as this text, or the id that it is short for: what `find` goes on after."""
    try:
        return Place.read(text)
    except Invalid:
        return the_record(memory, text, asked).id


def _abbreviates(short: str, id: str) -> bool:
    return len(short) >= ABBREVIATED_MIN and (id.startswith(short) or id.endswith(short))


def _listed(records: Sequence[Record]) -> str:
    return ", ".join(record.id for record in records[:5]) + (", …" if len(records) > 5 else "")


def _everything(memory: Memory, asked: Asked) -> Iterator[Record]:
    after: Record | None = None
    while page := memory.find(limit=PAGE, newest=False, after=after, archived=True, ended=True, **asked.whose):
        yield from page
        after = page[-1]


# -- text --------------------------------------------------------------------------------------------------------


def text_given(words: Sequence[str]) -> str | None:
    """Return the words as one text; for `-`, or no words and something piped in, what stdin holds; else None."""
    if words and tuple(words) != ("-",):
        return " ".join(words)
    if not words and sys.stdin.isatty():
        return None
    read = sys.stdin.buffer.read()
    try:
        return re.sub(r"\r?\n\Z", "", read.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Invalid(f"what was piped in is not UTF-8 (byte {error.start}): convert it, e.g. with iconv") from None
