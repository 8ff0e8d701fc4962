"""What an ODCS file may not say: every error names the element, the problem and a way out."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion_platform.contract.lint import Severity, lint
from ingestion_platform.contract.odcs import load_contract
from ingestion_platform.contract.problems import ContractProblems
from ingestion_platform.errors import ContractError
from ingestion_platform.streams import DOMAINS_FOLDER

TEXT = {"name": "text", "logicalType": "string"}
X = "schema[0].properties[0] (x)"
RULE = {"type": "custom", "engine": "ingestion-platform", "name": "r"}


def prop(logical, physical=None, **more):
    """A property `x` of these types."""
    types = {"logicalType": logical} | ({"physicalType": physical} if physical else {})
    return {"name": "x", **types, **more}


def options(logical, physical=None, **more):
    """A property `x` with these logicalTypeOptions."""
    return prop(logical, physical, logicalTypeOptions=more)


def quality(**check):
    """A string property `x` with this quality check."""
    return prop("string", quality=[check])


PROPERTY_ERRORS = {
    "map": (prop("map"), ".logicalType", "maps are not supported", "physicalType: json"),
    "vector": (prop("vector"), ".logicalType", "not supported", "array of number"),
    "misspelled type": (prop("strin"), ".logicalType", "'strin'", "did you mean `string`?"),
    "no type": ({"name": "x"}, ".logicalType", "has no logicalType", "use one of"),
    "physical type": (prop("integer", "varchar"), ".physicalType", "'varchar'", "bigint"),
    "unknown physical": (prop("string", "blob?"), ".physicalType", "'blob?'", "varchar"),
    "decimal alone": (prop("number", "decimal"), ".physicalType", "precision", "decimal(12,2)"),
    "decimal wide": (prop("number", "decimal(39,2)"), ".physicalType", "1 to 38", "decimal(12,2)"),
    "milliseconds": (prop("timestamp", "timestamp(3)"), ".physicalType", "precision", "micro"),
    "array alone": (prop("array"), ".items", "is missing", "physicalType: json"),
    "items of a string": (prop("string", items=TEXT), ".items", "has no items", "array"),
    "properties of a string": (prop("string", properties=[TEXT]), ".properties",
                               "has no properties", "object"),
    "unique": (prop("string", unique=True), ".unique", "more than one record", "primaryKey"),
    "measure": (prop("number", semanticType="measure"), ".semanticType", "measure", "dbt"),
    "encrypted": (prop("string", encryptedName="y"), ".encryptedName", "encrypt", "classification"),
    "renamed": (prop("string", physicalName="y"), ".physicalName", "name", "rename"),
    "unknown key": (prop("string", requird=True), ".requird", "not a key of the standard",
                    "did you mean `required`?"),
    "wrong value": (prop("string", required="perhaps"), ".required", "boolean", "standard"),
    "unknown option": (options("string", maxLenght=3), ".logicalTypeOptions.maxLenght",
                       "not an option of string", "`maxLength`?"),
    "option of another type": (options("boolean", minimum=1), ".logicalTypeOptions.minimum",
                               "not an option of boolean", "remove it"),
    "multipleOf": (options("integer", multipleOf=5), ".logicalTypeOptions.multipleOf",
                   "not supported", "mod("),
    "minProperties": (options("object", minProperties=1), ".logicalTypeOptions.minProperties",
                      "not supported", "rule"),
    "format": (options("string", format="date-time"), ".logicalTypeOptions.format",
               "'date-time'", "uuid, email"),
    "narrow integer": (options("integer", format="u8"), ".logicalTypeOptions.format", "'u8'",
                       "i32 or i64"),
    "date format": (options("date", format="dd/MM/yyyy"), ".logicalTypeOptions.format",
                    "dd/MM/yyyy", "strptime"),
    "no such zone": (options("timestamp", defaultTimezone="Mars/Olympus"),
                     ".logicalTypeOptions.defaultTimezone", "tz database", "Europe/Berlin"),
    "zone of a time": (options("time", defaultTimezone="Europe/Berlin"),
                       ".logicalTypeOptions.defaultTimezone", "no zone", "timestamp"),
    "bound that is a day": (options("timestamp", minimum="2020-01-01"),
                            ".logicalTypeOptions.minimum", "is not an ISO 8601", "timestamp"),
    "epoch inside": (prop("object", properties=[options("timestamp", format="epoch_millis")]),
                     ".properties[0] (x).logicalTypeOptions.format", "top level", "integer"),
    "zone twice": (options("timestamp", "timestamp", timezone=True), ".logicalTypeOptions",
                   "contradicts", "keep one"),
    "time with zone": (options("time", timezone=True), ".logicalTypeOptions.timezone",
                       "no zone", "timestamp"),
    "negative length": (options("string", minLength=-1), ".logicalTypeOptions.minLength",
                        "not a length", "0 or more"),
    "bound of another type": (options("integer", maximum="5"), ".logicalTypeOptions.maximum",
                              "'5' is not an integer", "integer"),
    "bound too wide": (options("integer", "int", maximum=1 << 31), ".logicalTypeOptions.maximum",
                       "does not fit into 32 bits", "integer"),
    "bound of a decimal": (options("number", "decimal(4,2)", maximum=1.234),
                           ".logicalTypeOptions.maximum", "decimal(4,2)", "decimal"),
    "not a date": (options("date", minimum="2024-02-30"), ".logicalTypeOptions.minimum",
                   "day", "give a date"),
    "min above max": (options("integer", minimum=5, maximum=4), ".logicalTypeOptions.minimum",
                      "5 leaves no value below the maximum 4", "raise maximum"),
    "empty open range": (options("number", exclusiveMinimum=1, maximum=1),
                         ".logicalTypeOptions.exclusiveMinimum", "no value", "raise maximum"),
    "lengths": (options("string", minLength=5, maxLength=4), ".logicalTypeOptions.minLength",
                "no value", "raise maxLength"),
    "pattern": (options("string", pattern="(?=a)b"), ".logicalTypeOptions.pattern",
                "does not compile", "look-around"),
    "allowed type": (prop("integer", enum=[{"value": 1}, {"value": "2"}]), ".enum[1]",
                     "'2' is not an integer", "integer"),
    "allowed yes": (prop("string", enum=[{"value": True}]), ".enum[0]", "quote it", "string"),
    "allowed twice": (prop("string", enum=[{"value": "A"}, {"value": "A", "label": "a"}]),
                      ".enum[1]", "listed twice", "string"),
    "allowed out of range": (
        prop("integer", enum=[{"value": 9}], logicalTypeOptions={"maximum": 5}),
        ".enum[0]", "above the maximum 5", "integer"),
    "allowed against the pattern": (
        prop("string", enum=[{"value": "b"}], logicalTypeOptions={"pattern": "a+"}),
        ".enum[0]", "does not match", "mend"),
    "allowed objects": (prop("object", enum=[{"value": "A"}]), ".enum", "no allowed", "properties"),
    "example type": (prop("integer", examples=[1, "one"]), ".examples[1]",
                     "'one' is not an integer", "integer"),
    "example not allowed": (prop("string", enum=[{"value": "A"}], examples=["B"]), ".examples[0]",
                            "not one of the allowed", "example"),
    "example against the pattern": (
        prop("string", examples=["ab"], logicalTypeOptions={"pattern": "a"}),
        ".examples[0]", "as a whole", "mend"),
    "example of an object": (
        prop("object", properties=[TEXT | {"required": True}], examples=[{"text": None}]),
        ".examples[0]", "text is required", "example"),
    "example of an array": (prop("array", items={"logicalType": "integer"}, examples=[[1, "a"]]),
                            ".examples[0]", "'a' is not an integer", "example"),
    "sql quality": (quality(type="sql", query="select 1", mustBe=1), ".quality[0].type",
                    "not run on records", "engine: ingestion-platform"),
    "other engine": (quality(type="custom", engine="soda", implementation="x"),
                     ".quality[0].engine", "'soda'", "engine: ingestion-platform"),
    "duplicates": (quality(metric="duplicateValues", mustBe=0), ".quality[0].metric",
                   "more than one record", "dbt test"),
    "row count": (quality(metric="rowCount", mustBeGreaterThan=1), ".quality[0].metric",
                  "more than one record", "dbt test"),
    "metric": (quality(metric="nullVaules", mustBe=0), ".quality[0].metric", "nullVaules",
               "`nullValues`?"),
    "tolerated share": (quality(metric="nullValues", mustBeLessThan=5),
                        ".quality[0].mustBeLessThan", "only `mustBe: 0`", "quarantineShare"),
    "no operator": (quality(metric="nullValues"), ".quality[0].mustBe", "only `mustBe: 0`",
                    "mustBe: 0"),
    "invalid without values": (quality(metric="invalidValues", mustBe=0), ".quality[0].arguments",
                               "needs", "validValues"),
    "unnamed rule": (quality(type="custom", engine="ingestion-platform", implementation="true"),
                     ".quality[0]", "needs a name", "name"),
    "warning": (quality(**RULE, implementation="x > ''", severity="warning"),
                ".quality[0].severity", "quarantined", "dbt test"),
    "default": (prop("timestamp", customProperties=[{"property": "default", "value": "today"}]),
                ".customProperties[0].value", "'today' is no default", "`now`"),
    "default of text": (prop("string", customProperties=[{"property": "default", "value": "now"}]),
                        ".customProperties[0]", "only a timestamp", "remove"),
    "misspelled custom property": (
        prop("string", customProperties=[{"property": "previous_name", "value": ["y"]}]),
        ".customProperties[0].property", "'previous_name' is not read", "`previousNames`?"),
    "custom property begun alike": (
        prop("timestamp", customProperties=[{"property": "defaultValue", "value": "now"}]),
        ".customProperties[0].property", "not read", "`default`? Another tool's"),
    "custom property of the contract": (
        prop("string", customProperties=[{"property": "stream", "value": "y"}]),
        ".customProperties[0].property", "no effect on a property", "of the contract"),
    "custom property twice": (
        prop("string", customProperties=[{"property": "previousNames", "value": ["y"]},
                                         {"property": "previousNames", "value": ["z"]}]),
        ".customProperties[1].property", "given twice", "keep one"),
    "key of a custom property": (
        prop("string", customProperties=[{"property": "any", "val": 1}]),
        ".customProperties[0].val", "not a key", "`value`?"),
    "map of a string": (prop("string", map={"key": TEXT}), ".map", "has no map", "remove it"),
    "key of an allowed value": (prop("string", enum=[{"value": "A", "lable": "a"}]),
                                ".enum[0].lable", "not a key", "`label`?"),
    "unknown key inside": (prop("object", properties=[TEXT | {"enums": []}]),
                           ".properties[0] (text).enums", "not a key", "`enum`?"),
    "unknown key of an item": (prop("array", items={"logicalType": "string", "require": True}),
                               ".items.require", "not a key", "`required`?"),
    "key of a check": (quality(metric="nullValues", mustbe=0, mustBe=0), ".quality[0].mustbe",
                       "not a key", "`mustBe`?"),
    "rule without a type": (quality(name="r", implementation="x > 'a'"),
                            ".quality[0].implementation", "of type text", "`type: custom`"),
    "metric of prose": (quality(type="text", metric="nullValues"), ".quality[0].metric",
                        "of type text", "`type: library`"),
    "query of a metric": (quality(metric="nullValues", mustBe=0, query="select 1"),
                          ".quality[0].query", "of type library", "remove it"),
    "warning of a metric": (quality(metric="nullValues", mustBe=0, severity="warning"),
                            ".quality[0].severity", "quarantined", "dbt test"),
    "argument of nullValues": (quality(metric="nullValues", mustBe=0, arguments={"a": 1}),
                               ".quality[0].arguments.a", "unknown argument", "remove it"),
    "argument of missingValues": (
        quality(metric="missingValues", mustBe=0, arguments={"missingValue": ["-"]}),
        ".quality[0].arguments.missingValue", "unknown argument", "`missingValues`?"),
    "comparison of a rule": (quality(**RULE, implementation="x > 'a'", mustBe=0),
                             ".quality[0].mustBe", "by itself", "implementation"),
    "nested position": (prop("object", properties=[TEXT | {"primaryKeyPosition": 1}]),
                        ".properties[0] (text).primaryKeyPosition", "top level", "remove"),
    "underscore": ({"name": "_x", "logicalType": "string"}, "schema[0].properties[0] (_x)",
                   "platform's own", "`x`"),
    "not a name": ({"name": "a-b", "logicalType": "string"}, "schema[0].properties[0] (a-b)",
                   "not a plain name", "letters"),
    "key of a number": (prop("number", primaryKey=True), ".primaryKey", "exactly", "scalar"),
    "partition by json": (prop("object", partitioned=True), ".partitioned", "exactly",
                          "transformLogic"),
    "position alone": (prop("string", partitionKeyPosition=1), ".partitionKeyPosition",
                       "without partitioned", "partitioned: true"),
    "nested key": (prop("object", properties=[TEXT | {"primaryKey": True}]),
                   ".properties[0] (text).primaryKey", "top level", "remove"),
    "nested partition": (prop("object", properties=[TEXT | {"partitioned": True}]),
                         ".properties[0] (text).partitioned", "top level", "transformLogic"),
    "nested bound": (prop("array", items={"logicalType": "integer",
                                          "logicalTypeOptions": {"minimum": "a"}}),
                     ".items.logicalTypeOptions.minimum", "'a' is not an integer", "integer"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "element", "problem", "action"), PROPERTY_ERRORS.values(), ids=PROPERTY_ERRORS
)
def test_a_property_that_cannot_be_kept(problems, given, element, problem, action):
    """One wrong property gives one problem, at its element, with an alternative."""
    (found,) = problems(given, TEXT | {"name": "other"})

    assert found.element == (element if element.startswith("schema") else X + element)
    assert problem in found.problem
    assert action in found.action


EXPRESSION_ERRORS = {
    "unknown column": ("bogus > 1", "bogus"),
    "syntax": ("x >", "syntax error"),
    "two selects": ("true); select (true", "not one expression"),
    "two columns": ("true) as a, (true", "not one expression"),
    "alias": ("true as a", "not one expression"),
    "table": ("true) from record, (select 1", "not one expression"),
    "second statement": ("true); drop table record; select (true", "not one expression"),
    "not boolean": ("x + 1", "gives BIGINT"),
    "wrong types": ("x > 'a'::date", "Cannot compare"),
    "unknown function": ("frobnicate(x)", "frobnicate"),
    "aggregate": ("sum(x) > 1", "sum depends on more than the record"),
    "window": ("row_number() over () > 1", "window looks at more than one record"),
    "subquery": ("x in (select 1)", "subquery looks at more than one record"),
    "random": ("random() > 0.5", "random depends"),
    "clock": ("now() > '2020-01-01'::timestamptz", "now depends"),
    "clock keyword": ("current_date > '2020-01-01'::date", "current_date depends"),
}


@pytest.mark.parametrize(
    ("expression", "problem"), EXPRESSION_ERRORS.values(), ids=EXPRESSION_ERRORS
)
def test_a_rule_that_is_not_a_condition_on_one_record(problems, expression, problem):
    """A rule must compile to true or false of nothing but the record."""
    (found,) = problems(prop("integer"), quality=[RULE | {"implementation": expression}])

    assert found.element == "schema[0].quality[0] (r).implementation"
    assert problem in found.problem
    assert "DuckDB expression" in found.action


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"d": "nothing"}, "nothing"),
        ({"d": "d"}, "itself"),
        ({"d": "e + 1", "e": "x + 1"}, "comes later"),
        ({"d": "today()::varchar::bigint"}, "today depends"),
        ({"d": "max(x)"}, "max depends"),
        ({"d": "x::varchar"}, "gives VARCHAR, not BIGINT"),
        ({"d": "{'a': x}"}, "gives STRUCT(a BIGINT), not BIGINT"),
    ],
)
def test_a_derived_column_that_cannot_be_computed(problems, columns, problem):
    """transformLogic must give the column's type from the record and earlier columns alone."""
    derived = [
        {"name": name, "logicalType": "integer", "transformLogic": sql}
        for name, sql in columns.items()
    ]
    found = problems(prop("integer"), *derived)

    assert found[0].element == "schema[0].properties[1] (d).transformLogic"
    assert problem in found[0].problem


