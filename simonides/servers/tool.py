"""What a tool is: something that a language model may call, as MCP lists it.

A tool is written over the operations of the table, never over the store: whoever calls it may do with it what their key
may do anywhere. Every token of a tool's description is paid for by its user in every conversation, so a schema here
says what a model has to know; what a value may be is said by the error, to whom it concerns.
"""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..access import LOCAL, Principal
from ..api import OPERATIONS, Desk
from ..api.operation import explained
from ..errors import Invalid, Unavailable
from ..wire import Json

Tell = Callable[[float, float | None, str], Awaitable[None]]

UNSAID = frozenset({"title", "examples", "pattern", "minLength", "maxLength", "additionalProperties"})
NAMED = ("properties", "$defs")  # under these, names are the caller's and no keywords


async def unheard(done: float, total: float | None, says: str) -> None:
    """Tell nobody how far it is."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Somebody who calls: as whom, whose memory it is about where a call names nobody, and whom to tell how far it is.

    `whose` holds values for `user`, `agent`, `session` and `space`.
    """

    desk: Desk
    principal: Principal = LOCAL
    whose: Mapping[str, str] = field(default_factory=dict)
    tell: Tell = unheard

    async def do(self, operation: str, arguments: Mapping[str, Any] | None = None, /, **more: Any) -> Json:
        """Ask for an operation of the table; what is None is not named. Raise errors of our tree alone."""
        named = {name: value for name, value in {**(arguments or {}), **more}.items() if value is not None}
        seconds = self.desk.serving.seconds_max
        try:
            async with asyncio.timeout(seconds):
                return await OPERATIONS[operation](self.desk, self.principal, {**self.whose, **named})
        except TimeoutError:
            raise Unavailable(f"it took longer than {seconds:g} s; it may be done all the same") from None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model reads, and the same as data."""

    text: str
    data: Json


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """`reads`: changes nothing. `destroys`: what it takes away cannot be had back. `repeats`: twice is once."""

    name: str
    does: str
    takes: Json  # a JSON schema
    reads: bool
    destroys: bool
    repeats: bool
    run: Callable[[Mapping[str, Any], Visit], Awaitable[Answer]]


def tool(
    *, reads: bool = False, destroys: bool = False, repeats: bool | None = None
) -> Callable[[Callable[[Any, Visit], Awaitable[Answer]]], Tool]:
    """Make a tool of a function `(asked, visit)`: its name, its docstring and the model it takes are the tool's."""

    def made(function: Callable[[Any, Visit], Awaitable[Answer]]) -> Tool:
        takes: type[Arguments] = typing.get_type_hints(function)["asked"]

        async def run(arguments: Mapping[str, Any], visit: Visit) -> Answer:
            return await function(read(takes, arguments), visit)

        return Tool(
            name=function.__name__,
            does=" ".join((function.__doc__ or "").split()),
            takes=schema(takes),
            reads=reads,
            destroys=destroys,
            repeats=reads if repeats is None else repeats,
            run=run,
        )

    return made


def read(takes: type[Arguments], arguments: Mapping[str, Any]) -> Arguments:
    try:
        return takes.model_validate(dict(arguments))
    except ValidationError as error:
        raise Invalid(explained(error)) from None


# -- schemas ------------------------------------------------------------------------------------------------------


def schema(model: type[BaseModel]) -> Json:
    """Return the JSON schema of a model in few words: names, types, choices, ranges, defaults, descriptions."""
    made: Json = {"type": "object", "properties": {}, **_brief(model.model_json_schema())}
    made.pop("description", None)
    return made


def _brief(said: Any) -> Any:
    if isinstance(said, list):
        return [_brief(each) for each in said]
    if not isinstance(said, dict):
        return said
    some = [each for each in said.get("anyOf", ()) if each != {"type": "null"}]
    if len(some) == 1 and len(some) < len(said["anyOf"]):
        said = {**said, **some[0]}
        del said["anyOf"]
    elif some:
        said = {**said, "anyOf": some}
    found: Json = {}
    for name, value in said.items():
        if name in NAMED:
            found[name] = {key: _brief(inner) for key, inner in value.items()}
        elif name not in UNSAID and not (name == "default" and value is None):
            found[name] = value if name in ("default", "enum", "const") else _brief(value)
    return found
