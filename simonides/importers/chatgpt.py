"""ChatGPT's export: `conversations.json`, one conversation of it, or the zip that it comes in.

A conversation is a tree: editing a question or asking again grows a branch. The one that ends in `current_node` is
live; what was said on the others is kept, archived. OpenAI documents none of this, so everything may be missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from ..importer import Problem
from ..record import Record, Scope
from .elements import keys
from .reading import Reading, read_elements
from .thread import ROLES, Thread, after, text_in

name = "ChatGPT export"
FORMAT = "chatgpt"
SILENT = frozenset({"thoughts", "reasoning_recap", "user_editable_context", "model_editable_context"})
PLACEHOLDERS = {"image_asset_pointer": "image", "audio_asset_pointer": "audio"}


class Tree(Struct):
    """A conversation. Its nodes are narrowed one by one, so that a broken one costs only itself."""

    mapping: dict[str, Any]
    conversation_id: str | None = None
    id: str | None = None
    title: str | None = None
    create_time: Any = None
    current_node: Any = None
    default_model_slug: str | None = None


class Author(Struct):
    role: str = "user"
    name: str | None = None


class Content(Struct):
    content_type: str = "text"
    parts: list[Any] | None = None
    text: str | None = None
    result: str | None = None


class Turn(Struct):
    author: Author = field(default_factory=Author)
    create_time: Any = None
    content: Content | None = None
    metadata: dict[str, Any] | None = None
    recipient: str | None = None


class Node(Struct):
    parent: Any = None
    message: Any = None  # a Turn, once it is narrowed


def recognises(path: Path, head: bytes) -> bool:
    return "mapping" in keys(head)


def read(path: Path, scope: Scope) -> Iterator[Record | Problem]:
    return read_elements(path, lambda value, reading: _conversation(value, scope, reading))


def _conversation(value: Any, scope: Scope, reading: Reading) -> Iterator[Record]:
    tree = reading.narrowed(value, Tree, "a conversation")
    if tree is None:
        return
    thread = Thread.begun(FORMAT, scope, tree.conversation_id or tree.id, tree.create_time, reading)
    if thread is None:
        return
    nodes = _nodes(tree.mapping, reading)
    times = _Times(nodes, thread.since, reading)
    live = _branch(nodes, _leaf(tree, nodes, times))
    model = {"model": tree.default_model_slug} if tree.default_model_slug else {}
    yield thread.conversation(reading.sound(tree.title, "title"), model)
    for place, key in enumerate([*live, *(key for key in nodes if key not in live)]):
        if record := _message(thread, key, nodes[key].message, times.at(key), place, abandoned=key not in live):
            yield record


# -- the tree -----------------------------------------------------------------------------------------------------


def _nodes(mapping: dict[str, Any], reading: Reading) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for key, value in mapping.items():
        node = reading.narrowed(value, Node, f"node {key!a}") if value is not None else None
        if node:
            said = node.message
            turn = reading.narrowed(said, Turn, f"message {key!a}") if said is not None else None
            found[key] = Node(parent=node.parent if isinstance(node.parent, str) else None, message=turn)
    return found


def _branch(nodes: Mapping[str, Node], leaf: str | None, known: Collection[str] = ()) -> dict[str, None]:
    """Return the keys down to the leaf, in order, from the root or from what is known already; each once."""
    up: dict[str, None] = {}
    while leaf is not None and leaf in nodes and leaf not in up and leaf not in known:
        up[leaf] = None
        leaf = nodes[leaf].parent
    return dict.fromkeys(reversed(up))


def _leaf(tree: Tree, nodes: Mapping[str, Node], times: _Times) -> str | None:
    """Return where the live branch ends: `current_node`, or failing that what was said last."""
    if isinstance(tree.current_node, str) and tree.current_node in nodes:
        return tree.current_node
    said = [(times.at(key), place, key) for place, key in enumerate(nodes) if nodes[key].message]
    dated = [(at, place, key) for at, place, key in said if at]
    return max(dated)[2] if dated else said[-1][2] if said else None


class _Times:
    """When each node was said: its own time, or the moment after its parent, or the conversation's."""

    def __init__(self, nodes: Mapping[str, Node], since: datetime | None, reading: Reading) -> None:
        self._nodes, self._since, self._reading = nodes, since, reading
        self._known: dict[str, datetime | None] = {}

    def at(self, key: str) -> datetime | None:
        for each in _branch(self._nodes, key, self._known):
            node = self._nodes[each]
            own = self._reading.moment(node.message.create_time, f"message {each!a}") if node.message else None
            before = self._known.get(node.parent or "")
            self._known[each] = own or (after(before) if before else self._since)
        return self._known[key]


# -- one message --------------------------------------------------------------------------------------------------


def _message(
    thread: Thread, key: str, turn: Turn | None, at: datetime | None, place: int, *, abandoned: bool
) -> Record | None:
    if turn is None or turn.content is None or turn.content.content_type in SILENT:
        return None
    given = turn.metadata or {}
    text, assets = _text(turn.content)
    if given.get("is_visually_hidden_from_conversation") is True or not text.strip():
        return None
    role = ROLES.get(turn.author.role, "tool")
    said_to_tool = turn.recipient not in (None, "", "all")
    about = {
        "branch": "abandoned" if abandoned else None,
        "content_type": turn.content.content_type if turn.content.content_type != "text" else None,
        "model": given.get("model_slug") if isinstance(given.get("model_slug"), str) else None,
        "recipient": turn.recipient if said_to_tool else None,
        "role": turn.author.role if turn.author.role not in ROLES else None,
        "assets": assets or None,
    }
    return thread.message(
        text, native=[key], at=at, role=role, name=turn.author.name or None, place=place,
        archived=abandoned or said_to_tool,
        metadata={name: value for name, value in about.items() if value is not None},
    )  # fmt: skip


def _text(content: Content) -> tuple[str, list[str]]:
    """Return what was said, with a placeholder for what is no text, and the names of those files."""
    if content.parts is None:
        return content.text or content.result or "", []
    texts = [_part(part) for part in content.parts]
    pointers = [part.get("asset_pointer") for part in content.parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if text), [pointer for pointer in pointers if isinstance(pointer, str)]


def _part(part: Any) -> str:
    if (text := text_in(part)) is not None:
        return text
    kind = part.get("content_type")
    return f"[{PLACEHOLDERS.get(kind, 'attachment')}]" if isinstance(kind, str) else ""
