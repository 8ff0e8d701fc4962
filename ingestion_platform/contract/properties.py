"""Read ODCS properties as fields: types, constraints, allowed values and examples, at any depth.

`odcs` reads what concerns the whole contract: keys, rules and service levels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ingestion_platform.contract.custom_properties import DEFAULT, PREVIOUS_NAMES, of_name
from ingestion_platform.contract.exact import is_epoch
from ingestion_platform.contract.model import Field, Kind, Rule
from ingestion_platform.contract.problems import Problems, suggestion
from ingestion_platform.contract.quality import Quality, read_quality
from ingestion_platform.contract.times import EPOCHS, NO_ZONE, is_zone
from ingestion_platform.contract.values import breach_text, literal

if TYPE_CHECKING:
    from open_data_contract_standard.model import SchemaProperty

IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
NOW = "now"  # the only value of the custom property `default`
ITEM = "element"  # the name of an array's item, as in Iceberg and Parquet
_BOUNDS = {
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum",
    "exclusiveMaximum": "exclusive_maximum",
}
_LENGTHS = {
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
}
_OPTIONS = {
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": {*_BOUNDS, "multipleOf", "format"},
    "number": {*_BOUNDS, "multipleOf", "format"},
    "boolean": set[str](),
    "date": {*_BOUNDS, "format"},
    "timestamp": {*_BOUNDS, "format", "timezone", "defaultTimezone"},
    "time": {*_BOUNDS, "format", "timezone", "defaultTimezone"},
    "object": {"minProperties", "maxProperties", "required"},
    "array": {"minItems", "maxItems", "uniqueItems"},
}
_32, _64 = {"bits": 32}, {"bits": 64}
_WALL, _INSTANT = {"zoned": False}, {"zoned": True}
_EXACT, _OPEN = {"kind": Kind.DECIMAL}, {"kind": Kind.JSON}
# What each physical type adds to the logical type.
_PHYSICAL: dict[str, dict[str, dict[str, Any]]] = {
    "string": {"string": {}, "text": {}, "varchar": {}, "char": {}, "uuid": {"format": "uuid"}},
    "integer": {
        "int": _32,
        "integer": _32,
        "int32": _32,
        "bigint": _64,
        "long": _64,
        "int64": _64,
    },
    "number": {
        "double": _64,
        "double precision": _64,
        "float64": _64,
        "float": _32,
        "real": _32,
        "float32": _32,
        "decimal": _EXACT,
        "numeric": _EXACT,
    },
    "boolean": {"boolean": {}, "bool": {}},
    "date": {"date": {}},
    "timestamp": {
        "timestamp": _WALL,
        "timestamp without time zone": _WALL,
        "timestamptz": _INSTANT,
        "timestamp with time zone": _INSTANT,
    },
    "time": {"time": {}},
    "object": {"object": {}, "struct": {}, "row": {}, "record": {}, "json": _OPEN, "jsonb": _OPEN},
    "array": {"array": {}, "list": {}, "json": _OPEN, "jsonb": _OPEN},
}
_BITS = {"i32": 32, "i64": 64, "f32": 32, "f64": 64}
_STRING_FORMATS = ("uuid", "email", "uri", "hostname", "ipv4", "ipv6")
_ISO_FORMATS = {
    "date": {"yyyy-MM-dd"},
    "time": {"HH:mm:ss", "HH:mm:ss.SSS", "HH:mm:ss.SSSSSS"},
    "timestamp": {
        f"yyyy-MM-dd{separator}HH:mm:ss{fraction}{zone}"
        for separator in (" ", "'T'")
        for fraction in ("", ".SSS", ".SSSSSS")
        for zone in ("", "X", "XXX", "'Z'")
    },
}
_PHYSICAL_TYPE = re.compile(
    r"(?P<name>[a-z][a-z0-9_ ]*?)\s*(?:<.*>|\((?P<arguments>[\d\s,]*)\))?"
    r"(?P<zone>\s+with(?:out)? time zone)?"
)
_SCALARS = set(Kind) - {Kind.JSON, Kind.OBJECT, Kind.ARRAY}


@dataclass
class Reading:
    """The problems and rules found so far while the properties of one file are read."""

    problems: Problems
    api_version: str
    rules: list[tuple[str, Rule]] = field(default_factory=list)


def labelled(at: str, index: int, name: str | None) -> str:
    """Return the path of an item of a list, with the item's name to help readers."""
    return f"{at}[{index}] ({name})" if name else f"{at}[{index}]"


