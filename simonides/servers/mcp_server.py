"""What an MCP client may ask: tools, resources, prompts. Made with the official SDK; whoever asks comes as a `Visitor`.

Errors of our tree are answers of a tool that say that it failed, so that the model reads them; what is no tool, no
resource or no prompt is an error of the protocol.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote

import mcp.types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from ..errors import Invalid, NotFound, SimonidesError
from ..version import VERSION
from ..wire import Json
from .memory_tools import markdown, room_for, whole
from .prompts import PROMPTS
from .tool import Answer, Tool, Visit

log = logging.getLogger("simonides")

Context = ServerRequestContext[Any, Any]
LISTED = 50  # conversations on a page
INSTRUCTIONS = (
    "A memory that lasts from one session to the next. Look into it before answering what may have been said before; "
    "keep what will matter later; correct what has changed."
)
TEMPLATES = (
    ("conversation", "memory://conversation/{id}", "A conversation, all of it", "text/markdown"),
    ("record", "memory://record/{id}", "A record, as it is now", "application/json"),
)
WENT_WRONG = "something went wrong here; the log says what"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever asks, and the tools that are shown to them."""

    visit: Visit
    tools: Mapping[str, Tool]


def made(visitor: Callable[[Context], Visitor]) -> Server[Any]:
    """Return a server for the visitors that its requests come from."""

    async def list_tools(context: Context, asked: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[as_tool(each) for each in visitor(context).tools.values()])

    async def call_tool(context: Context, asked: types.CallToolRequestParams) -> types.CallToolResult:
        comes = visitor(context)
        found = comes.tools.get(asked.name)
        if found is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {asked.name[:100]!r} here")

        async def tell(done: float, total: float | None, says: str) -> None:
            await context.session.report_progress(done, total, says)

        return await _called(found, asked.arguments or {}, replace(comes.visit, tell=tell))

    async def list_resources(context: Context, asked: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
        return await _conversations(visitor(context).visit, asked.cursor if asked else None)

    async def list_templates(
        context: Context, asked: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(name=name, uri_template=uri, description=says, mime_type=kind)
                for name, uri, says, kind in TEMPLATES
            ]
        )

    async def read_resource(context: Context, asked: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        try:
            return await _resource(visitor(context).visit, str(asked.uri))
        except SimonidesError as error:
            raise _protocol(error) from None

    async def list_prompts(context: Context, asked: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
        return types.ListPromptsResult(
            prompts=[
                types.Prompt(
                    name=each.name,
                    description=each.does,
                    arguments=[
                        types.PromptArgument(name=name, description=says, required=required)
                        for name, says, required in each.arguments
                    ],
                )
                for each in PROMPTS.values()
            ]
        )

    async def get_prompt(context: Context, asked: types.GetPromptRequestParams) -> types.GetPromptResult:
        found = PROMPTS.get(asked.name)
        if found is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no prompt {asked.name[:100]!r}")
        try:
            text = await found.written(asked.arguments or {}, visitor(context).visit)
        except SimonidesError as error:
            raise _protocol(error) from None
        said = types.PromptMessage(role="user", content=types.TextContent(text=text))
        return types.GetPromptResult(description=found.does, messages=[said])

    return Server(
        "simonides",
        version=VERSION,
        title="Simonides",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
    )


# -- tools --------------------------------------------------------------------------------------------------------


def as_tool(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        description=tool.does,
        input_schema=tool.takes,
        annotations=types.ToolAnnotations(
            read_only_hint=tool.reads,
            destructive_hint=tool.destroys,
            idempotent_hint=tool.repeats,
            open_world_hint=False,
        ),
    )


async def _called(tool: Tool, arguments: Mapping[str, Any], visit: Visit) -> types.CallToolResult:
    try:
        return _result(await tool.run(arguments, visit))
    except SimonidesError as error:
        told = {"code": error.code, "message": error.message, "retryable": error.retryable}
        return _result(Answer(error.message, {"error": told}), failed=True)
    except Exception:
        log.exception("the tool %s failed", tool.name)
        return _result(Answer(WENT_WRONG, {"error": {"code": "error", "message": WENT_WRONG}}), failed=True)


def _result(answer: Answer, *, failed: bool = False) -> types.CallToolResult:
    text = types.TextContent(text=answer.text)
    return types.CallToolResult(content=[text], structured_content=answer.data, is_error=failed)


def _protocol(error: SimonidesError) -> MCPError:
    """Return an error of the protocol for what is asked for by name or address."""
    wrong = isinstance(error, Invalid | NotFound)
    return MCPError(types.INVALID_PARAMS if wrong else types.INTERNAL_ERROR, error.message, {"code": error.code})


# -- resources ----------------------------------------------------------------------------------------------------


async def _conversations(visit: Visit, cursor: str | None) -> types.ListResourcesResult:
    try:
        found = await visit.do("list_conversations", limit=LISTED, after=cursor)
    except SimonidesError as error:
        raise _protocol(error) from None
    return types.ListResourcesResult(resources=[_listed(each) for each in found["results"]], next_cursor=found["next"])


def _listed(talk: Json) -> types.Resource:
    said = f"{talk['message_count']} message{'s' * (talk['message_count'] != 1)}"
    parts = (talk["created_at"] and talk["created_at"][:10], talk["folder"], said)
    return types.Resource(
        uri=f"memory://conversation/{quote(talk['id'], safe='')}",
        name=talk["id"],
        title=talk["title"],
        description=", ".join(part for part in parts if part),
        mime_type="text/markdown",
    )


async def _resource(visit: Visit, uri: str) -> types.ReadResourceResult:
    address = re.fullmatch(r"memory://(conversation|record)/([^/?#]+)", uri)
    if address is None:
        raise NotFound(f"there is no resource {uri[:200]!r}: {' or '.join(uri for _, uri, *_ in TEMPLATES)}")
    id = unquote(address[2])
    if address[1] == "record":
        kind, text = "application/json", json.dumps(await visit.do("get", id=id), ensure_ascii=False, indent=1)
    else:
        talk, said = await whole(visit, id)
        shown = room_for(said)
        left_out = (
            f"\n({len(said) - len(shown)} more: memory_export, offset {len(shown)})\n" if said[len(shown) :] else ""
        )
        kind, text = "text/markdown", await markdown(visit, talk, shown) + left_out
    return types.ReadResourceResult(contents=[types.TextResourceContents(uri=uri, mime_type=kind, text=text)])
