"""Validates rows that were inserted into a bronze table by SQL, after the fact.

Each is written as the record that would have made it, and validated as any record is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from ingestion_platform.bronze.validate import Validator, count_reasons
from ingestion_platform.contract.exact import is_epoch
from ingestion_platform.contract.model import Contract, Field
from ingestion_platform.contract.times import EPOCHS, micros_of
from ingestion_platform.warehouse.inserted import count_inserted, inserted_rows

if TYPE_CHECKING:
    from pyiceberg.table import Table

VALIDATED = 100_000
"""Rows that are validated at most, to keep the check quick."""


@dataclass(frozen=True, slots=True)
class Inserted:
    """Rows without an offset: how many, how many of them were validated, and their reasons.

    `reasons` counts each reason by the rows that it holds for.
    """

    rows: int = 0
    validated: int = 0
    broken: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def validate_inserted(table: Table | None, contract: Contract) -> Inserted:
    """Validate the inserted rows of a bronze table; the table is not changed.

    Raises:
        StoreUnavailable: the tables' store does not answer.
    """
    rows = count_inserted(table)
    if table is None or not rows:
        return Inserted()
    parser = Validator(contract)
    validated, broken, reasons = 0, 0, Counter[str]()
    for batch in inserted_rows(table):
        part = batch.slice(0, VALIDATED - validated)
        parsed = parser.parse(_records(part, contract))
        validated += part.num_rows
        broken += len(parsed.rejected)
        reasons.update(count_reasons(parsed.reasons))
        if validated >= VALIDATED:
            break
    return Inserted(rows, validated, broken, reasons)


def _records(rows: pa.RecordBatch, contract: Contract) -> pa.BinaryArray:
    """Return typed rows as the JSON that a producer would have sent."""
    sent = [f for f in contract.fields if f.derived is None and f.name in rows.schema.names]
    encode = msgspec.json.Encoder(decimal_format="number").encode
    listed = rows.select([f.name for f in sent]).to_pylist()
    return pa.array([encode({f.name: _sent(f, r[f.name]) for f in sent}) for r in listed])


def _sent(field: Field, value: Any) -> Any:
    """Return a stored value, which is in UTC, as a producer would have sent it."""
    match value:
        case datetime() if is_epoch(field):
            return Decimal(micros_of(value)) / EPOCHS[str(field.format)]
        case datetime():
            return value.replace(tzinfo=value.tzinfo or UTC)
        case dict():
            return {f.name: _sent(f, value.get(f.name)) for f in field.fields}
        case list() if field.item is not None:
            return [_sent(field.item, member) for member in value]
    return value
