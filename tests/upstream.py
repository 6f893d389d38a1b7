"""A model's server on this machine: it speaks OpenAI's wire format, says what it is told to, and keeps what it is sent.

The name of the model says how it behaves; see `ANSWERS` and `Upstream.chat`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Lisbon"}'}}
LIMITED = {"error": {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str  # as it was spelt, with the query
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Upstream:
    says: str = "It leaves at 8:15."
    seen: list[Seen] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)  # what "slow" models wait for
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)  # the caller went before the end
    sent: bytearray = field(default_factory=bytearray)  # of the last stream

    @property
    def app(self) -> Starlette:
        methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
        return Starlette(
            routes=[
                Route("/base/chat/completions", self.chat, methods=["POST"]),
                Route("/base/responses", self.responses, methods=["POST"]),
                Route("/{path:path}", self.anything, methods=methods),
            ]
        )

    async def _see(self, request: Request) -> Seen:
        raw = request.scope["raw_path"].decode()
        query = request.scope["query_string"].decode()
        path = f"{raw}?{query}" if query else raw
        self.seen.append(Seen(request.method, path, dict(request.headers), await request.body()))
        return self.seen[-1]

    async def chat(self, request: Request) -> Response:
        sent = (await self._see(request)).json
        model = sent.get("model") if isinstance(sent, dict) else None
        if model == "limited":
            return JSONResponse(LIMITED, 429, {"Retry-After": "0", "X-Request-Id": "req_429"})
        if model == "broken":
            return Response("<html>no</html>", 500, media_type="text/html")
        if model == "slow" and not sent.get("stream"):
            await self._wait(request)
        if isinstance(sent, dict) and sent.get("stream"):
            return StreamingResponse(self._stream(model, sent), media_type="text/event-stream; charset=utf-8")
        calls = model == "tools" and not any(message.get("role") == "tool" for message in sent["messages"])
        message = {"role": "assistant", "content": None if calls else self.says, "refusal": None}
        if calls:
            message["tool_calls"] = [TOOL_CALL]
        many = sent.get("n") if isinstance(sent, dict) else 1
        choices = [
            {"index": n, "message": message, "finish_reason": "tool_calls" if calls else "stop", "odd": [1.0, None]}
            for n in range(many if isinstance(many, int) and 0 < many < 9 else 1)
        ]
        told = {"id": "chat_1", "object": "chat.completion", "created": 1, "model": str(model), "choices": choices}
        headers = {"X-Request-Id": "req_1", "Set-Cookie": "upstream=1", "X-Odd": "kept"}
        answer = JSONResponse({**told, "usage": USAGE, "made_up": {"a": 1}}, headers=headers)
        if model == "zipped":
            return Response(gzip.compress(bytes(answer.body)), headers={"Content-Encoding": "gzip"})
        return answer

    async def _wait(self, request: Request) -> None:
        """Wait until told to go on, or the caller is gone."""
        self.waiting.set()
        go = asyncio.ensure_future(self.go.wait())
        gone = asyncio.ensure_future(request.receive())
        await asyncio.wait({go, gone}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            self.left.set()
        for task in (go, gone):
            task.cancel()

    async def _stream(self, model: Any, sent: dict[str, Any]) -> AsyncIterator[bytes]:
        self.sent.clear()
        try:
            for n, event in enumerate(self._events(model, sent)):
                if n == 2 and model == "slow":
                    self.waiting.set()
                    await self.go.wait()
                if n == 2 and model == "breaks":
                    raise ConnectionResetError
                self.sent += event
                yield event
        except asyncio.CancelledError:
            self.left.set()
            raise

    def _events(self, model: Any, sent: dict[str, Any]) -> Iterator[bytes]:
        def event(delta: dict[str, Any], **more: Any) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": None, "logprobs": None, **more}
            told = {"id": "chat_1", "object": "chat.completion.chunk", "created": 1, "model": str(model)}
            return b"data: " + json.dumps({**told, "choices": [choice], "odd": "é"}).encode() + b"\n\n"

        yield event({"role": "assistant", "content": ""})
        if model == "tools" and not any(message.get("role") == "tool" for message in sent["messages"]):
            yield event({"tool_calls": [{"index": 0, **TOOL_CALL}]})
            yield event({}, finish_reason="tool_calls")
        else:
            for word in self.says.split(" "):
                yield event({"content": word if word == self.says.split(" ")[0] else f" {word}"})
            yield event({}, finish_reason="stop")
        if (sent.get("stream_options") or {}).get("include_usage"):
            told = {"id": "chat_1", "object": "chat.completion.chunk", "created": 1, "model": str(model)}
            yield b"data: " + json.dumps({**told, "choices": [], "usage": USAGE}).encode() + b"\n\n"
        yield b": a comment\n\ndata: [DONE]\n\n"

    async def responses(self, request: Request) -> Response:
        sent = (await self._see(request)).json
        part = {"type": "output_text", "text": self.says, "annotations": []}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        told = {
            "id": f"resp_{len(self.seen)}", "object": "response", "created_at": 1, "status": "completed",
            "model": sent.get("model"), "output": [message], "parallel_tool_calls": True, "tool_choice": "auto",
            "tools": [], "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
            "temperature": 1.0, "top_p": 1.0,
        }  # fmt: skip
        if not sent.get("stream"):
            return JSONResponse(told)
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        events = [
            {"type": "response.created", "response": {**told, "status": "in_progress", "output": []}},
            {"type": "response.output_text.delta", **place, "delta": self.says, "logprobs": []},
            {"type": "response.output_text.done", **place, "text": self.says, "logprobs": []},
            {"type": "response.completed", "response": told},
        ]

        async def stream() -> AsyncIterator[str]:
            for number, event in enumerate(events):
                yield f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def anything(self, request: Request) -> Response:
        seen = await self._see(request)
        if seen.path.endswith("/embeddings"):
            vector = {"object": "embedding", "index": 0, "embedding": [0.25, -1.0]}
            return JSONResponse({"object": "list", "data": [vector], "model": "e", "usage": USAGE})
        model = {"id": "m", "object": "model", "created": 1, "owned_by": "here"}
        return JSONResponse({"object": "list", "data": [model]})


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an application on a free port of this machine, and yield where it is."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_level="critical", proxy_headers=False)
    server = _Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = server.force_exit = True
        await running
