"""What went wrong in PostgreSQL, as an error of our own tree that says what to do."""

from __future__ import annotations

from psycopg import errors as pg

from ..errors import Conflict, Damaged, Full, Invalid, SimonidesError, Unavailable

AGAIN = (pg.SerializationFailure, pg.DeadlockDetected, pg.UniqueViolation)  # done anew, it may well succeed


def lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that what was asked may be asked again on another."""
    if isinstance(error, pg.OperationalError | pg.InterfaceError):
        state = error.sqlstate
        return state is None or state.startswith("08") or isinstance(error, GOING)
    return False


GOING = (pg.AdminShutdown, pg.CrashShutdown, pg.CannotConnectNow, pg.IdleSessionTimeout)


def translated(error: BaseException, place: str) -> BaseException:
    """Return the error of our own tree that this is; what is none of PostgreSQL's passes as it is."""
    if not isinstance(error, pg.Error):
        return error
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    found = _named(error, place, said)
    found.__cause__ = error
    return found


def _named(error: pg.Error, place: str, said: str) -> SimonidesError:
    match error:
        case pg.DiskFull():
            return Full(
                f"the disk of PostgreSQL at {place} is full: nothing of this call was kept. Free some space there"
            )
        case pg.DataCorrupted() | pg.IndexCorrupted():
            return Damaged(f"PostgreSQL at {place} found damaged data ({said}): restore a backup")
        case pg.InsufficientPrivilege() | pg.InvalidAuthorizationSpecification():
            return Unavailable(f"PostgreSQL at {place} does not let us ({said}): see its roles and rights")
        case pg.ReadOnlySqlTransaction():
            return Unavailable(
                f"PostgreSQL at {place} is read only, maybe a replica: name the primary, or all hosts with"
                " target_session_attrs=read-write"
            )
        case pg.LockNotAvailable():
            return Unavailable(f"somebody has held a lock in PostgreSQL at {place} for too long; try again")
        case pg.QueryCanceled():
            return Unavailable(f"PostgreSQL at {place} took longer than its statement_timeout allows; try again")
        case pg.TooManyConnections():
            return Unavailable(f"PostgreSQL at {place} has no connection left: lower pool=, or raise max_connections")
        case pg.SerializationFailure() | pg.DeadlockDetected():
            return Unavailable(f"others wrote the same again and again in PostgreSQL at {place}; try again")
        case pg.UniqueViolation():
            return Conflict(f"another process wrote the same first, again and again ({said}); try again")
        case pg.UndefinedTable() | pg.UndefinedColumn() | pg.InvalidSchemaName():
            return Damaged(f"the store in PostgreSQL at {place} is not what it should be ({said}): restore a backup")
        case pg.ProgramLimitExceeded():
            return Invalid(f"a name here is too long to be looked up by ({said}): at most 2,600 bytes")
        case pg.DataError():
            return Invalid(f"PostgreSQL cannot keep this ({said})")
        case pg.OperationalError() | pg.InterfaceError():
            return Unavailable(f"PostgreSQL at {place} does not answer ({said}): is it running, and is the URL right?")
    return Unavailable(f"PostgreSQL at {place} did not do as it was told ({said})")
