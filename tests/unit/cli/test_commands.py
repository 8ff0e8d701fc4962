"""The commands on the embedded broker: exit codes, JSON for machines, messages for people."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from ingestion_platform import Client
from ingestion_platform.errors import NoTopic
from ingestion_platform.kafka.client import topics
from ingestion_platform.settings import Settings
from ingestion_platform.streams import COMPONENT, DOMAINS_FOLDER
from ingestion_platform.warehouse.catalog import open_catalog
from tests.support.command_line import Ingest

STATUS = {
    "copies",
    "stream",
    "topic",
    "no_topic_yet",
    "error",
    "topic_id",
    "bronze_topic_id",
    "bronze_table",
    "quarantine_table",
    "bronze_rows",
    "quarantine_rows",
    "partitions",
    "waiting_files",
    "decided_rows",
    "losses",
    "inserted_rows",
}
PARTITION = {
    "not_landed",
    "partition",
    "log_start",
    "log_end",
    "lake_position",
    "bronze_position",
    "quarantine_position",
    "lag",
    "lost",
}
VERIFICATION = {
    "stream",
    "ok",
    "expected",
    "bronze",
    "quarantined",
    "gaps",
    "missing",
    "duplicated",
    "mismatched",
    "stale",
    "differences",
    "inserted",
    "error",
}


@pytest.fixture
def loaded(ingest: Ingest) -> Ingest:
    """`ingest` where 300 events, some broken, were produced and loaded."""
    assert ingest("produce", "pgr_events", "--count", "300", "--bad-ratio", "0.1").code == 0
    assert ingest("run", "pgr_events").code == 0
    return ingest


def in_log(status: dict) -> int:
    """How many records the embedded log has ever had."""
    return sum(p["log_end"] for p in status["partitions"])


def test_produce_sends_what_was_asked_for(ingest: Ingest) -> None:
    """`--count` records arrive in the topic, which need not exist before."""
    ingest("produce", "pgr_events", "--count", "1")
    before = in_log(ingest("status", "pgr_events", "--json").json[0])
    answer = ingest("produce", "pgr_events", "--count", "250", "--seed", "7")
    assert (answer.code, answer.out) == (0, "")
    assert "250 of 250" in answer.err
    assert in_log(ingest("status", "pgr_events", "--json").json[0]) - before == 250


def test_nothing_is_sent_to_a_stream_of_files(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stream without a topic gets none; the error says how its records come in."""
    folder = tmp_path / "domains" / "shop"
    folder.mkdir(parents=True)
    contract = (DOMAINS_FOLDER / "telemetry" / "app_logs.odcs.yaml").read_text()
    (folder / "refunds.odcs.yaml").write_text(contract)
    attributes = {"name": "refunds", "files": {"folder": "back"}}
    (folder / "defs.yaml").write_text(yaml.safe_dump({"type": COMPONENT, "attributes": attributes}))
    monkeypatch.setenv("PLATFORM_DOMAINS", str(folder.parent))
    answer = ingest("produce", "refunds", "--count", "1")
    assert answer.code == 1
    assert "refunds has no Kafka topic" in answer.err
    assert "back/ of the drop zone, or run `ingest load refunds FILE`" in answer.err
    assert "refunds" not in topics(Settings.load())
    with pytest.raises(NoTopic, match="refunds has no Kafka topic"):
        Client().send("refunds", {})


def test_quiet_says_nothing_of_success(ingest: Ingest) -> None:
    """With --quiet, before or behind the command, a good run is silent."""
    for arguments in (("-q", "produce", "pgr_events"), ("produce", "pgr_events", "--quiet")):
        answer = ingest(*arguments, "--count", "5")
        assert (answer.code, answer.out, answer.err) == (0, "", "")


