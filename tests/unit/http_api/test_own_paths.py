"""The shop's own paths, exactly as its readers and producers know them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Response

from ingestion_platform.http_api.staging import append_rows
from ingestion_platform.settings import Settings
from tests.support.api_lab import USER, Served

VIEW = {"user_id": 1001, "item_id": 501, "view_mode": "purchase", "rating": 4}
COLUMNS = ["user_id", "age", "gender", "device"]


def post(served: Served, path: str, record: Any) -> Response:
    """Post a record as JSON."""
    return served.http.post(path, json=record)


def staged(tmp_path: Path, name: str) -> list[list[str]]:
    """The lines of a staging file."""
    with (tmp_path / "drop zone" / "recomart" / name).open(newline="") as file:
        return list(csv.reader(file))


def test_health(served: Served) -> None:
    """The answer is exactly what the shop's readers expect."""
    answer = served.http.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})


def test_user_is_accepted_and_in_topic(served: Served) -> None:
    """201 with the user's id, once the event is in Kafka."""
    answer = post(served, "/users", USER)
    assert (answer.status_code, answer.json()) == (201, {"status": "accepted", "user_id": 1001})
    (message,) = served.sent("recomart_users")
    assert json.loads(message.value()) == USER
    assert message.key() == b"1001"


@pytest.mark.parametrize("given", [{}, {"timestamp": None}])
def test_transaction_without_time_gets_present_time(served: Served, given: Any) -> None:
    """The API fills the default, and touches nothing else."""
    before = datetime.now(UTC)
    answer = post(served, "/transactions", VIEW | given)
    assert (answer.status_code, answer.json()) == (201, {"status": "accepted", "user_id": 1001})
    (message,) = served.sent("recomart_transactions")
    sent = json.loads(message.value())
    time = datetime.fromisoformat(sent.pop("timestamp"))
    assert sent == VIEW
    assert before - timedelta(seconds=1) <= time <= datetime.now(UTC)
    assert message.key() == b"1001"


def test_transaction_keeps_its_time(served: Served) -> None:
    """What the producer says stands, byte for byte."""
    body = json.dumps(VIEW | {"timestamp": "2026-11-20T10:00:00+02:00"})
    answer = served.http.post("/transactions", content=body)
    assert answer.status_code == 201
    (message,) = served.sent("recomart_transactions")
    assert message.value() == body.encode()


@pytest.mark.parametrize(
    ("path", "record", "field"),
    [
        ("/users", USER | {"age": 0}, "age"),
        ("/users", USER | {"gender": "m"}, "gender"),
        ("/users", [USER], "value"),
        ("/transactions", VIEW | {"rating": 6}, "rating"),
        ("/transactions", VIEW | {"view_mode": "buy"}, "view_mode"),
        ("/transactions", VIEW | {"timestamp": "yesterday"}, "timestamp"),
        ("/transactions", {}, "user_id"),
        ("/internal/ingest-user", USER | {"age": 1.5}, "age"),
        ("/internal/ingest-transaction", VIEW | {"item_id": None}, "item_id"),
    ],
)
def test_rejection_names_field(
    served: Served, tmp_path: Path, path: str, record: Any, field: str
) -> None:
    """422 names the field, and neither the topic nor the drop zone gets the record."""
    answer = post(served, path, record)
    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert served.sent("recomart_users") + served.sent("recomart_transactions") == []
    assert not (tmp_path / "drop zone").exists()


def test_repeated_field_is_rejected(served: Served) -> None:
    """Filling the timestamp must not repair what the contract rejects."""
    body = json.dumps(VIEW)[:-1] + ', "rating": 5}'
    answer = served.http.post("/transactions", content=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["code"] == "uniqueKeys"


def test_staging_paths_append_to_files(served: Served, tmp_path: Path) -> None:
    """One header, a line per record in the order of the contract, and nothing in the topics."""
    for i in range(3):
        answer = post(served, "/internal/ingest-user", USER | {"user_id": i, "unknown": 1})
        assert (answer.status_code, answer.json()) == (201, {"status": "accepted", "user_id": i})
    post(served, "/internal/ingest-transaction", VIEW | {"rating": None})
    assert staged(tmp_path, "users_api_staging.csv") == [
        COLUMNS,
        *([str(i), "34", "F", "Mobile"] for i in range(3)),
    ]
    header, row = staged(tmp_path, "transactions_api_staging.csv")
    assert header == ["user_id", "item_id", "view_mode", "rating", "timestamp"]
    assert row[:4] == ["1001", "501", "purchase", ""]
    assert datetime.fromisoformat(row[4]).tzinfo is not None
    assert served.sent("recomart_users") == []


def test_staging_retry_writes_one_line(served: Served, tmp_path: Path) -> None:
    """Idempotency-Key holds for the internal paths as well."""
    for _ in range(3):
        headers = {"idempotency-key": "k"}
        answer = served.http.post("/internal/ingest-user", json=USER, headers=headers)
        assert answer.status_code == 201
    assert len(staged(tmp_path, "users_api_staging.csv")) == 2


def test_staging_into_object_store_gives_501(
    serve: Callable[..., Served], embedded_settings: Settings
) -> None:
    """Objects cannot be appended to: 501, naming the setting."""
    served = serve()
    served.api.settings = served.api.settings.replace(drop_url="s3://bucket/drop")
    answer = post(served, "/internal/ingest-user", USER)
    assert answer.status_code == 501
    assert "DROP_URL" in answer.json()["action"]


def test_unwritable_drop_zone_gives_503(served: Served, tmp_path: Path) -> None:
    """503 and a counted error; the record may be sent again."""
    (tmp_path / "drop zone").write_text("a file where a folder should be")
    answer = post(served, "/internal/ingest-user", USER)
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert served.api.counters.by_outcome()["failed"]["recomart_users"] == 1


def test_concurrent_writers_do_not_mix_lines(tmp_path: Path) -> None:
    """Writers at once, and somebody who takes the file away: no row is lost or torn, each file
    has one header."""
    file, rows = tmp_path / "drop" / "staging.csv", 40
    taken: list[Path] = []

    def write(writer: int) -> None:
        for i in range(rows):
            append_rows(
                file.parent,
                file.name,
                ["writer", "i", "text"],
                [{"writer": writer, "i": i, "text": 'a,"b'}],
            )
            if writer == 0 and i % 10 == 5:
                taken.append(file.rename(file.with_name(f"taken-{i}.csv")))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    found = []
    for part in {file, *taken} if file.exists() else taken:
        with part.open(newline="") as lines:
            header, *content = csv.reader(lines)
        assert header == ["writer", "i", "text"]
        found += content
    assert len(taken) == 4
    assert sorted(found) == sorted([str(w), str(i), 'a,"b'] for w in range(4) for i in range(rows))


def test_incomplete_line_is_removed(tmp_path: Path) -> None:
    """What a crash left of a line that nobody was told of is removed."""
    file = tmp_path / "users.csv"
    append_rows(file.parent, file.name, ["a", "b"], [{"a": 1, "b": None}])
    with file.open("a") as torn:
        torn.write("2,to")
    append_rows(file.parent, file.name, ["a", "b"], [{"a": 3, "b": [1]}])
    assert file.read_text() == "a,b\n1,\n3,[1]\n"


def test_incomplete_header_is_replaced(tmp_path: Path) -> None:
    """A file whose header was cut off begins again."""
    file = tmp_path / "users.csv"
    file.write_text("a,")
    append_rows(file.parent, file.name, ["a", "b"], [{"a": 1, "b": True}])
    assert file.read_text() == "a,b\n1,true\n"
