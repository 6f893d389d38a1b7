"""Errors in the shape in which OpenAI's clients know them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from starlette.responses import JSONResponse, Response

from ...errors import Conflict, Forbidden, Invalid, Limited, NotFound, SimonidesError, Unauthorized, Unavailable
from .upstream import METHODS, Gone, Late


class TooLarge(Invalid):
    """The body is too large."""

    code = "too_large"


class NotAllowed(Invalid):
    """No call to a model has this method."""

    code = "method_not_allowed"


PROBLEMS: dict[type[SimonidesError], tuple[int, str]] = {
    TooLarge: (413, "invalid_request_error"),
    NotAllowed: (405, "invalid_request_error"),
    Invalid: (400, "invalid_request_error"),
    Unauthorized: (401, "authentication_error"),
    Forbidden: (403, "permission_error"),
    NotFound: (404, "invalid_request_error"),
    Conflict: (409, "invalid_request_error"),
    Limited: (429, "rate_limit_error"),
    Unavailable: (503, "server_error"),
    Late: (504, "server_error"),
    Gone: (502, "server_error"),
    SimonidesError: (500, "server_error"),
}


def problem(error: SimonidesError, told: Mapping[str, str] | None = None) -> Response:
    """Return the error in the shape in which OpenAI's clients know errors."""
    status, kind = next(PROBLEMS[each] for each in type(error).__mro__ if each in PROBLEMS)
    headers = dict(told or {})
    if isinstance(error, Limited):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, NotAllowed):
        headers["Allow"] = ", ".join(METHODS)
    said = {"message": error.message, "type": kind, "param": None, "code": error.code}
    return JSONResponse({"error": said}, status, headers)


def kind(error: BaseException) -> str:
    return error.code if isinstance(error, SimonidesError) else type(error).__name__
