"""The calls to an object that is opened and closed: refused once it is closed, and waited for before it is."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from .errors import Invalid

P = ParamSpec("P")
T = TypeVar("T")


class Calls:
    """How many calls are under way, and whether there are to be more."""

    def __init__(self) -> None:
        self.closed = False
        self._count, self._none = 0, asyncio.Event()
        self._none.set()

    def __enter__(self) -> None:
        self._count += 1
        self._none.clear()

    def __exit__(self, *error: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def ended(self) -> None:
        await self._none.wait()


class _Called(Protocol):
    @property
    def _calls(self) -> Calls: ...


C = TypeVar("C", bound=_Called)


def operation(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[C, P], Coroutine[Any, Any, T]]:
    """Answer a call that does not fit the signature with our own error. (Calling a coroutine function only binds.)"""

    @functools.wraps(method)
    async def call(self: C, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._calls.closed:
            raise Invalid("this memory is closed")
        try:
            asked = method(self, *args, **kwargs)
        except TypeError as error:
            raise Invalid(re.sub(r"\b(?:\w+\.)?_?(\w+\(\))", r"\1", str(error))) from None
        with self._calls:
            return await asked

    return call
