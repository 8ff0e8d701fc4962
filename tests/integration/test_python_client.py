"""The Python client, on the embedded broker with a lake and a catalog of its own."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import pytest

from ingestion_platform import Client
from ingestion_platform.errors import UnknownStream
from ingestion_platform.settings import Settings
from tests.support.grievances import EVENT

# As Python has it: a date, and a decimal, which JSON has as text and number.
TYPED = EVENT | {
    "event_date": dt.date(2024, 12, 17),
    "attributes_json": {"complaint_type": "Water Supply", "cost": Decimal("12.50")},
}


def test_what_is_sent_can_be_read(embedded_settings: Settings) -> None:
    """A record sent as a dict is a bronze row after a run, and the stream verifies."""
    client = Client(embedded_settings)
    broken = b'{"event_date": "never"}'
    case = f"CMP_{dt.datetime.now().timestamp()}"
    report = client.send("pgr_events", [TYPED | {"entity_id": case}, broken], key="entity_id")
    assert (report.sent, report.delivered) == (2, 2)

    client.run("pgr_events")

    rows = client.read("pgr_events")
    row = next(row for row in rows.to_pylist() if row["entity_id"] == case)
    assert row["event_date"] == dt.date(2024, 12, 17)
    assert row["event_time"] == dt.datetime(2024, 12, 17, 10)
    assert json.loads(row["attributes_json"]) == {"complaint_type": "Water Supply", "cost": 12.5}
    rejected = client.query("SELECT _value FROM quarantine.service_events_raw").to_pylist()
    assert broken in [row["_value"] for row in rejected]
    assert client.verify("pgr_events").ok
    assert client.status("pgr_events").lag == 0
    frame = client.frame("bronze.service_events_raw")
    assert len(frame) == rows.num_rows
    assert str(frame["event_date"].dtype) == "date32[day][pyarrow]"
    assert broken in client.frame("pgr_events", quarantined=True)["_value"].tolist()


def test_a_file_is_loaded_once(local_settings: Settings, tmp_path: Path) -> None:
    """A file's records are bronze rows; the same content again adds none."""
    client = Client(local_settings)
    record = EVENT | {"attributes_json": {"priority": "LOW"}}
    file = tmp_path / "events.jsonl"
    file.write_text(json.dumps(record) + "\n")
    client.load("pgr_events", file)
    client.load("pgr_events", str(file))
    assert client.read("pgr_events")["entity_id"].to_pylist() == ["CMP_001"]


def test_a_wrong_name_is_told(embedded_settings: Settings) -> None:
    """A stream that is not declared is an error that lists those that are."""
    with pytest.raises(UnknownStream, match="pgr_events"):
        Client(embedded_settings).send("nothing", {})
