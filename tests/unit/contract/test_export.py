"""`ingest contract export`: documents valid by their formats, and committed as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from jsonschema import Draft7Validator, Draft202012Validator
from typer.testing import CliRunner

from ingestion_platform.cli.app import app
from ingestion_platform.contract.export.text import code, fields_table, table
from ingestion_platform.contract.model import Contract, Field, Kind
from ingestion_platform.streams import declared_streams

DOCS = Path(__file__).parents[3] / "docs"
STREAMS = declared_streams()


def export(*arguments: str) -> Result:
    """`ingest contract export` in this process."""
    return CliRunner().invoke(app, ["contract", "export", *arguments], prog_name="ingest")


def generated(folder: Path) -> dict[str, str]:
    """The generated pages of a docs folder: text by path."""
    files = [*folder.glob("streams/*.md"), *folder.glob("event-schema-specification.md")]
    return {file.relative_to(folder).as_posix(): file.read_text("utf-8") for file in files}


def references(value: Any) -> Iterator[str]:
    """Every `$ref` of a document."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def resolved(document: Any, reference: str) -> Any:
    """What a local reference points at."""
    start, *steps = reference.split("/")
    assert start == "#"
    for step in steps:
        document = document[step.replace("~1", "/").replace("~0", "~")]
    return document


@pytest.fixture(scope="module")
def asyncapi() -> dict[str, Any]:
    """The AsyncAPI document of all streams."""
    done = export("--format", "asyncapi")
    assert done.exit_code == 0
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_committed_pages_are_fresh(tmp_path: Path) -> None:
    """What is in docs/ is what the contracts say now."""
    assert export("--format", "markdown", "--output", str(tmp_path)).exit_code == 0
    now, committed = generated(tmp_path), generated(DOCS)
    assert set(now) == {
        "event-schema-specification.md",
        "streams/README.md",
        *(f"streams/{name}.md" for name in STREAMS),
    }
    stale = sorted(path for path in now | committed if now.get(path) != committed.get(path))
    assert not stale, f"not what the contracts say: docs/{', docs/'.join(stale)}; run `make docs`"


def test_json_schema_accepts_the_example_of_its_contract_and_no_other(tmp_path: Path) -> None:
    """Each file is a schema that accepts its own example; lacking a field, it does not."""
    assert export("--output", str(tmp_path)).exit_code == 0
    assert {file.name for file in tmp_path.iterdir()} == {f"{s}.schema.json" for s in STREAMS}
    examples = {}
    validators = {}
    for name in STREAMS:
        schema = json.loads((tmp_path / f"{name}.schema.json").read_text("utf-8"))
        Draft202012Validator.check_schema(schema)
        validators[name] = Draft202012Validator(schema)
        (examples[name],) = schema["examples"]
    for name, validator in validators.items():
        assert [other for other, shown in examples.items() if validator.is_valid(shown)] == [name]
        for required in validator.schema["required"]:
            without = {k: v for k, v in examples[name].items() if k != required}
            assert not validator.is_valid(without), f"{name} without {required}"


def test_asyncapi_has_a_channel_and_a_message_for_every_topic(asyncapi: dict[str, Any]) -> None:
    """Topic, group and contract of each stream are where AsyncAPI 3.0 has them."""
    assert asyncapi["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(asyncapi["info"])
    addresses = {name: channel["address"] for name, channel in asyncapi["channels"].items()}
    assert addresses == {name: stream.topic for name, stream in STREAMS.items()}
    for name, stream in STREAMS.items():
        operation = asyncapi["operations"][f"receive_{name}"]
        assert operation["action"] == "receive"
        assert operation["bindings"]["kafka"]["groupId"]["enum"] == [stream.group_id]
        assert asyncapi["components"]["messages"][name]["name"] == stream.contract.id


def test_asyncapi_references_resolve(asyncapi: dict[str, Any]) -> None:
    """No reference leads nowhere, and an operation's messages are those of its channel."""
    found = set(references(asyncapi))
    assert len(found) >= 3 * len(STREAMS)
    for reference in found:
        assert resolved(asyncapi, reference)
    for operation in asyncapi["operations"].values():
        within = operation["channel"]["$ref"] + "/messages/"
        assert all(message["$ref"].startswith(within) for message in operation["messages"])


def test_asyncapi_messages_carry_examples_of_their_payload(asyncapi: dict[str, Any]) -> None:
    """Payloads are schemas of AsyncAPI's dialect (draft 7), and examples fit them."""
    for message in asyncapi["components"]["messages"].values():
        schema = resolved(asyncapi, message["payload"]["$ref"])
        Draft7Validator.check_schema(schema)
        for shown in message["examples"]:
            Draft7Validator(schema).validate(shown["payload"])


def test_one_stream_goes_to_standard_output() -> None:
    """One document needs no folder: it is all that standard output has."""
    done = export("pgr_events")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout)["$id"].startswith("urn:contract:pgr-events:")
    page = export("pgr_events", "--format", "markdown")
    assert page.exit_code == 0
    assert page.stdout == (DOCS / "streams" / "pgr_events.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such_stream"], "no stream 'no_such_stream' is declared"),
        (["pgr_events", "app_logs"], "--output"),
        (["--format", "markdown"], "--output"),
        (["--format", "avro"], "--format"),
    ],
)
def test_wrong_use_says_what_to_do(arguments: list[str], said: str) -> None:
    """Wrong arguments end with 2 and a message, and write nothing to standard output."""
    done = export(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_selection_gets_no_index(tmp_path: Path) -> None:
    """Pages of some streams do not replace the index of all."""
    assert export("app_logs", "--format", "markdown", "--output", str(tmp_path)).exit_code == 0
    assert set(generated(tmp_path)) == {"streams/app_logs.md"}


def test_nested_fields_have_rows_of_their_own() -> None:
    """Members of objects and of arrays' items stand below their field, by their paths."""
    inner = Field("b", Kind.INTEGER, required=True, minimum=0)
    rows = fields_table(
        [
            Field("o", Kind.OBJECT, fields=(inner,)),
            Field("a", Kind.ARRAY, item=Field("item", Kind.OBJECT, fields=(inner,))),
            Field("t", Kind.ARRAY, item=Field("item", Kind.STRING, max_length=3), max_length=5),
        ]
    ).splitlines()
    assert [row.split(" | ")[:4] for row in rows[2:]] == [
        ["| `o`", "object", "no", ""],
        ["| `o.b`", "integer", "yes", "≥ 0"],
        ["| `a`", "array of object", "no", ""],
        ["| `a[].b`", "integer", "yes", "≥ 0"],
        ["| `t`", "array of string", "no", "at most 5 items"],
        ["| `t[]`", "string", "no", "at most 3 characters"],
    ]


def test_derived_fields_show_how(load: Callable[..., Contract]) -> None:
    """A derived field is no field to send: its expression stands in its place."""
    contract = load(
        {"name": "a", "logicalType": "string", "required": True},
        {"name": "b", "logicalType": "string", "transformLogic": "a || a"},
    )
    assert "| `b` | string | derived | = `a \\|\\| a` |" in fields_table(contract.fields)


def test_cells_cannot_break_a_table() -> None:
    """Bars and line ends within a cell stay within it; backticks stay within code."""
    assert table(["x"], [["a|b\nc"]]).splitlines()[-1] == "| a\\|b c |"
    assert code("a`b") == "``a`b``"
