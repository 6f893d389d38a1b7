"""Call an operation by its name, as every other door does: `simonides call recall text="where do I live?"`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click

from .. import terminal
from ..asked import SERVE, Asked, command
from ..config import did_you_mean
from ..errors import Invalid, Unavailable

EXAMPLE = """simonides call
simonides call recall text="where do I live?" limit=3
simonides call begin_conversation '{"label": "Trip", "messages": [{"role": "user", "content": "Porto?"}]}'
simonides call stats --url http://127.0.0.1:40020 --key-file key.txt"""


@command(SERVE, EXAMPLE)
@click.argument("operation", required=False)
@click.argument("arguments", nargs=-1, metavar="[JSON | NAME=VALUE...]")
@click.option("--url", metavar="URL", help="Ask a server instead of the memory here.")
@click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False), help="The file with the key to it.")
def call(
    asked: Asked, operation: str | None, arguments: tuple[str, ...], url: str | None, key_file: Path | None
) -> None:
    """Call an operation of the API by its name, and answer in JSON; without one, list them.

    A value that is JSON is taken as that, any other as a text.
    """
    try:
        from ..api import OPERATIONS
    except ModuleNotFoundError as error:
        raise Unavailable(f"this needs {error.name}: pip install 'simonides[serve]'") from error
    if operation is None:
        _list(asked, OPERATIONS)
        return
    if operation not in OPERATIONS:
        raise Invalid(f"there is no operation {operation!r}{did_you_mean(operation, OPERATIONS)}: see `simonides call`")
    row = OPERATIONS[operation]
    levels = {"user": asked.whose.get("user"), "agent": asked.whose.get("agent"), "session": asked.whose.get("session")}
    levels |= {"space": asked.space, "tenant": asked.tenant}
    named = {name: value for name, value in levels.items() if value is not None and name in row.takes.model_fields}
    said = named | _arguments(arguments)
    if url is None:
        terminal.say_json(asyncio.run(_here(asked, operation, said)))
    else:
        terminal.say_json(asyncio.run(_there(url, key_file, operation, said)))


def _list(asked: Asked, operations: Any) -> None:
    if asked.json:
        terminal.say_json({name: row.does for name, row in operations.items()})
        return
    width = max(map(len, operations))
    for name, row in operations.items():
        terminal.say(f"{name:<{width}}  {row.does}")


def _arguments(given: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments: one JSON object, or names with values."""
    if len(given) == 1 and given[0].lstrip().startswith("{"):
        return _object(given[0])
    found: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name.isidentifier():
            raise Invalid(f"{each!r} must be name=value, or the whole one JSON object")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the arguments are no JSON: {error}") from None
    assert isinstance(found, dict)
    return found


async def _here(asked: Asked, operation: str, said: dict[str, Any]) -> Any:
    from ..access import LOCAL
    from ..api import OPERATIONS, Desk
    from ..config import keys_url, open_backend, serving
    from ..memory import AsyncMemory

    async with AsyncMemory(asked.store, tenant=asked.tenant, space=asked.space, embedder=asked.embedder) as memory:
        directory = open_backend("directories", keys_url(asked.settings.store_url, serving().directory))
        try:
            desk = Desk(memory, directory)
            found = await OPERATIONS[operation](desk, LOCAL, said)
            await desk.tasks.ended()
            return found
        finally:
            await directory.close()


async def _there(url: str, key_file: Path | None, operation: str, said: dict[str, Any]) -> Any:
    from ..remote import AsyncRemoteMemory

    try:
        key = key_file.read_text("utf-8").strip() if key_file else None
    except OSError as error:
        raise Invalid(f"{key_file} cannot be read: {error.strerror}") from None
    async with AsyncRemoteMemory(url, key=key) as memory:
        return await memory.call(operation, **said)
