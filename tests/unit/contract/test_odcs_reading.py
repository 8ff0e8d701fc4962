"""What an ODCS file may say, and what the contract then holds."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest

from ingestion_platform.contract.model import Kind, Rule
from ingestion_platform.contract.odcs import load_contract

TEXT = {"name": "text", "logicalType": "string"}


def prop(logical, physical=None, **more):
    """A property `x` of these types."""
    types = {"logicalType": logical} | ({"physicalType": physical} if physical else {})
    return {"name": "x", **types, **more}


@pytest.mark.parametrize(
    ("given", "kind", "attributes"),
    [
        (prop("string"), Kind.STRING, {}),
        (prop("string", "varchar(36)"), Kind.STRING, {"max_length": 36}),
        (prop("string", "uuid"), Kind.STRING, {"format": "uuid"}),
        (prop("integer"), Kind.INTEGER, {"bits": 64}),
        (prop("integer", "int"), Kind.INTEGER, {"bits": 32}),
        (prop("integer", "BIGINT"), Kind.INTEGER, {"bits": 64}),
        (prop("integer", logicalTypeOptions={"format": "i32"}), Kind.INTEGER, {"bits": 32}),
        (prop("number"), Kind.NUMBER, {"bits": 64}),
        (prop("number", "double precision"), Kind.NUMBER, {"bits": 64}),
        (prop("number", "real"), Kind.NUMBER, {"bits": 32}),
        (prop("number", "decimal(12,2)"), Kind.DECIMAL, {"precision": 12, "scale": 2}),
        (prop("number", "NUMERIC(38, 0)"), Kind.DECIMAL, {"precision": 38, "scale": 0}),
        (prop("number", "decimal(5)"), Kind.DECIMAL, {"precision": 5, "scale": 0}),
        (prop("boolean"), Kind.BOOLEAN, {}),
        (prop("date"), Kind.DATE, {}),
        (prop("time"), Kind.TIME, {}),
        (prop("timestamp"), Kind.TIMESTAMP, {"zoned": True}),
        (prop("timestamp", "timestamp"), Kind.TIMESTAMP, {"zoned": False}),
        (prop("timestamp", "timestamptz"), Kind.TIMESTAMP, {"zoned": True}),
        (prop("timestamp", "timestamp(6) with time zone"), Kind.TIMESTAMP, {"zoned": True}),
        (prop("timestamp", "timestamp without time zone"), Kind.TIMESTAMP, {"zoned": False}),
        (prop("timestamp", logicalTypeOptions={"timezone": False}), Kind.TIMESTAMP,
         {"zoned": False}),
        (prop("object"), Kind.JSON, {}),
        (prop("object", "json"), Kind.JSON, {}),
        (prop("array", "json"), Kind.JSON, {}),
    ],
)  # fmt: skip
def test_types(load, given, kind, attributes):
    """Logical and physical type together give the kind and its width."""
    field = load(given).column("x")

    assert field.kind is kind
    assert {name: getattr(field, name) for name in attributes} == attributes


def test_nesting_of_any_depth(load):
    """Objects and arrays nest; constraints hold at every depth."""
    point = prop("object", properties=[
        {"name": "lat", "logicalType": "number", "required": True},
        {"name": "tags", "logicalType": "array", "items": {"logicalType": "string",
         "logicalTypeOptions": {"minLength": 2}}},
    ])  # fmt: skip
    options = {"minItems": 1, "maxItems": 9, "uniqueItems": True}
    path = {"name": "path", "logicalType": "array", "items": point, "logicalTypeOptions": options}

    field = load(path).column("path")

    assert (field.min_length, field.max_length, field.unique_items) == (1, 9, True)
    assert field.item.kind is Kind.OBJECT
    lat, tags = field.item.fields
    assert lat.required
    assert tags.item.min_length == 2
    assert {field.item.name, tags.item.name} == {"element"}


def test_required_by_name_of_an_object(load):
    """`logicalTypeOptions.required` of an object marks its properties."""
    inner = [{"name": name, "logicalType": "string"} for name in ("a", "b")]
    given = prop("object", properties=inner, logicalTypeOptions={"required": ["b"]})

    assert [f.required for f in load(given).column("x").fields] == [False, True]


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [
        (prop("integer", logicalTypeOptions={"minimum": 1, "maximum": 5}), 1, 5),
        (prop("number", logicalTypeOptions={"minimum": 1, "maximum": 5.5}), 1.0, 5.5),
        (
            prop("number", "decimal(5,2)", logicalTypeOptions={"minimum": 0, "maximum": 9.25}),
            Decimal(0),
            Decimal("9.25"),
        ),
        (
            prop("date", logicalTypeOptions={"minimum": "2020-01-01", "maximum": "2020-01-02"}),
            date(2020, 1, 1),
            date(2020, 1, 2),
        ),
        (
            prop(
                "timestamp",
                logicalTypeOptions={
                    "minimum": "2020-01-01T00:00Z",
                    "maximum": "2020-01-01T02:00:00+01:00",
                },
            ),
            datetime(2020, 1, 1, tzinfo=UTC),
            datetime(2020, 1, 1, 1, tzinfo=UTC),
        ),
        (
            prop(
                "timestamp",
                "timestamp",
                logicalTypeOptions={
                    "minimum": "2020-01-01 00:00:00",
                    "maximum": "20200102T000000Z",
                },
            ),
            datetime(2020, 1, 1),
            datetime(2020, 1, 2),
        ),
        (
            prop("time", logicalTypeOptions={"minimum": "08:00", "maximum": "17:30:00"}),
            time(8),
            time(17, 30),
        ),
    ],
)
def test_bounds_are_values_of_the_kind(load, given, low, high):
    """Bounds are read as values of the field's own kind, timestamps in UTC."""
    field = load(given).column("x")

    assert (field.minimum, field.maximum) == (low, high)
    assert type(field.minimum) is type(low)