HEAD_ERRORS = {
    "version of the standard": ({"apiVersion": "v2.2.2"}, "apiVersion", "'v2.2.2'", "v3.2.0"),
    "kind": ({"kind": None}, "kind", "is missing", "DataContract"),
    "domain": ({"domain": None}, "domain", "is missing", "pgr"),
    "number for text": ({"version": 1.0}, "version", "1.0", "quote it"),
    "top-level key": ({"slaProperty": []}, "slaProperty", "not a key", "`slaProperties`?"),
    "two objects": ({"schema": [{"name": "a"}, {"name": "b"}]}, "schema", "2 objects", "one"),
    "no object": ({"schema": None}, "schema", "0 objects", "one"),
    "no properties": ({"schema": [{"name": "a"}]}, "schema[0].properties", "empty", "fields"),
    "table name": ({"schema": [{"name": "A b", "properties": [TEXT]}]}, "schema[0].name",
                   "'A b'", "lower-case"),
    "share": ({"slaProperties": [{"property": "quarantineShare", "value": 5}]},
              "slaProperties[0].value", "share from 0 to 1", "0.05"),
    "misspelled share": ({"slaProperties": [{"property": "quarantinShare", "value": 0.1}]},
                         "slaProperties[0].property", "not known", "`quarantineShare`?"),
    "unit": ({"slaProperties": [{"property": "freshness", "value": 5, "unit": "fortnights"}]},
             "slaProperties[0].unit", "fortnights", "s, m, h or d"),
    "no unit": ({"slaProperties": [{"property": "freshness", "value": 5}]},
                "slaProperties[0].unit", "missing", "s, m, h or d"),
    "no number": ({"slaProperties": [{"property": "latency", "value": "soon", "unit": "h"}]},
                  "slaProperties[0].value", "'soon'", "value: 1"),
    "promised twice": ({"slaProperties": [{"property": "latency", "value": 1, "unit": "h"},
                                          {"property": "freshness", "value": 2, "unit": "h"}]},
                       "slaProperties[1]", "promised already", "keep slaProperties[0]"),
    "metric of no column": ({"quality": [{"metric": "nullValues", "mustBe": 0}]},
                            "schema[0].quality", "need a column", "move it"),
    "key of the team": ({"team": {"name": "a", "member": []}}, "team.member", "not a key",
                        "`members`?"),
    "key of a server": ({"servers": [{"server": "a", "type": "kafka", "hosts": "b"}]},
                        "servers[0].hosts", "not a key", "`host`?"),
    "key of the schema": ({"schema": [{"name": "a", "properties": [TEXT], "primaryKey": ["a"]}]},
                          "schema[0].primaryKey", "not a key", "use one of"),
    "key of a service level": ({"slaProperties": [{"property": "retention", "vlaue": 1}]},
                               "slaProperties[0].vlaue", "not a key", "`value`?"),
    "custom property of a property": (
        {"customProperties": [{"property": "previousNames", "value": ["a"]}]},
        "customProperties[0].property", "no effect on the contract", "of a property"),
    "stream": ({"customProperties": [{"property": "stream", "value": 5}]},
               "customProperties[0].value", "not a stream's name", "pgr_events"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "element", "problem", "action"), HEAD_ERRORS.values(), ids=HEAD_ERRORS
)
def test_a_head_that_cannot_be_kept(problems, changes, element, problem, action):
    """What is wrong outside of the properties gives one problem, with an alternative."""
    (found,) = problems(TEXT, **changes)

    assert found.element == element
    assert problem in found.problem
    assert action in found.action


