"""Names of the columns that the platform adds to bronze and quarantine tables.

All start with an underscore. A contract may not declare such names. `schemas` has the types.
"""

from __future__ import annotations

from typing import Final

# In both tables: the record's position in its log, when the row was written, and the contract.
INGEST_DATE: Final = "_ingest_date"
TOPIC_ID: Final = "_topic_id"
PARTITION: Final = "_partition"
OFFSET: Final = "_offset"
INGESTED_AT: Final = "_ingested_at"
CONTRACT: Final = "_contract"

# In quarantine only: the record as it was sent, the reasons, and its lake file.
TIMESTAMP: Final = "_timestamp"
KEY: Final = "_key"
VALUE: Final = "_value"
HEADERS: Final = "_headers"
REASONS: Final = "_reasons"
ORIGIN: Final = "_origin"

BRONZE_COLUMNS: Final = (INGEST_DATE, TOPIC_ID, PARTITION, OFFSET, INGESTED_AT, CONTRACT)
QUARANTINE_COLUMNS: Final = (
    INGEST_DATE,
    TOPIC_ID,
    PARTITION,
    OFFSET,
    TIMESTAMP,
    KEY,
    VALUE,
    HEADERS,
    REASONS,
    ORIGIN,
    INGESTED_AT,
    CONTRACT,
)
