"""Errors as problem documents (RFC 9457), the same at every HTTP door."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import msgspec
from pydantic import BaseModel, Field
from starlette.responses import Response

from ..errors import Limited, SimonidesError

MEDIA_TYPE = "application/problem+json"
STATUS = {
    "invalid": 422,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "limited": 429,
    "damaged": 500,
    "unavailable": 503,
    "full": 507,
}
TITLES = {
    400: "Bad request",
    401: "No key, or a wrong one",
    403: "Not allowed",
    404: "Not found",
    405: "Not a method of this resource",
    406: "Not acceptable",
    408: "Too slow",
    409: "Conflict",
    411: "Length required",
    412: "Changed meanwhile",
    413: "Too large",
    415: "Not a media type that is read here",
    421: "Not a name of this server",
    422: "Invalid",
    429: "Too many requests",
    500: "Something went wrong",
    503: "Not available",
    504: "Took too long",
    507: "The disk is full",
}

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)  # of the request that is being answered


class Problem(BaseModel):
    """What went wrong. `code` is stable; `detail` is for people and says what to do."""

    type: str = Field(examples=["urn:simonides:problem:not_found"])
    title: str
    status: int
    code: str
    detail: str
    retryable: bool = Field(description="Whether the same request may succeed later.")
    request_id: str | None = None


def problem(status: int, code: str, detail: str, *, retryable: bool = False, headers: Any = None) -> Response:
    body = {
        "type": f"urn:simonides:problem:{code}",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "code": code,
        "detail": detail.encode("utf-8", "backslashreplace").decode(),  # it may tell a name as it was sent
        "retryable": retryable,
        "request_id": REQUEST_ID.get(),
    }
    return Response(msgspec.json.encode(body), status, headers, MEDIA_TYPE)


def refusal(error: SimonidesError) -> Response:
    """Return the answer to an error of our tree."""
    headers = {}
    if isinstance(error, Limited):
        headers["Retry-After"] = again = str(max(1, round(error.retry_after + 0.5)))
        if error.rate is not None:
            headers |= {"RateLimit-Limit": str(error.rate), "RateLimit-Remaining": "0", "RateLimit-Reset": again}
    elif error.code == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="simonides"'
    elif error.retryable:
        headers["Retry-After"] = "1"
    status = STATUS.get(error.code, 500)
    return problem(status, error.code, error.message, retryable=error.retryable, headers=headers)
