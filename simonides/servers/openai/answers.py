"""Listens to an upstream's answer as it passes by, and says at its end what was answered.

What is no final text of one answer is not remembered: calls of tools, refusals, the several choices of n > 1 (nobody
knows which was taken), an answer that broke off.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .turns import parted, unmarked

HEARD_MAX = 16 * 1024 * 1024  # bytes; an answer that is longer is passed on, not remembered
ENDED = ("response.completed", "response.incomplete")


class Answer:
    """What is heard of one answer. `text` and `id` are known when `whole` is."""

    def __init__(self) -> None:
        self.status = 0  # 0: the upstream has not answered
        self.streamed = False
        self.whole = False  # the upstream said all it had to say
        self.id = ""  # by which the next request may refer to it (Responses)
        self._deaf = False
        self._heard = bytearray()
        self._said = list[str]()
        self._size = 0

    @property
    def begun(self) -> bool:
        return 200 <= self.status < 300

    def starts(self, status: int, media_type: str, readable: bool) -> None:
        self.status, self.streamed = status, media_type.startswith("text/event-stream")
        self._deaf = not (readable and self.begun)

    def hears(self, chunk: bytes) -> None:
        if self._deaf:
            return
        self._heard += chunk
        self._size += len(chunk)
        if self._size > HEARD_MAX:
            self._misses()
        elif self.streamed and b"\n" in chunk:
            *lines, rest = bytes(self._heard).split(b"\n")
            self._heard[:] = rest
            for line in lines:
                self._line(line)

    def ends(self) -> None:
        self.whole = True
        if not self._deaf:
            if self.streamed:
                self._line(bytes(self._heard))
            else:
                self._told(_read(bytes(self._heard)))
        self._heard.clear()

    @property
    def text(self) -> str:
        return unmarked("".join(self._said)) if self.whole and not self._deaf else ""

    def _misses(self) -> None:
        self._deaf = True
        self._heard.clear()
        self._said.clear()

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:") and (event := line[5:].strip()) != b"[DONE]" and not self._deaf:
            self._told(_read(event))

    def _told(self, event: Any) -> None:
        """Take in a whole answer, or one event of a stream."""
        if not isinstance(event, dict):
            return
        if event.get("error") or event.get("type") in ("error", "response.failed"):
            self._misses()
            return
        inside = event.get("response")
        response = inside if isinstance(inside, dict) else event
        if isinstance(response.get("id"), str):
            self.id = response["id"]
        if not self.streamed or event.get("type") in ENDED:
            self._said += _output(response.get("output"))
        if isinstance(event.get("choices"), list):
            self._chosen(event["choices"])

    def _chosen(self, choices: list[Any]) -> None:
        if not choices:
            return  # usage alone
        first = choices[0]
        if len(choices) > 1 or not isinstance(first, dict) or first.get("index") not in (0, None):
            self._misses()
        elif isinstance(said := first.get("delta" if self.streamed else "message"), dict):
            self._said += parted(said.get("content"))[0]


def _output(output: Any) -> list[str]:
    """Return what the messages among the output items of a response say."""
    items = output if isinstance(output, list) else []
    messages = [item for item in items if isinstance(item, dict) and item.get("type") == "message"]
    texts = ["".join(parted(item.get("content"))[0]) for item in messages]
    return ["\n".join(filter(None, texts))] if any(texts) else []


def _read(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
