"""Read an ODCS file (v3.1.0, v3.2.0) into a contract; reject what the platform cannot fulfil.

Separate modules read properties, quality checks and SQL.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from ingestion_platform.contract.custom_properties import STREAM, check_custom, of_name
from ingestion_platform.contract.expressions import check_expressions
from ingestion_platform.contract.model import Contract, Field, Kind, Rule
from ingestion_platform.contract.problems import ContractProblems, Problems, suggestion
from ingestion_platform.contract.properties import Reading, fields_of, labelled
from ingestion_platform.contract.quality import read_quality
from ingestion_platform.contract.service_levels import (
    check_names,
    freshness_seconds,
    quarantine_share,
)

if TYPE_CHECKING:
    from open_data_contract_standard.model import (
        OpenDataContractStandard,
        SchemaObject,
        SchemaProperty,
    )
    from pydantic import BaseModel, ValidationError

API_VERSIONS = ("v3.1.0", "v3.2.0")
_TABLE = re.compile(r"[a-z][a-z0-9_]*")
_NOT_KEYS = {Kind.JSON, Kind.OBJECT, Kind.ARRAY, Kind.NUMBER}


def load_contract(file: Path) -> Contract:
    """Return the contract in an ODCS file.

    Raises:
        ContractProblems: the file is not ODCS, contradicts itself, or declares what the platform
            cannot fulfil. This ContractError lists all problems of the file.
    """
    problems = Problems(str(file))
    raw = _read(file, problems)
    document = _document(raw, problems)
    _check_head(document, problems)
    contract = _contract(document, file, problems)
    problems.raise_if_any()
    return contract


def _read(file: Path, problems: Problems) -> dict[str, Any]:
    import yaml

    raw: Any = None
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), _yaml_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the file"
        problems.add(where, error.problem or "is not YAML", action="mend the YAML there")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.add("the file", f"is not YAML text: {error}", action="save it as UTF-8 YAML")
    except OSError as error:
        problems.add("the file", error.strerror or "cannot be read", action="check its path")
    problems.raise_if_any()
    if isinstance(raw, dict):
        return raw
    action = "start it with `apiVersion: v3.2.0` and `kind: DataContract`"
    problems.add("the file", "is not a mapping of keys to values", action=action)
    raise ContractProblems(problems.file, problems.found)


def _yaml_loader() -> Any:
    """Return a safe loader that keeps dates as text and rejects duplicate keys."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
            seen = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in Loader.yaml_implicit_resolvers.items()
    }
    return Loader


def _document(raw: dict[str, Any], problems: Problems) -> OpenDataContractStandard:
    from open_data_contract_standard.model import OpenDataContractStandard
    from pydantic import ValidationError

    _check_keys(OpenDataContractStandard, raw, "", problems)
    known = {name for name, _ in _members(OpenDataContractStandard)}
    try:
        return OpenDataContractStandard.model_validate({k: raw[k] for k in raw if k in known})
    except ValidationError as error:
        _note_invalid(error, raw, problems)
        problems.raise_if_any()
        raise


def _check_keys(model: type[BaseModel], data: Any, at: str, problems: Problems) -> None:
    """Add a problem for each key that the standard does not define, since Pydantic ignores it."""
    members = dict(_members(model))
    for key, value in data.items():
        here = f"{at}.{key}" if at else str(key)
        if key not in members:
            action = suggestion(str(key), members)
            problems.add(here, "is not a key of the standard", action=action)
            continue
        if key == "customProperties":
            check_custom(model.__name__, value, here, problems)
        for inner, item, path in _inner(members[key], value, here):
            _check_keys(inner, item, path, problems)


