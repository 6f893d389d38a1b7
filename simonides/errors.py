"""Every error a caller can meet. Catch `SimonidesError`, or the branch you can do something about.

SimonidesError
├── Invalid       the request itself is wrong; the message says what would be right   (also a ValueError)
├── Unauthorized  nobody is known by that key, or none was shown
├── Forbidden     this scope or this principal may not do that
├── NotFound      no such record for this scope                                       (also a KeyError)
├── Conflict      another version, or other content under the same id, is already there
├── Limited       too many calls in too short a time; `retry_after` says when to come again, in seconds
├── Damaged       a file is not what it should be; `simonides doctor` says how to repair it
└── Unavailable   something needed did not answer or is not installed; try again once it is there
    └── Full      the disk is full; nothing of the call was kept, and everything before it was
"""

from __future__ import annotations


class SimonidesError(Exception):
    """Something went wrong."""

    code = "error"
    retryable = False

    def __init__(self, message: str | None = None) -> None:
        self.message = message or self.__doc__ or ""
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class Invalid(SimonidesError, ValueError):
    """The request itself is wrong."""

    code = "invalid"


class Unauthorized(SimonidesError):
    """Nobody is known by that key, or none was shown."""

    code = "unauthorized"


class Forbidden(SimonidesError):
    """This scope or this principal may not do that."""

    code = "forbidden"


class NotFound(SimonidesError, KeyError):
    """No such record for this scope."""

    code = "not_found"


class Conflict(SimonidesError):
    """Another version, or other content under the same id, is already there."""

    code = "conflict"


class Limited(SimonidesError):
    """Too many calls in too short a time."""

    code = "limited"
    retryable = True

    def __init__(self, message: str | None = None, *, retry_after: float = 1.0, rate: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.rate = rate  # calls a minute that there may be, where that is what it is about


class Damaged(SimonidesError):
    """A file is not what it should be."""

    code = "damaged"


class Unavailable(SimonidesError):
    """Something needed did not answer or is not installed."""

    code = "unavailable"
    retryable = True


class Full(Unavailable):
    """The disk is full; nothing of the call was kept."""

    code = "full"
