"""What the errors of PostgreSQL mean: for a delivery, and for a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from ingestion_platform.errors import Permanent, PlatformError, SinkUnavailable, WriteConflict
from ingestion_platform.sinks.base import Reason

# Classes of SQLSTATEs. Data exception, integrity constraint, program limit: a row is to blame.
_OF_ROWS = ("22", "23", "54")
# Transaction rollback, insufficient resources, operator intervention.
_PASSING = ("40", "53", "57")
# libpq gives no SQLSTATE for a connection that fails, only the text of the server.
_LOGIN = re.compile(
    r'authentication failed|no pg_hba.conf entry|(role|database) "[^"]*" does not exist'
    r"|no password supplied"
)
_COLUMN = re.compile(r"column (\S+?)[:,]")


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn the errors of psycopg into those of the platform; none shows the address."""
    try:
        yield
    except PlatformError:
        raise
    except psycopg.errors.UndefinedTable as error:
        raise WriteConflict(
            f"{name}: a table of the delivery was dropped",
            action="deliver again; it is created again",
        ) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        if error.sqlstate is None and _LOGIN.search(str(error)):
            raise Permanent(
                f"{name}: PostgreSQL rejects the login",
                action="correct user, password and database in SINK_POSTGRES_URL",
            ) from None  # the text of the driver may repeat them
        raise SinkUnavailable(
            f"{name}: PostgreSQL does not answer: {type(error).__name__}",
            action="check SINK_POSTGRES_URL and that its server is up",
        ) from error
    except psycopg.Error as error:
        message = error.diag.message_primary or type(error).__name__
        if _class(error) in _PASSING:
            raise SinkUnavailable(f"{name}: {message}", action="try again") from error
        raise Permanent(
            f"{name}: PostgreSQL rejects a statement: {message}",
            action="check the rights of the user in SINK_POSTGRES_URL, and what uses the table",
        ) from error


def row_to_blame(error: psycopg.Error) -> Reason | None:
    """Return why a row was rejected, None if the error is not about a row."""
    if _class(error) not in _OF_ROWS:
        return None
    message = error.diag.message_primary or str(error).partition("\n")[0]
    context = _COLUMN.search(error.diag.context or "")
    column = error.diag.column_name or (context[1] if context else "")
    return Reason(_condition(error), f"{column}: {message}" if column else message)


def _class(error: psycopg.Error) -> str:
    return (error.sqlstate or "")[:2]


def _condition(error: psycopg.Error) -> str:
    """Return the name that PostgreSQL's documentation gives a SQLSTATE: `check_violation`."""
    try:
        name = psycopg.errors.lookup(error.sqlstate or "").__name__
    except KeyError:
        return error.sqlstate or ""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
