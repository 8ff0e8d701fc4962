"""Names of the columns that the platform itself adds to bronze and quarantine tables.

All start with an underscore, which no contract's field may; their types live in `schemas`.
"""

from __future__ import annotations

from typing import Final

# In both tables: which record of the log a row is, and how it came here.
INGEST_DATE: Final = "_ingest_date"
TOPIC_ID: Final = "_topic_id"
PARTITION: Final = "_partition"
OFFSET: Final = "_offset"
INGESTED_AT: Final = "_ingested_at"
CONTRACT: Final = "_contract"

# In quarantine only: the record as it was sent, and why it was rejected.
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