def elements(fields: tuple[Field, ...], at: str) -> Iterator[tuple[str, Field]]:
    """Yield every field with its path; nested fields follow the field that holds them."""
    for i, each in enumerate(fields):
        yield from _within(each, labelled(at, i, each.name))


def _within(each: Field, here: str) -> Iterator[tuple[str, Field]]:
    yield here, each
    yield from elements(each.fields, f"{here}.properties")
    if each.item is not None:
        yield from _within(each.item, f"{here}.items")


def fields_of(
    properties: list[SchemaProperty] | None, at: str, reading: Reading, *, nested: bool = False
) -> tuple[Field, ...] | None:
    """Return the fields of a list of properties; None if the type of any is unknown."""
    _check_names(properties or [], at, reading.problems)
    _check_previous_names(properties or [], at, reading.problems)
    fields = [
        field_of(each, labelled(at, i, each.name), reading, nested=nested)
        for i, each in enumerate(properties or ())
    ]
    known = tuple(each for each in fields if each is not None)
    return known if len(known) == len(fields) else None


def field_of(prop: SchemaProperty, at: str, reading: Reading, *, nested: bool) -> Field | None:
    """Return a property as a field; None if its type is unknown.

    Adds a problem to `reading.problems` for everything that is invalid or not supported.
    """
    problems = reading.problems
    _reject_unsupported(prop, at, nested, reading)
    quality = read_quality(prop.quality, at, problems, None if nested else prop.name)
    reading.rules.extend(quality.rules)
    kind = _kind(prop, at, problems)
    parts = None if kind is None else _parts(prop, kind["kind"], at, reading)
    if kind is None or parts is None:
        return None
    if nested and kind["kind"] is Kind.DECIMAL:
        # The decoder does not check nested decimals, so the column would round excess digits.
        problems.add(
            f"{at}.physicalType",
            "a decimal inside an object or array would not be checked for its scale",
            action="use a string with `pattern`, `physicalType: double`, or a top-level decimal",
        )
    result = Field(
        name=prop.name or ITEM,
        previous_names=_previous_names(prop),
        required=bool(prop.required or prop.primaryKey or quality.required),
        description=(prop.description or "").strip(),
        business_name=prop.businessName or "",
        examples=tuple(prop.examples or ()),
        derived=(prop.transformLogic or "").strip() or None,
        classification=prop.classification or "",
        **kind,
        **parts,
    )
    result = _with_default(result, prop, at, nested, problems)
    result = _with_options(result, prop, at, problems)
    if nested and is_epoch(result):
        problem = f"only a column at the top level can be sent as {result.format}"
        problems.add(f"{at}.logicalTypeOptions.format", problem, action="use an integer here")
    result = _with_quality(result, prop, quality, at, reading)
    _check_examples(result, at, problems)
    return result


def _check_names(properties: list[SchemaProperty], at: str, problems: Problems) -> None:
    seen: dict[str, str] = {}
    for i, prop in enumerate(properties):
        here = labelled(at, i, prop.name)
        name = prop.name or ""
        if name.startswith("_"):
            problem = "names that start with an underscore are the platform's own"
            problems.add(here, problem, action=f"use `{name.lstrip('_') or 'a_name'}`")
        elif not IDENTIFIER.fullmatch(name):
            problem = f"{name!r} is not a plain name" if name else "has no name"
            problems.add(here, problem, action="use letters, digits and _, a letter first")
        if name.lower() in seen:
            problem = f"has the name of {seen[name.lower()]} (upper and lower case are the same)"
            problems.add(here, problem, action="give it a name of its own")
        seen.setdefault(name.lower(), here)