def test_custom_properties_of_others_are_allowed(load):
    """Any name passes that is not like one of ours; with a vendor, any name at all."""
    others = [{"property": "retentionClass", "value": 3},
              {"property": "stream", "value": "x", "vendor": "acme"}]  # fmt: skip

    assert load(TEXT | {"customProperties": others}, customProperties=others).stream == "things"


def test_names_that_differ_in_case_only(problems):
    """Engines that fold case would mix up two such columns."""
    (found,) = problems(TEXT, TEXT | {"name": "Text"})

    assert found.element == "schema[0].properties[1] (Text)"
    assert "schema[0].properties[0] (text)" in found.problem


def test_rules_of_one_name(problems):
    """Reasons name the rule, so names are unique over the whole contract."""
    rule = RULE | {"implementation": "x > 0"}
    (found,) = problems(prop("integer", quality=[rule]), quality=[rule])

    assert found.element == "schema[0].properties[0] (x).quality[0] (r).name"
    assert "taken by schema[0].quality[0] (r)" in found.problem


def test_positions_taken_twice(problems):
    """Two columns cannot stand at one place of a key."""
    keyed = {"partitioned": True, "partitionKeyPosition": 1}
    (found,) = problems(prop("string", **keyed), TEXT | keyed)

    assert found.element == "schema[0].properties[1] (text).partitionKeyPosition"


