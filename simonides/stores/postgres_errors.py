"""What went wrong in PostgreSQL, as far as a store knows more of it than `postgresql.py`."""

from __future__ import annotations

from psycopg import errors as pg

from .. import postgresql
from ..errors import Conflict, Damaged, Invalid, SimonidesError, Unavailable
from ..postgresql import Place

AGAIN = (pg.SerializationFailure, pg.DeadlockDetected, pg.UniqueViolation)  # done anew, it may well succeed
STALE = (pg.InvalidSqlStatementName, pg.FeatureNotSupported)  # of a connection whose statements are not what they were
GOING = (pg.AdminShutdown, pg.CrashShutdown, pg.CannotConnectNow, pg.IdleSessionTimeout)


def lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that what was asked may be asked again on another.

    A statement that was prepared in a pipeline which failed is not there, though its client thinks so: such a
    connection is done with, too.
    """
    if isinstance(error, pg.InvalidSqlStatementName):
        return True
    if not isinstance(error, pg.OperationalError | pg.InterfaceError):
        return False
    state = error.sqlstate
    return state is None or state.startswith("08") or isinstance(error, GOING)


def translated(error: BaseException, place: Place) -> BaseException:
    """Return the error of our own tree that this is; what is none of PostgreSQL's passes as it is."""
    if not isinstance(error, pg.Error):
        return error
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    ours = _ours(error, place, said) or postgresql.translated(error, place)
    if ours is error:
        ours = Unavailable(f"PostgreSQL at {place} did not do as it was told ({said})")
    ours.__cause__ = error
    return ours


def _ours(error: pg.Error, place: Place, said: str) -> SimonidesError | None:
    match error:
        case pg.LockNotAvailable() | pg.DeadlockDetected() | pg.SerializationFailure():
            return Unavailable(f"others held what this needed in PostgreSQL at {place} for too long; try again")
        case pg.QueryCanceled():
            return Unavailable(f"PostgreSQL at {place} took longer than its statement_timeout allows; try again")
        case pg.TooManyConnections():
            return Unavailable(f"PostgreSQL at {place} has no connection left: lower pool=, or raise max_connections")
        case pg.UniqueViolation():
            return Conflict(f"others wrote the same first, again and again ({said}); try again")
        case pg.UndefinedTable() | pg.UndefinedColumn() | pg.InvalidSchemaName():
            return Damaged(f"the store in PostgreSQL at {place} is not what it was ({said}): restore a backup")
        case pg.ProgramLimitExceeded():
            return Invalid(f"a name is too long to be looked up by, which 2,600 bytes are not ({said})")
        case pg.DataError():
            return Invalid(f"PostgreSQL cannot keep this ({said})")
        case pg.ReadOnlySqlTransaction():
            return Unavailable(
                f"PostgreSQL at {place} is a replica, which takes no writes: name the primary, or all hosts with"
                " target_session_attrs=read-write"
            )
    return None