def _with_default(
    field: Field, prop: SchemaProperty, at: str, nested: bool, problems: Problems
) -> Field:
    for j, custom in of_name(prop.customProperties, DEFAULT):
        here = f"{at}.customProperties[{j}]"
        if custom.value != NOW:
            problems.add(f"{here}.value", f"{custom.value!r} is no default", action=f"use `{NOW}`")
        elif nested or field.derived is not None or field.kind is not Kind.TIMESTAMP:
            problem = "only a timestamp that producers send can have a default"
            problems.add(here, problem, action="remove it")
        else:
            return replace(field, default=NOW)
    return field


def _previous_names(prop: SchemaProperty) -> tuple[str, ...]:
    """Return the names that the custom property `previousNames` lists, without checking them."""
    for _, custom in of_name(prop.customProperties, PREVIOUS_NAMES):
        if isinstance(custom.value, list):
            return tuple(name for name in custom.value if isinstance(name, str))
    return ()


def _check_previous_names(properties: list[SchemaProperty], at: str, problems: Problems) -> None:
    """Add a problem for each previous name that is not plain or that a sibling property has."""
    taken = {(prop.name or "").lower(): prop.name for prop in properties}
    for i, prop in enumerate(properties):
        for j, custom in of_name(prop.customProperties, PREVIOUS_NAMES):
            here = f"{labelled(at, i, prop.name)}.customProperties[{j}].value"
            if isinstance(custom.value, list) and custom.value:
                _check_given_up(custom.value, prop, taken, here, problems)
            else:
                action = "for example `value: [old_name]`"
                problems.add(here, f"{custom.value!r} is not a list of names", action=action)


def _check_given_up(
    names: list[Any],
    prop: SchemaProperty,
    taken: dict[str, str | None],
    here: str,
    problems: Problems,
) -> None:
    for name in names:
        if not isinstance(name, str) or not IDENTIFIER.fullmatch(name):
            action = "use letters, digits and _, a letter first"
            problems.add(here, f"{name!r} is not a plain name", action=action)
        elif name.lower() in taken:
            problem = f"{name!r} is also a name of {taken[name.lower()]}"
            action = "take another name for one of the two"
            problems.add(here, problem, action=action)
        else:
            taken[name.lower()] = prop.name


def _reject_unsupported(prop: SchemaProperty, at: str, nested: bool, reading: Reading) -> None:
    top = "only a column at the top level can"
    rejections = [
        (prop.unique, "unique", "uniqueness needs more than one record",
         "declare `primaryKey: true` and remove duplicates in the silver model"),
        (prop.semanticType == "measure", "semanticType", "a measure is not a column of a record",
         "compute it in a dbt model"),
        (prop.encryptedName, "encryptedName", "the platform does not encrypt columns",
         "remove it and set `classification`"),
        (prop.physicalName not in (None, prop.name), "physicalName",
         "a column has the name of its property", "rename the property, or remove physicalName"),
        (nested and prop.primaryKey, "primaryKey", f"{top} be part of the key", "remove it"),
        (nested and prop.partitioned, "partitioned", f"{top} partition the table",
         "add a top-level column with `transformLogic` and partition by that"),
        (nested and prop.primaryKeyPosition is not None, "primaryKeyPosition",
         f"{top} be part of the key", "remove it"),
        (nested and prop.partitionKeyPosition is not None, "partitionKeyPosition",
         f"{top} partition the table", "remove it"),
        (prop.map is not None and prop.logicalType != "map", "map",
         f"a property of type {prop.logicalType} has no map", "remove it"),
        (nested and prop.transformLogic, "transformLogic", f"{top} be derived",
         "add a top-level column with `transformLogic`"),
        (prop.enum and reading.api_version == "v3.1.0", "enum", "came with v3.2.0",
         "set `apiVersion: v3.2.0`, or use quality `metric: invalidValues`, "
         "`arguments: {validValues: [...]}`, `mustBe: 0`"),
    ]  # fmt: skip
    for used, key, problem, action in rejections:
        if used:
            reading.problems.add(f"{at}.{key}", problem, action=action)