def test_an_undelivered_record_is_exit_code_1(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that the producer refuses are counted and told, with the reason."""
    monkeypatch.setenv("KAFKA_TRANSACTIONAL_ID", "never-begun")
    answer = ingest("produce", "pgr_events", "--count", "3")
    assert answer.code == 1
    assert "3 records were not acknowledged" in answer.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("produce", "pgr_events"),
        ("produce", "pgr_events", "--count", "0"),
        ("produce", "pgr_events", "--count", "-1"),
        ("produce", "pgr_events", "--count", "5", "--bad-ratio", "1.5"),
        ("produce", "pgr_events", "--rate", "0"),
        ("produce", "no_such_stream", "--count", "5"),
        ("produce",),
        ("run",),
        ("run", "pgr_events", "--all"),
        ("run", "no_such_stream"),
        ("verify",),
        ("verify", "no_such_stream"),
        ("status", "no_such_stream"),
        ("status", "--no-such-option"),
        ("query",),
        ("query", "not sql"),
        ("query", "select 1; select 2"),
        ("query", "drop table bronze.service_events_raw"),
        ("query", "select * from bronze.no_such_table"),
        ("contract", "lint", "no_such_file.odcs.yaml"),
    ],
)
def test_wrong_use_is_exit_code_2(ingest: Ingest, arguments: tuple[str, ...]) -> None:
    """Flags, names and statements that cannot work: one message on stderr, nothing on stdout."""
    answer = ingest(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err
    assert "Traceback" not in answer.err


def test_an_unknown_stream_names_those_there_are(bare: Ingest) -> None:
    """A mistyped stream is told with its alternatives."""
    answer = bare("status", "pgr")
    assert "'pgr'" in answer.err
    assert "pgr_events" in answer.err


def test_run_loads_to_the_end_and_again_does_nothing(loaded: Ingest) -> None:
    """After a run nothing is behind; a second one has nothing to do."""
    status = loaded("status", "pgr_events", "--json").json[0]
    assert sum(p["lag"] for p in status["partitions"]) == 0
    assert status["bronze_rows"] + status["quarantine_rows"] == in_log(status)
    again = loaded("run", "pgr_events", "--json")
    assert again.code == 0
    assert [(t["landed"], t["bronze"], t["quarantined"]) for t in again.json] == [(0, 0, 0)]


def test_run_tells_why_records_were_rejected(ingest: Ingest) -> None:
    """The JSON of a run counts rows and reasons."""
    ingest("run", "pgr_events")
    ingest("produce", "pgr_events", "--count", "100", "--bad-ratio", "0.2", "--quiet")
    tally = ingest("run", "pgr_events", "--json").json[0]
    assert (tally["landed"], tally["bronze"], tally["quarantined"]) == (100, 80, 20)
    assert sum(tally["reasons"].values()) >= 20
    assert tally["error"] is None


def test_status_has_the_promised_shape(loaded: Ingest) -> None:
    """`status --json` is a list with these fields, by stream and by partition."""
    answer = loaded("status", "--json")
    assert (answer.code, answer.err) == (0, "")
    (status,) = [each for each in answer.json if each["stream"] == "pgr_events"]
    assert set(status) == STATUS
    assert [p["partition"] for p in status["partitions"]] == [0, 1, 2, 3]
    assert {frozenset(p) for p in status["partitions"]} == {frozenset(PARTITION)}
    assert loaded("status", "pgr_events", "--json").json == [status]


def test_status_for_people(loaded: Ingest) -> None:
    """Without --json there is a line per stream, with a name a line per partition."""
    status = loaded("status", "pgr_events", "--json").json[0]
    (line,) = [line for line in loaded("status").out.splitlines() if "pgr_events" in line]
    assert f"{status['bronze_rows']:,}" in line.split()
    lines = loaded("status", "pgr_events").out.splitlines()
    partitions = [line.split()[0] for line in lines if re.match(r" \d +", line)]
    assert partitions == ["0", "1", "2", "3"]


def test_verify_holds_and_has_the_promised_shape(loaded: Ingest) -> None:
    """What was loaded verifies, and `verify --json` has these fields."""
    answer = loaded("verify", "pgr_events", "--json")
    assert (answer.code, answer.err) == (0, "")
    (found,) = answer.json
    assert set(found) == VERIFICATION
    assert found["ok"]
    assert found["expected"] == found["bronze"] + found["quarantined"]
    assert loaded("verify", "pgr_events").code == 0


def test_verify_fails_and_tells_what_is_missing(loaded: Ingest) -> None:
    """A row that somebody deleted is exit code 1, counted, and shown by its place."""
    table = open_catalog(Settings.load()).load_table("bronze.service_events_raw")
    row = table.scan(limit=1).to_arrow().to_pylist()[0]
    place = f"partition {row['_partition']}, offset {row['_offset']}"
    table.delete(f"_partition = {row['_partition']} and _offset = {row['_offset']}")
    answer = loaded("verify", "pgr_events", "--json")
    assert answer.code == 1
    (found,) = answer.json
    assert (found["ok"], found["missing"]) == (False, 1)
    told = loaded("verify", "pgr_events")
    assert told.code == 1
    assert place in told.out


def test_query_gives_rows(loaded: Ingest) -> None:
    """A query's rows come as a table or as JSON, at most --limit of them."""
    status = loaded("status", "pgr_events", "--json").json[0]
    sql = "select count(*) as n, max(event_time) as latest from bronze.service_events_raw"
    (row,) = loaded("query", sql, "--json").json
    assert row["n"] == status["bronze_rows"]
    assert row["latest"].startswith("20")
    assert str(row["n"]) in loaded("query", sql).out
    every = "select _value, _reasons, _key from quarantine.service_events_raw"
    assert len(loaded("query", every, "--json").json) == status["quarantine_rows"]
    few = loaded("query", every, "--limit", "2")
    assert f"2 of {status['quarantine_rows']} rows" in few.err
    assert len(loaded("query", every, "--limit", "2", "--json").json) == 2


def test_markup_in_values_is_escaped(ingest: Ingest) -> None:
    """Square brackets in data are data."""
    assert "[red]x[/red]" in ingest("query", "select '[red]x[/red]' as v").out


def test_missing_broker_is_reported_with_next_action(bare: Ingest) -> None:
    """Without a broker `status` exits with 1 and says how to start one."""
    answer = bare("status")
    assert answer.code == 1
    assert "source_unavailable" in answer.out
    assert answer.err.count("ingest broker") == 1
    assert "Traceback" not in answer.err


def test_run_reports_a_failed_stream(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stream that cannot run is exit code 1, told on stderr and in the JSON."""
    ingest("produce", "pgr_events", "--count", "1")
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAKE_URL", (tmp_path / "file" / "lake").as_uri())
    answer = ingest("run", "pgr_events", "--json")
    assert answer.code == 1
    assert answer.json[0]["error"]["code"] == "store_unavailable"
    assert "the store" in answer.json[0]["error"]["message"]
    assert "LAKE_URL" in answer.err


def test_a_wrong_setting_names_itself_with_an_example(
    bare: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that cannot work is wrong use."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "broker-without-port")
    answer = bare("status")
    assert answer.code == 2
    assert "KAFKA_BOOTSTRAP_SERVERS" in answer.err
    assert "broker-1:9092" in answer.err


def test_an_unexpected_error_is_one_message(bare: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is told without a traceback, unless --debug asks for one."""

    def burst() -> None:
        raise LookupError("nobody foresaw this")

    monkeypatch.setattr("ingestion_platform.streams.declared_streams", burst)
    answer = bare("status")
    assert answer.code == 1
    assert "nobody foresaw this" in answer.err
    assert "--debug" in answer.err
    with pytest.raises(LookupError):
        bare("--debug", "status")


def test_declared_contracts_pass_lint(bare: Ingest) -> None:
    """The contracts of the platform itself have no errors."""
    answer = bare("contract", "lint", "--json")
    assert answer.code == 0
    assert all(finding["severity"] == "warning" for finding in answer.json)


def test_a_contract_with_an_error_fails_lint(bare: Ingest, tmp_path: Path) -> None:
    """An error is exit code 1, with file, element, problem and action."""
    file = tmp_path / "broken.odcs.yaml"
    file.write_text("apiVersion: v3.2.0\nkind: DataContract\n")
    answer = bare("contract", "lint", str(file), "--json")
    assert answer.code == 1
    for finding in answer.json:
        assert set(finding) == {"file", "element", "problem", "action", "severity"}
    told = bare("contract", "lint", str(file))
    assert told.code == 1
    assert "->" in told.out


def test_the_broker_starts_and_stops(bare: Ingest, tmp_path: Path) -> None:
    """`broker --background` returns when it is ready, `broker stop` ends it."""
    try:
        started = bare("broker", "--background")
        assert started.code == 0
        file = tmp_path / ".platform" / "broker.json"
        servers = json.loads(file.read_text())["bootstrap_servers"]
        assert servers in started.out
        assert bare("produce", "pgr_events", "--count", "10").code == 0
    finally:
        stopped = bare("broker", "stop")
    assert stopped.code == 0
    assert "stopped" in stopped.err
    assert not file.exists()
    assert "no embedded broker ran" in bare("broker", "stop").err