def test_enum_in_a_file_of_the_older_standard(problems):
    """`enum` is of 3.2: a 3.1 file learns both ways out."""
    (found,) = problems(prop("string", enum=[{"value": "A"}]), apiVersion="v3.1.0")

    assert found.element == X + ".enum"
    assert "apiVersion: v3.2.0" in found.action
    assert "validValues" in found.action


def test_all_problems_at_once(odcs):
    """One error tells of every problem; it is a ContractError and names the file once."""
    file = odcs(
        prop("integer", logicalTypeOptions={"minimum": "a"}),
        TEXT | {"unique": True},
        quality=[RULE | {"implementation": "nowhere"}],
    )
    with pytest.raises(ContractError) as caught:
        load_contract(file)

    text = str(caught.value)
    assert text.count(str(file)) == 1
    assert "3 problems" in text
    for part in ("(x).logicalTypeOptions.minimum", "(text).unique", "(r).implementation", "->"):
        assert part in text


@pytest.mark.parametrize(
    ("content", "element", "problem"),
    [
        ("a: b\nc: [1,\nd: }\n", "line 3, column 4", "expected"),
        ("kind: DataContract\nid: a\nid: b\n", "line 3, column 1", "'id' is given twice"),
        ("- a\n- b\n", "the file", "not a mapping"),
        ("", "the file", "not a mapping"),
        (b"id: \xff\n", "the file", "not YAML text"),
        (None, "the file", "No such file"),
    ],
)
def test_a_file_that_is_not_a_document(tmp_path, content, element, problem):
    """Syntax errors give line and column; other files say what is wrong with them."""
    file = tmp_path / "broken.odcs.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ContractProblems) as caught:
        load_contract(file)

    (found,) = caught.value.problems
    assert found.element == element
    assert problem in found.problem
    assert str(file) in str(caught.value)