def test_exclusive_bounds_lengths_pattern_and_format(load):
    """Exclusive bounds, lengths, patterns and formats are kept."""
    options = {"minLength": 1, "maxLength": 9, "pattern": "^A.*$", "format": "hostname"}
    contract = load(
        prop("string", logicalTypeOptions=options, examples=["A1"]),
        {"name": "n", "logicalType": "number",
         "logicalTypeOptions": {"exclusiveMinimum": 0, "exclusiveMaximum": 1}},
    )  # fmt: skip

    text, number = contract.fields
    assert (text.min_length, text.max_length, text.pattern) == (1, 9, "^A.*$")
    assert text.format == "hostname"
    assert (number.exclusive_minimum, number.exclusive_maximum) == (0.0, 1.0)


def test_allowed_values_of_either_version(load):
    """`enum` of 3.2 and `invalidValues` of 3.1 mean the same."""
    quality = [{"type": "library", "metric": "invalidValues", "mustBe": 0,
                "arguments": {"validValues": ["A", "B"]}}]  # fmt: skip

    new = load(prop("string", enum=[{"value": "A"}, {"value": "B", "label": "Bee"}]))
    old = load(prop("string", quality=quality), apiVersion="v3.1.0")

    assert new.column("x").allowed == old.column("x").allowed == ("A", "B")
    assert new.fingerprint == old.fingerprint


def test_library_metrics_that_one_record_decides(load):
    """nullValues requires; missingValues requires and forbids words; a pattern is a pattern."""
    contract = load(
        prop("string", quality=[{"metric": "nullValues", "mustBe": 0}]),
        TEXT | {"quality": [
            {"metric": "missingValues", "mustBe": 0, "arguments": {"missingValues": [None, "n'a"]}},
            {"metric": "invalidValues", "mustBe": 0, "arguments": {"pattern": "[a-z']+"}},
        ]},
    )  # fmt: skip

    assert contract.column("x").required
    assert contract.column("text").required
    assert contract.column("text").pattern == "[a-z']+"
    assert contract.rules == (Rule("text_not_missing", "\"text\" NOT IN ('n''a')"),)


def test_rules_of_schema_and_properties(load):
    """Custom quality of the platform's engine is a rule wherever it stands; text is prose."""
    rule = {"type": "custom", "engine": "ingestion-platform"}
    contract = load(
        prop("integer", quality=[rule | {"name": "even", "implementation": "x % 2 = 0"}]),
        quality=[
            rule | {"name": "small", "implementation": "x < 10 -- or so", "description": "Small."},
            {"type": "text", "description": "Should be fresh."},
        ],
    )

    assert contract.rules == (
        Rule("small", "x < 10 -- or so", "Small."),
        Rule("even", "x % 2 = 0"),
    )


def test_derived_columns_may_build_on_earlier_ones(load):
    """transformLogic is SQL over what was sent and over derived columns before it."""
    contract = load(
        prop("timestamp", "timestamp"),
        {"name": "day", "logicalType": "date", "transformLogic": "x::date"},
        {"name": "year", "logicalType": "integer", "transformLogic": "year(day) + n"},
        {"name": "n", "logicalType": "integer"},
    )

    assert [f.derived for f in contract.fields] == [None, "x::date", "year(day) + n", None]


