"""The flags of a command that starts a server: one for each of its settings, or for those that are named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .serving import Serving, about
from .sources import FILE

F = TypeVar("F", bound=Callable[..., Any])


def serving_flags(*names: str) -> Callable[[F], F]:
    """Give a command the flags of these settings, or of all. What was given goes to `config.serving` as it is.

    A secret has no flag of its own, since others on the machine see it there: only `--<name>-file`.
    """

    def made(function: F) -> F:
        for field in reversed(dataclasses.fields(Serving)):
            if not names or field.name in names:
                function = click.option(*_spelled(field), default=None, **_shape(field))(function)
        return function

    return made


def _spelled(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    flag = f"--{field.name.replace('_', '-')}"
    if about(field).secret:
        return f"{flag}-file", field.name + FILE
    return f"{flag}/--no-{flag[2:]}" if field.type == "bool" else flag, field.name


def _shape(field: dataclasses.Field[Any]) -> dict[str, Any]:
    meaning = about(field).meaning
    text = f"{meaning[0].upper()}{meaning[1:]}."
    if field.type == "bool":
        return {"help": text}
    if about(field).secret:
        return {"help": f"The file that holds {meaning}.", "metavar": "PATH"}
    metavar = {"int": "N", "float": "SECONDS", "tuple[str, ...]": "A,B"}.get(str(field.type), "TEXT")
    return {"help": text, "metavar": "|".join(about(field).choices) or metavar}
