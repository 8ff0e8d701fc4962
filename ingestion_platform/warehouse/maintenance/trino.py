"""Compact a table's files and manifests by Trino's procedures.

`table` decides when a table needs it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingestion_platform.errors import EngineUnavailable, Permanent, SettingError
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.retention import summary_of

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

    from ingestion_platform.settings import TrinoSettings

# Errors of a commit conflict: nothing was changed.
_CONFLICTS = ("ICEBERG_COMMIT_ERROR", "TRANSACTION_CONFLICT")
_NAME = re.compile(r"[a-z_]\w*")


@dataclass(frozen=True, slots=True)
class Optimized:
    """Data files removed and added; `rejected` after a commit conflict."""

    rewritten: int = 0
    written: int = 0
    rejected: bool = False


def optimize(trino: TrinoSettings, catalog: Catalog, name: str, target: int) -> Optimized:
    """Rewrite files smaller than `target` bytes with their deletes applied.

    Raises:
        EngineUnavailable: Trino does not answer; the outcome is unknown, both are valid.
        Permanent: Trino rejects the statement; the message is Trino's.
    """
    procedure = f"optimize(file_size_threshold => '{target}B')"
    query_id = _execute(trino, name, procedure)
    if query_id is None:
        return Optimized(rejected=True)
    with answering():
        table = catalog.load_table(name)
    for snapshot in table.snapshots():
        summary = summary_of(snapshot)
        if summary.get("trino_query_id") == query_id:
            removed, added = (
                summary.get("deleted-data-files", 0),
                summary.get("added-data-files", 0),
            )
            return Optimized(int(removed), int(added))
    return Optimized()


def optimize_manifests(trino: TrinoSettings, name: str) -> None:
    """Merge manifests; raises as `optimize`."""
    _execute(trino, name, "optimize_manifests")


def _execute(trino: TrinoSettings, name: str, procedure: str) -> str | None:
    """Run a procedure on a table and return the query id; None after a commit conflict."""
    client = _client()
    try:
        with client.dbapi.connect(host=trino.host, port=trino.port, user=trino.user) as connection:
            cursor = connection.cursor()
            named = ".".join(_quoted(part) for part in (trino.catalog, *name.split(".")))
            cursor.execute(f"ALTER TABLE {named} EXECUTE {procedure}")
            cursor.fetchall()
            return str(cursor.query_id)
    except client.exceptions.TrinoQueryError as error:
        if error.error_name in _CONFLICTS:
            return None
        raise Permanent(
            f"Trino refuses {procedure} of {name}: {error.message.partition(chr(10))[0][:300]}",
            action="check that TRINO_CATALOG names the catalog with the platform's tables, or"
            " unset TRINO_HOST to compact without Trino",
        ) from error
    except (client.exceptions.Error, OSError) as error:
        raise EngineUnavailable(
            f"Trino at {trino.host}:{trino.port} does not answer: {type(error).__name__}",
            action="check TRINO_HOST and TRINO_PORT, or unset TRINO_HOST to do without Trino",
        ) from error


def _client() -> Any:
    try:
        import trino
    except ImportError as error:
        raise SettingError(
            "TRINO_HOST",
            "is set, and Trino's client is not installed: pip install 'ingestion-platform[trino]'",
            example="<unset>",
        ) from error
    return trino


def _quoted(name: str) -> str:
    return name if _NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'