def _kind(prop: SchemaProperty, at: str, problems: Problems) -> dict[str, Any] | None:
    """Return kind, bits, precision, scale and the like from both types; None if unknown."""
    logical = prop.logicalType
    if logical == "map":
        problems.add(
            f"{at}.logicalType",
            "maps are not supported",
            action="use `logicalType: object` with `physicalType: json`, "
            "or an array of objects with a key and a value",
        )
        return None
    if logical == "vector":
        action = "use an array of number with equal minItems and maxItems"
        problems.add(f"{at}.logicalType", "vectors are not supported", action=action)
        return None
    if logical not in _PHYSICAL:
        problem = f"unknown type {logical!r}" if logical else "has no logicalType"
        problems.add(f"{at}.logicalType", problem, action=suggestion(logical or "", _PHYSICAL))
        return None
    kind = {"kind": Kind(logical)} if logical != "object" or prop.properties else dict(_OPEN)
    if prop.physicalType:
        stored = _physical(logical, prop.physicalType, f"{at}.physicalType", problems)
        return None if stored is None else kind | stored
    return kind


def _physical(logical: str, text: str, at: str, problems: Problems) -> dict[str, Any] | None:
    match = _PHYSICAL_TYPE.fullmatch(text.strip().lower())
    name = match["name"] + (match["zone"] or "") if match else text
    if match is None or name not in _PHYSICAL[logical]:
        problem = f"{text!r} does not store the logical type {logical}"
        problems.add(at, problem, action=f"use one of: {', '.join(_PHYSICAL[logical])}")
        return None
    stored = dict(_PHYSICAL[logical][name])
    arguments = [int(n) for n in (match["arguments"] or "").split(",") if n.strip()]
    if stored.get("kind") is Kind.DECIMAL:
        return _decimal(stored, arguments, text, at, problems)
    if name in ("varchar", "char") and len(arguments) == 1:
        return stored | {"max_length": arguments[0]}
    if arguments and not (logical in ("timestamp", "time") and arguments == [6]):
        action = "timestamps and times have microseconds; leave the parentheses out"
        problems.add(at, f"{text!r} has a precision that is not supported", action=action)
    return stored


def _decimal(
    stored: dict[str, Any], arguments: list[int], text: str, at: str, problems: Problems
) -> dict[str, Any] | None:
    precision, scale = (*arguments, 0, 0)[:2]
    if not 1 <= len(arguments) <= 2 or not 1 <= precision <= 38 or scale > precision:
        problem = f"{text!r} is not a precision from 1 to 38 and a scale up to the precision"
        problems.add(at, problem, action="for example decimal(12,2)")
        return None
    return stored | {"precision": precision, "scale": scale}


def _parts(prop: SchemaProperty, kind: Kind, at: str, reading: Reading) -> dict[str, Any] | None:
    """Return the nested fields or the item; None if the type of any is unknown."""
    if prop.properties and kind is not Kind.OBJECT:
        problem = f"a {kind} has no properties"
        reading.problems.add(
            f"{at}.properties", problem, action="remove them, or use `logicalType: object`"
        )
    if prop.items and kind is not Kind.ARRAY:
        problem = f"a {kind} has no items"
        reading.problems.add(
            f"{at}.items", problem, action="remove them, or use `logicalType: array`"
        )
    if kind is Kind.OBJECT:
        fields = fields_of(prop.properties, f"{at}.properties", reading, nested=True)
        return None if fields is None else {"fields": fields}
    if kind is Kind.ARRAY and prop.items is None:
        action = "add `items`, or store it open with `physicalType: json`"
        reading.problems.add(f"{at}.items", "is missing", action=action)
        return None
    if kind is Kind.ARRAY and prop.items is not None:
        item = field_of(prop.items, f"{at}.items", reading, nested=True)
        return None if item is None else {"item": replace(item, name=ITEM)}
    return {}