def _members(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, info in model.model_fields.items():
        yield info.alias or name, info.annotation


def _inner(annotation: Any, value: Any, at: str) -> Iterator[tuple[type[BaseModel], Any, str]]:
    """Yield each model that `value` is read into, with its part of the value and its path."""
    if get_origin(annotation) in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from _inner(option, value, at)
    elif get_origin(annotation) is list and isinstance(value, list):
        for i, item in enumerate(value):
            name = item.get("name") if isinstance(item, dict) else None
            # "schema[0]" needs no name: there is only one.
            here = labelled(at, i, name if isinstance(name, str) and at != "schema" else None)
            yield from _inner(get_args(annotation)[0], item, here)
    elif isinstance(value, dict) and _is_model(annotation):
        yield annotation, value, at


def _is_model(annotation: Any) -> bool:
    from pydantic import BaseModel

    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _note_invalid(error: ValidationError, raw: Any, problems: Problems) -> None:
    seen = set()
    for each in error.errors():
        at, value = "", raw
        for part in each["loc"]:
            if isinstance(part, int) and isinstance(value, list):
                value = value[part]
                name = value.get("name") if isinstance(value, dict) and at != "schema" else None
                at = labelled(at, part, name if isinstance(name, str) else None)
            elif isinstance(value, dict) and part in value:
                value = value[part]
                at = f"{at}.{part}" if at else str(part)
            # Other parts name the alternatives of a union, not places in the file.
        if at not in seen:
            text = each["msg"].removeprefix("Input ")
            shown = repr(value) if not isinstance(value, dict | list) else type(value).__name__
            quote = isinstance(value, int | float) and "string" in text
            action = "quote it" if quote else "see the standard for its type"
            problems.add(at, f"{text}, not {shown}", action=action)
        seen.add(at)


def _check_head(document: OpenDataContractStandard, problems: Problems) -> None:
    if document.kind != "DataContract":
        problem = f"is {document.kind!r}" if document.kind else "is missing"
        problems.add("kind", problem, action="write `kind: DataContract`")
    if document.apiVersion not in API_VERSIONS:
        problem = f"{document.apiVersion!r} is not read" if document.apiVersion else "is missing"
        problems.add("apiVersion", problem, action="write `apiVersion: v3.2.0` (or v3.1.0)")
    for key, example in (("id", "pgr-events"), ("version", "1.0.0"), ("status", "active"),
                         ("domain", "pgr")):  # fmt: skip
        if not getattr(document, key):
            problems.add(key, "is missing", action=f"for example `{key}: {example}`")


def _contract(document: OpenDataContractStandard, file: Path, problems: Problems) -> Contract:
    objects = document.schema_ or []
    if len(objects) != 1:
        problem = f"has {len(objects)} objects; a stream is one table"
        action = "keep one object per file; one file per stream"
        problems.add("schema", problem, action=action)
        problems.raise_if_any()
    table = objects[0]
    reading = Reading(problems, document.apiVersion or "")
    fields = _table_fields(table, reading)
    rules = _table_rules(table, fields, reading)
    properties = table.properties or []
    purpose = document.description.purpose if document.description else None
    promises = document.slaProperties or []
    check_names(promises, problems)
    return Contract(
        id=document.id or "",
        name=document.name or table.name or "",
        version=document.version or "",
        status=document.status or "",
        domain=document.domain or "",
        stream=_stream(document, file, problems),
        table=_table_name(table, problems),
        fields=fields or (),
        description=(purpose or table.description or "").strip(),
        owner=_owner(document),
        tags=tuple(document.tags or ()),
        rules=rules,
        primary_key=_key("primaryKey", properties, fields, problems),
        partition_by=_key("partition", properties, fields, problems),
        quarantine_share=quarantine_share(promises, problems),
        freshness_seconds=freshness_seconds(promises, problems),
        file=str(file),
    )


def _table_name(table: SchemaObject, problems: Problems) -> str:
    name = table.physicalName or table.name or ""
    if not _TABLE.fullmatch(name):
        key = "physicalName" if table.physicalName else "name"
        problem = f"{name!r} is not a table name that every engine reads"
        action = "use lower-case letters, digits and _, a letter first"
        problems.add(f"schema[0].{key}", problem, action=action)
    return name


def _table_fields(table: SchemaObject, reading: Reading) -> tuple[Field, ...] | None:
    if not table.properties:
        action = "declare the fields of a record"
        reading.problems.add("schema[0].properties", "is missing or empty", action=action)
    if table.logicalType not in (None, "object"):
        problem = f"{table.logicalType!r}: a record is an object"
        action = "use `logicalType: object`"
        reading.problems.add("schema[0].logicalType", problem, action=action)
    fields = fields_of(table.properties, "schema[0].properties", reading)
    if fields and all(f.derived for f in fields):
        problem = "every field is derived, so a record holds nothing"
        action = "declare what the producer sends"
        reading.problems.add("schema[0].properties", problem, action=action)
    return fields


def _table_rules(
    table: SchemaObject, fields: tuple[Field, ...] | None, reading: Reading
) -> tuple[Rule, ...]:
    problems = reading.problems
    quality = read_quality(table.quality, "schema[0]", problems, None)
    if quality.required or quality.allowed or quality.pattern:
        action = "move it to the property that it is about"
        problems.add(
            "schema[0].quality", "nullValues and invalidValues need a column", action=action
        )
    placed = [*quality.rules, *reading.rules]
    names: dict[str, str] = {}
    for here, rule in placed:
        if rule.name in names:
            problem = f"the name {rule.name!r} is taken by {names[rule.name]}"
            problems.add(f"{here}.name", problem, action="give each rule a name of its own")
        names[rule.name] = here
    if fields:  # with columns missing, valid expressions would fail
        check_expressions(fields, placed, "schema[0].properties", problems)
    return tuple(rule for _, rule in placed)


def _stream(document: OpenDataContractStandard, file: Path, problems: Problems) -> str:
    for i, custom in of_name(document.customProperties, STREAM):
        if isinstance(custom.value, str) and custom.value:
            return custom.value
        action = "for example `value: pgr_events`"
        problems.add(f"customProperties[{i}].value", "is not a stream's name", action=action)
    return file.name.split(".")[0]


def _owner(document: OpenDataContractStandard) -> str:
    """Return the team's name, else its current member in the role owner, else the first one."""
    team = document.team
    if team is None:
        return ""
    if not isinstance(team, list) and team.name:
        return team.name
    members = team if isinstance(team, list) else team.members or []
    present = [m for m in members if not m.dateOut]
    owners = [m for m in present if "owner" in (m.role or "").lower()]
    for member in owners or present:
        return member.username or member.name or ""
    return ""


def _key(
    key: str,
    properties: list[SchemaProperty],
    fields: tuple[Field, ...] | None,
    problems: Problems,
) -> tuple[str, ...]:
    """Return the columns of the primary key or of the partitioning, ordered by position."""
    flag, place = (
        ("primaryKey", "primaryKeyPosition")
        if key == "primaryKey"
        else ("partitioned", "partitionKeyPosition")
    )
    kinds = {f.name: f.kind for f in fields or ()}
    found: list[tuple[int, str]] = []
    for i, prop in enumerate(properties):
        here = labelled("schema[0].properties", i, prop.name)
        position = getattr(prop, place)
        position = None if position == -1 else position
        if not getattr(prop, flag):
            if position is not None:
                problems.add(f"{here}.{place}", f"without {flag}", action=f"add `{flag}: true`")
            continue
        if position is not None and position < 1:
            problems.add(f"{here}.{place}", "positions start at 1", action="number them 1, 2, …")
        if position is not None and position in [p for p, _ in found]:
            problem = f"position {position} is taken"
            problems.add(f"{here}.{place}", problem, action="number them 1, 2, …")
        if kinds.get(prop.name or "") in _NOT_KEYS:
            problem = f"a {kinds[prop.name or '']} does not compare exactly"
            action = "take a scalar column, or derive one with `transformLogic`"
            problems.add(f"{here}.{flag}", problem, action=action)
        found.append((len(properties) + 1 if position is None else position, prop.name or ""))
    return tuple(name for _, name in sorted(found, key=lambda pair: pair[0]))