EDITED = yaml.safe_load((DOMAINS_FOLDER / "pgr" / "pgr_events.odcs.yaml").read_text())
EDITED["schema"][0]["properties"] += [
    options("integer", format="i32", minimum=1, maximum=9),
    {"name": "amount", "logicalType": "number", "physicalType": "decimal(9,2)",
     "logicalTypeOptions": {"exclusiveMinimum": 0}, "examples": [1.5], "primaryKey": True},
    {"name": "at", "logicalType": "timestamp", "transformLogic": "event_time::timestamptz",
     "logicalTypeOptions": {"format": "yyyy-MM-dd HH:mm:ss", "minimum": "2020-01-01T00:00:00"}},
    {"name": "parts", "logicalType": "array", "logicalTypeOptions": {"maxItems": 3}, "items": {
        "logicalType": "object", "logicalTypeOptions": {"required": ["text"]},
        "properties": [TEXT | {"quality": [
            {"metric": "missingValues", "mustBe": 0, "arguments": {"missingValues": [None]}},
            {"metric": "invalidValues", "mustBe": 0, "arguments": {"validValues": ["a"]}}]}]}},
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside of a document."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["(", "a'b", "integer", "object", "array", "decimal(4,2)", "json", "x -- "]),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.text(max_size=5) | st.integers(), st.integers() | st.none(), max_size=2),
)


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(sorted(places(EDITED), key=str)), VALUES), max_size=3))
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_edit_loads_or_is_explained(tmp_path, edits):
    """However a contract is mangled, reading it ends in a contract or in named problems."""
    edited = deepcopy(EDITED)
    for path, value in edits:
        place = edited
        for key in path[:-1]:
            place = place.get(key) if isinstance(place, dict) else _item(place, key)
        if isinstance(place, dict) or (isinstance(place, list) and path[-1] in range(len(place))):
            place[path[-1]] = value
    file = tmp_path / "edited.odcs.yaml"
    file.write_text(yaml.safe_dump(edited))

    findings = lint([file])

    assert all(f.element and f.problem and f.action for f in findings)
    if not any(f.severity is Severity.ERROR for f in findings):
        assert load_contract(file).fields


def _item(place: Any, key: Any) -> Any:
    return place[key] if isinstance(place, list) and key in range(len(place)) else None


def test_the_document_under_edit_is_a_contract(tmp_path):
    """The edits start from a contract that loads, so that they reach every part of the reader."""
    file = tmp_path / "unedited.odcs.yaml"
    file.write_text(yaml.safe_dump(EDITED))

    assert len(load_contract(file).fields) == 19