def _with_options(each: Field, prop: SchemaProperty, at: str, problems: Problems) -> Field:
    logical, options, typed = str(prop.logicalType), prop.logicalTypeOptions or {}, each
    at = f"{at}.logicalTypeOptions"
    for key in sorted(set(options) - _OPTIONS[logical]):
        action = suggestion(key, _OPTIONS[logical])
        problems.add(f"{at}.{key}", f"is not an option of {logical}", action=action)
    known = {k: v for k, v in options.items() if k in _OPTIONS[logical] and v is not None}
    # Bounds last: their meaning may depend on the format and the zone.
    for key, value in sorted(known.items(), key=lambda pair: pair[0] in _BOUNDS):
        here = f"{at}.{key}"
        if key in _BOUNDS:
            each = _with_bound(each, key, value, here, problems)
        elif key in _LENGTHS:
            each = _with_length(each, key, value, here, problems)
        else:
            each = _with_other(each, logical, key, value, here, problems)
    if prop.physicalType and (each.bits, each.zoned) != (typed.bits, typed.zoned):
        problem = f"contradicts the physicalType {prop.physicalType!r}"
        problems.add(at, problem, action="keep one of the two")
    _check_range(each, at, problems)
    return each


def _with_bound(each: Field, key: str, value: Any, at: str, problems: Problems) -> Field:
    try:
        return replace(each, **{_BOUNDS[key]: literal(each, value)})
    except ValueError as error:
        problems.add(at, str(error), action=f"give a {each.kind}")
        return each


def _with_length(each: Field, key: str, value: Any, at: str, problems: Problems) -> Field:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        problems.add(at, f"{value!r} is not a length", action="give an integer, 0 or more")
        return each
    if each.kind is Kind.JSON:
        action = "add `items`, or a rule with json_array_length"
        problems.add(at, "an open array is stored as JSON text", action=action)
        return each
    if key == "maxLength" and each.max_length is not None:  # also varchar(n)
        value = min(value, each.max_length)
    return replace(each, **{_LENGTHS[key]: value})


def _with_other(
    each: Field, logical: str, key: str, value: Any, at: str, problems: Problems
) -> Field:
    if key == "pattern" and isinstance(value, str):
        return replace(each, pattern=value)
    if key == "format":
        return _with_format(each, logical, value, at, problems)
    if key == "uniqueItems" and isinstance(value, bool) and each.kind is Kind.ARRAY:
        return replace(each, unique_items=value)
    if key == "required" and isinstance(value, list) and each.kind is Kind.OBJECT:
        return _with_required(each, value, at, problems)
    if key == "timezone" and isinstance(value, bool):
        return _with_timezone(each, value, at, problems)
    if key == "defaultTimezone":
        return _with_default_zone(each, value, at, problems)
    action = {
        "multipleOf": 'use a rule: `implementation: "mod(<column>, <number>) = 0"`',
        "minProperties": "use a rule over the column",
        "maxProperties": "use a rule over the column",
        "required": "declare the properties, or use a rule with json_exists",
        "uniqueItems": "add `items`",
    }.get(key, "see the standard for its type")
    problems.add(at, f"{value!r} is not supported here", action=action)
    return each


def _with_default_zone(each: Field, value: Any, at: str, problems: Problems) -> Field:
    name = "UTC" if value in ("UTC", "Etc/UTC", "Z") else value
    known = isinstance(name, str) and (name in ("UTC", NO_ZONE) or is_zone(name))
    if not known:
        action = f"write UTC, a name like Europe/Berlin, or {NO_ZONE} (rejects such times)"
        problems.add(at, f"{value!r} is not a zone of the tz database", action=action)
    elif each.kind is Kind.TIME and name != "UTC":
        problems.add(at, "a time of day has no zone", action="remove it, or use a timestamp")
    else:
        return replace(each, default_zone=name, zone_declared=True)
    return each


def _with_format(each: Field, logical: str, value: Any, at: str, problems: Problems) -> Field:
    known = value if isinstance(value, str) else ""
    if logical == "string" and known in _STRING_FORMATS:
        return replace(each, format=known)
    letter = {"integer": "i", "number": "f"}.get(logical, "-")
    if known in _BITS and known.startswith(letter) and each.kind is not Kind.DECIMAL:
        return replace(each, bits=_BITS[known])
    if known in _ISO_FORMATS.get(logical, ()):
        return each
    if logical == "timestamp" and known in EPOCHS:
        return replace(each, format=known)
    action = {
        "string": f"use one of {', '.join(_STRING_FORMATS)}, or `pattern`",
        "integer": "use i32 or i64 with `minimum` and `maximum`, or a decimal",
        "number": "use f32 or f64",
        "timestamp": f"send ISO 8601, or numbers and {', '.join(EPOCHS)}, "
        "or a string column and a derived one: strptime(text, '...')",
    }.get(logical, "send ISO 8601, or a string column and a derived one: strptime(text, '...')")
    problems.add(at, f"the format {value!r} is not supported", action=action)
    return each