def test_keys_follow_their_positions(load):
    """Key columns come by position, and a primary key is required."""
    contract = load(
        prop("string", primaryKey=True, primaryKeyPosition=2, partitioned=True),
        TEXT | {"primaryKey": True, "primaryKeyPosition": 1},
        {"name": "d", "logicalType": "date", "partitioned": True, "partitionKeyPosition": 1},
    )

    assert contract.primary_key == ("text", "x")
    assert contract.partition_by == ("d", "x")
    assert contract.column("text").required


def test_the_head_of_the_contract(load):
    """Identity, prose and ownership are read; the stream is named by the file."""
    contract = load(
        TEXT,
        name="Things",
        tags=["a", "b"],
        description={"purpose": " All things. ", "usage": "Look."},
        team={"name": "makers", "members": [{"username": "ann"}]},
        tenant="everyone",
    )

    assert (contract.id, contract.name, contract.version) == ("things-1", "Things", "1.0.0")
    assert (contract.domain, contract.status, contract.stream) == ("test", "active", "things")
    assert (contract.table, contract.tags) == ("things", ("a", "b"))
    assert (contract.description, contract.owner) == ("All things.", "makers")
    assert contract.file.endswith("things.odcs.yaml")


def test_names_that_differ_from_the_default(load):
    """physicalName names the table; a custom property names the stream."""
    contract = load(
        customProperties=[{"property": "stream", "value": "other"}],
        schema=[{"name": "Things!", "physicalName": "things_raw", "properties": [TEXT]}],
    )

    assert (contract.stream, contract.table) == ("other", "things_raw")


@pytest.mark.parametrize(
    ("team", "owner"),
    [
        (None, ""),
        ([{"username": "ann"}, {"username": "bob", "role": "Data Owner"}], "bob"),
        ([{"username": "ann", "role": "Owner", "dateOut": "2025-01-01"},
          {"username": "bob"}], "bob"),
        ({"members": [{"username": "ann", "role": "steward"}]}, "ann"),
    ],
)  # fmt: skip
def test_owner_of_either_team_format(load, team, owner):
    """The list of 3.0 and 3.1 and the team object both name an owner who is still there."""
    assert load(TEXT, team=team).owner == owner


@pytest.mark.parametrize(
    ("promise", "share", "freshness"),
    [
        ({"property": "quarantineShare", "value": 0.05}, 0.05, None),
        ({"property": "quarantineShare", "value": 5, "unit": "percent"}, 0.05, None),
        ({"property": "freshness", "value": 90, "unit": "s"}, 0, 90),
        ({"property": "freshness", "value": "2", "unit": "minutes"}, 0, 120),
        ({"property": "latency", "value": 1.5, "unit": "hours"}, 0, 5400),
        ({"property": "Latency", "value": 1, "unit": "d"}, 0, 86400),
        ({"property": "retention", "value": 3, "unit": "y"}, 0, None),
        ({"property": "generalAvailability", "value": "2022-05-12T09:30:10-08:00"}, 0, None),
    ],
)
def test_service_levels(load, promise, share, freshness):
    """The share and the freshness are numbers; other promises are prose."""
    contract = load(TEXT, slaProperties=[promise])

    assert contract.quarantine_share == pytest.approx(share)
    assert contract.freshness_seconds == freshness


def test_prose_is_kept_and_does_not_change_the_fingerprint(load):
    """Descriptions, examples and classification are read but do not reprocess data."""
    prose = {"description": "A thing.", "businessName": "Thing", "examples": ["one"],
             "classification": "PII"}  # fmt: skip

    plain, rich = load(TEXT), load(TEXT | prose)

    field = rich.column("text")
    assert (field.description, field.business_name) == ("A thing.", "Thing")
    assert (field.examples, field.classification) == (("one",), "PII")
    assert plain.fingerprint == rich.fingerprint
    assert plain.fingerprint != load(TEXT | {"required": True}).fingerprint


def test_dates_stay_as_they_are_written(tmp_path):
    """YAML does not turn an unquoted date of an example into something else."""
    file = tmp_path / "x.odcs.yaml"
    file.write_text(
        "apiVersion: v3.2.0\nkind: DataContract\nid: x\nversion: 1.0.0\nstatus: active\n"
        "domain: d\nschema:\n  - name: x\n    properties:\n      - name: day\n"
        "        logicalType: date\n        examples: [2024-12-17]\n"
        "        logicalTypeOptions: {minimum: 2024-01-01}\n"
    )

    field = load_contract(file).column("day")

    assert field.examples == ("2024-12-17",)
    assert field.minimum == date(2024, 1, 1)
