"""Upkeep: how much there is, whether it is sound, what was erased, and a first look round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import shown, terminal, wire
from ..asked import UPKEEP, Asked, command
from ..errors import Invalid
from .remember import remark

COMPLAINTS = 1  # the exit status where something is wrong
INSTALL = {
    "bash": "echo 'eval \"$(simonides completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(simonides completion zsh)\"' >> ~/.zshrc",
    "fish": "simonides completion fish > ~/.config/fish/completions/simonides.fish",
}


@command(UPKEEP, "simonides stats")
def stats(asked: Asked) -> None:
    """Show what is kept and how much."""
    with asked.memory() as memory:
        found = memory.stats()
    if asked.json:
        terminal.say_json(found)
        return
    rows = {name.replace("_", " "): _figure(value) for name, value in found.items() if value is not None}
    terminal.show(shown.pairs(rows))


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


@command(UPKEEP, "simonides doctor\nsimonides doctor --repair")
@click.option("--repair", is_flag=True, help="Make words and vectors again from the records, then look again.")
def doctor(asked: Asked, repair: bool) -> int:
    """Look everything over; the exit status is 1 if something is wrong."""
    before = complaints = _complaints(asked)
    if repair and complaints:
        with asked.memory() as memory, terminal.counting("Rebuilding", asked.quiet) as progress:
            memory.rebuild(progress=progress)
        complaints = _complaints(asked)  # of the memory opened anew, as whoever comes next will find it
    mended = [complaint for complaint in before if complaint not in complaints]
    if asked.json:
        terminal.say_json({"sound": not complaints, "complaints": complaints, "mended": mended})
    else:
        for complaint in complaints:
            terminal.say(terminal.safe(f"- {complaint}"))
        remark(asked, *(f"mended: {complaint}" for complaint in mended))
        if not complaints:
            terminal.say("Everything is sound.")
        elif not repair:
            remark(asked, f"{shown.count(len(complaints), 'complaint')}; `simonides doctor --repair` mends what it can")
    return COMPLAINTS if complaints else 0


def _complaints(asked: Asked) -> list[str]:
    with asked.memory() as memory, terminal.busy("Looking everything over…", asked.quiet):
        return memory.doctor()


@command(UPKEEP, "simonides rebuild")
def rebuild(asked: Asked) -> None:
    """Make words and vectors' index again from the records."""
    with asked.memory() as memory, terminal.counting("Rebuilding", asked.quiet) as progress:
        vectors = memory.rebuild(progress=progress)
    if asked.json:
        terminal.say_json({"vectors": vectors})
    elif not asked.quiet:
        terminal.say(f"Rebuilt: {shown.count(vectors, 'vector')}.")


@command(UPKEEP, "simonides certificates\nsimonides certificates --json")
def certificates(asked: Asked) -> int:
    """List what was erased: when, how much, and how. Nothing of what it said is left to show."""
    with asked.memory() as memory:
        found = memory.certificates(**asked.whose)
    if asked.json:
        terminal.say_json([wire.certificate_as_json(each) for each in found])
    elif found:
        terminal.show(shown.certificates(found, asked.zone))
    else:
        remark(asked, "nothing was ever erased here")
    return 0 if found else 1


# -- first look --------------------------------------------------------------------------------------------------


@command(UPKEEP, 'eval "$(simonides completion bash)"')
@click.argument("shell", type=click.Choice(list(INSTALL)))
def completion(asked: Asked, shell: str) -> None:
    """Print the completion script of a shell, and how to install it."""
    from click.shell_completion import get_completion_class

    context = click.get_current_context().find_root()
    made = get_completion_class(shell)
    assert made is not None
    script = made(context.command, {}, "simonides", "_SIMONIDES_COMPLETE").source()
    if asked.json:
        terminal.say_json({"shell": shell, "script": script, "install": INSTALL[shell]})
    else:
        terminal.say(f"{script.rstrip()}\n\n# To install: {INSTALL[shell]}")


@command(UPKEEP, "simonides demo\nsimonides demo --keep ./demo")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Keep the memory there.")
def demo(asked: Asked, keep: Path | None) -> None:
    """See it at work: a sample archive is imported, asked, corrected and erased from.

    It happens in a folder of its own, which is removed afterwards; nothing of yours is touched.
    """
    if asked.json:
        raise Invalid("the demo is a story to be read: it has no answer in JSON")
    from ..demo.story import tell

    tell(keep, embedder=asked.settings.embedder, quiet=asked.quiet)
