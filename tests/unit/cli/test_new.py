"""`ingest new`: a stream declared from a sample or a contract, without overwriting anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.contract.model import Kind
from ingestion_platform.streams import DOMAINS_FOLDER, declared_streams
from tests.support.command_line import Ingest

RECORDS = [
    {"order_id": n, "status": ["new", "paid"][n % 2], "at": f"2026-03-01T10:00:{n:02}Z"}
    for n in range(20)
]


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A file of orders."""
    file = tmp_path / "orders.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return file


@pytest.fixture
def defs(tmp_path: Path, bare: Ingest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own, named by PLATFORM_DOMAINS; it is not there yet."""
    monkeypatch.setenv("PLATFORM_DOMAINS", "own/domains")
    return tmp_path / "own" / "domains"


def test_a_sample_becomes_a_declared_stream(bare: Ingest, defs: Path, sample: Path) -> None:
    """The stream is found beside the platform's own, and its contract passes lint."""
    done = bare("new", "shop_orders", "--from", str(sample))
    assert done.code == 0, done.err
    file = defs / "shop" / "shop_orders.odcs.yaml"
    assert done.out.strip() == str(file)
    assert "ingest contract lint" in done.err
    streams = declared_streams()
    assert len(streams) == len(declared_streams(DOMAINS_FOLDER)) + 1
    stream = streams["shop_orders"]
    assert (stream.topic, stream.domain) == ("shop-orders", "shop")
    assert stream.contract.primary_key == ("order_id",)
    assert Validator(stream.contract).schema.names
    lint = bare("contract", "lint", str(file), "--json")
    assert lint.code == 0
    assert any("placeholder" in finding["problem"] for finding in lint.json)


def test_streams_of_a_domain_are_declared_one_after_the_other(
    bare: Ingest, defs: Path, sample: Path
) -> None:
    """A second one is a further document of the same file, even if the first lacks a line end."""
    assert bare("new", "shop_orders", "--from", str(sample)).code == 0
    listing = defs / "shop" / "defs.yaml"
    listing.write_text("# ours\n" + listing.read_text().rstrip("\n"))
    done = bare("new", "refunds", "--from", str(sample), "--domain", "shop", "--topic", "back.v1")
    assert done.code == 0, done.err
    assert listing.read_text().startswith("# ours\n")
    documents = list(yaml.safe_load_all(listing.read_text()))
    assert [each["attributes"] for each in documents] == [
        {"name": "shop_orders", "topic": "shop-orders"},
        {"name": "refunds", "topic": "back.v1"},
    ]
    assert list(declared_streams(defs)) == ["shop_orders", "refunds"]


def test_a_csv_sample_gives_typed_fields(bare: Ingest, defs: Path, tmp_path: Path) -> None:
    """Cells are text, and the contract says what they spell."""
    file = tmp_path / "sales.csv"
    file.write_text("id,amount,day,bad name\n1,2.50,2026-03-01,x\n2,3,2026-03-02,y\n")
    done = bare("new", "sales", "--from", str(file))
    assert done.code == 0, done.err
    assert "left out bad name" in done.err
    fields = declared_streams()["sales"].contract.fields
    assert {field.name: field.kind for field in fields} == {
        "id": Kind.INTEGER,
        "amount": Kind.NUMBER,
        "day": Kind.DATE,
    }


def test_a_given_contract_is_taken_as_it_is(bare: Ingest, defs: Path, tmp_path: Path) -> None:
    """The file is copied byte by byte under the stream's name, into its own domain."""
    defs.mkdir(parents=True)
    assert bare("new", "a", "--from", _one_record(tmp_path), "--domains", "elsewhere").code == 0
    given = (tmp_path / "elsewhere" / "a" / "a.odcs.yaml").rename(tmp_path / "mine.yaml")
    done = bare("new", "b", "--contract", str(given))
    assert done.code == 0, done.err
    assert (defs / "a" / "b.odcs.yaml").read_bytes() == given.read_bytes()


def test_another_folder_is_used_and_told(bare: Ingest, tmp_path: Path) -> None:
    """With --domains the way to have the folder found is among the next steps."""
    done = bare("new", "a", "--from", _one_record(tmp_path), "--domains", "mine")
    assert done.code == 0, done.err
    assert f"export PLATFORM_DOMAINS={tmp_path / 'mine'}" in done.err
    assert list(declared_streams(tmp_path / "mine")) == ["a"]
    assert "a" not in declared_streams()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pgr_events"], "the name 'pgr_events' is taken"),
        (["mine", "--topic", "pgr-events"], "the topic 'pgr-events' is taken"),
        (["service_events_raw", "--domain", "service"], "the table 'service_events_raw' is taken"),
        (["Bad-Name"], "is not of the form"),
        (["mine", "--domain", "../x"], "is not of the form"),
        (["mine", "--topic", "a b"], "is not of the form"),
        (["mine", "--contract", "x.yaml"], "give a sample or a contract"),
    ],
)
def test_what_cannot_be_is_rejected_and_leaves_nothing(
    bare: Ingest, defs: Path, sample: Path, arguments: list[str], said: str
) -> None:
    """A name that is taken or malformed is told; no file is written."""
    done = bare("new", *arguments, "--from", str(sample))
    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert [file for file in defs.rglob("*") if file.is_file()] == []


def test_an_existing_contract_is_not_overwritten(bare: Ingest, defs: Path, sample: Path) -> None:
    """A file that nobody declared yet stays as it is."""
    file = defs / "shop" / "shop_orders.odcs.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    done = bare("new", "shop_orders", "--from", str(sample))
    assert (done.code, file.read_text()) == (2, "precious")
    assert "exists already" in done.err
    assert not (file.parent / "defs.yaml").exists()


@pytest.mark.parametrize("content", ["", "[1]\n", "{}\n"])
def test_a_sample_without_records_is_rejected(
    bare: Ingest, defs: Path, tmp_path: Path, content: str
) -> None:
    """Nothing can be proposed from it; the error says so and names the file."""
    file = tmp_path / "empty.jsonl"
    file.write_text(content)
    done = bare("new", "shop_orders", "--from", str(file))
    assert done.code == 2
    assert "empty.jsonl" in done.err


def test_a_missing_folder_of_own_streams_is_told(bare: Ingest, defs: Path) -> None:
    """A misspelled PLATFORM_DOMAINS is an error, not an absence of streams."""
    done = bare("contract", "lint")
    assert done.code == 2
    assert "PLATFORM_DOMAINS" in done.err


def _one_record(folder: Path) -> str:
    file = folder / "one.jsonl"
    file.write_text('{"a": 1}\n')
    return str(file)