def _with_required(each: Field, names: list[Any], at: str, problems: Problems) -> Field:
    known = [inner.name for inner in each.fields]
    for name in names:
        if name not in known:
            action = suggestion(str(name), known)
            problems.add(at, f"{name!r} is not a property of this object", action=action)
    inner = tuple(replace(f, required=f.required or f.name in names) for f in each.fields)
    return replace(each, fields=inner)


def _with_timezone(each: Field, value: bool, at: str, problems: Problems) -> Field:
    if each.kind is Kind.TIME:
        if value:
            action = "send the time in UTC, or use a timestamp"
            problems.add(at, "a time has no zone", action=action)
        return each
    return replace(each, zoned=value)


def _check_range(each: Field, at: str, problems: Problems) -> None:
    pairs = [
        ("minimum", each.minimum, "maximum", each.maximum, False),
        ("exclusiveMinimum", each.exclusive_minimum, "maximum", each.maximum, True),
        ("minimum", each.minimum, "exclusiveMaximum", each.exclusive_maximum, True),
        ("exclusiveMinimum", each.exclusive_minimum,
         "exclusiveMaximum", each.exclusive_maximum, True),
        ("minItems" if each.kind is Kind.ARRAY else "minLength", each.min_length,
         "maxItems" if each.kind is Kind.ARRAY else "maxLength", each.max_length, False),
    ]  # fmt: skip
    for low_name, low, high_name, high, strict in pairs:
        if low is not None and high is not None and (low > high or (strict and low == high)):
            problem = f"{low} leaves no value below the {high_name} {high}"
            problems.add(f"{at}.{low_name}", problem, action=f"lower it or raise {high_name}")


def _with_quality(
    each: Field, prop: SchemaProperty, quality: Quality, at: str, reading: Reading
) -> Field:
    problems = reading.problems
    if quality.pattern is not None:
        each = _with_pattern(each, quality.pattern, f"{at}.quality", problems)
    values = [value.value for value in prop.enum or ()]
    where = "enum" if prop.enum else "quality"
    if prop.enum and quality.allowed is not None:
        problems.add(f"{at}.quality", "allowed values are given twice", action="keep the enum")
    values = values or quality.allowed or []
    if values and each.kind not in _SCALARS:
        action = "list the allowed values of its properties or items"
        problems.add(f"{at}.{where}", f"a {each.kind} has no allowed values", action=action)
        return each
    allowed = []
    for i, raw in enumerate(values):
        try:
            value = literal(each, raw)
            problem = breach_text(each, value) or ("is listed twice" if value in allowed else None)
            allowed.append(value)
        except ValueError as error:
            problem = str(error)
        if problem:
            here = f"{at}.{where}[{i}]" if prop.enum else f"{at}.{where}"
            problems.add(here, problem, action=f"list values that this {each.kind} can have")
    return replace(each, allowed=tuple(allowed))


def _with_pattern(each: Field, pattern: str, at: str, problems: Problems) -> Field:
    if each.kind is not Kind.STRING:
        problems.add(at, f"a {each.kind} has no pattern", action="use minimum and maximum")
    elif each.pattern not in (None, pattern):
        problems.add(at, "a pattern is given twice", action="keep logicalTypeOptions.pattern")
    else:
        return replace(each, pattern=pattern)
    return each


def _check_examples(each: Field, at: str, problems: Problems) -> None:
    for i, raw in enumerate(each.examples):
        if raw is None:
            continue
        try:
            problem = breach_text(each, literal(each, raw))
        except ValueError as error:
            problem = str(error)
        if problem:
            action = f"give an example that this {each.kind} can have"
            problems.add(f"{at}.examples[{i}]", problem, action=action)
