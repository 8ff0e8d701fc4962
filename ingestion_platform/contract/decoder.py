"""Decode and validate JSON records: a fast path in C, and a slow path in Python.

The fast path is a msgspec type. It checks JSON syntax, types and nested constraints. The slow path
examines the other records field by field and returns the reasons against them. The SQL of `sql`
validates the values of top-level fields.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal, Optional, cast

import msgspec

from ingestion_platform.contract.exact import NULL, Column, Exact, exact_of, is_epoch
from ingestion_platform.contract.json_text import SHALLOW, check_depth, minified, object_keys
from ingestion_platform.contract.model import Contract, Field, Kind
from ingestion_platform.contract.reasons import RECORD, SHOWN, Code, InvalidValue, Reason
from ingestion_platform.contract.values import breach, read_text
from ingestion_platform.contract.wire import described, envelope_of, likeness


@dataclass(frozen=True, slots=True)
class Screened:
    """The result of the fast path for a batch of records.

    `slow` has the indexes of the records that need the slow path. `texts` has a column, by field
    name, for each field that the query gets as exact text. A column has None where the record
    needs the slow path.
    """

    slow: list[int]
    texts: dict[str, Column]


@dataclass(frozen=True, slots=True)
class Examined:
    """The result of the slow path for one record.

    `clean` is a JSON object with every field. A field is null if it is missing, has the wrong type
    or is in `texts`. `clean` is None if nothing can be read. `broken` names the fields of the wrong
    type (`*` for all); `reasons` explains each. `texts` has the exact texts by field name.
    """

    clean: bytes | None
    broken: list[str]
    reasons: list[Reason] = field(default_factory=list)
    texts: dict[str, bytes | int | None] = field(default_factory=dict)


class Decoder:
    """The fast path and the slow path of one contract. Thread-safe."""

    def __init__(self, contract: Contract) -> None:
        self._fields = [f for f in contract.fields if f.derived is None]
        self._decode = _decoder(_record_type(self._fields, whole=False))
        self._decode_whole = _decoder(_record_type(self._fields, whole=True))
        self._raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        self._each = {f.name: _decoder(_EXACT.optional(f)) for f in self._fields}
        self.names = frozenset(f.name for f in self._fields)
        """The fields that producers send."""
        nested = [f for f in self._fields if f.kind in (Kind.OBJECT, Kind.ARRAY)]
        self.nested = {f.name: f for f in nested}
        """The object and array fields with declared content, by name."""
        exact = {f.name: exact_of(f) for f in self._fields}
        self._exact: dict[str, Exact] = {n: e for n, e in exact.items() if e is not None}
        self.always_slow = any(_has(f, _is_json) for f in nested)
        """Whether every record needs the slow path: the query would misread nested open JSON."""
        self._nothing = self._decode(b"{}")
        places = enumerate(f.name for f in self._fields)
        self._getters = [(attrgetter(f"f{i}"), name) for i, name in places if name in self._exact]

    def screen(self, values: Sequence[bytes | None], *, whole: bool = False) -> Screened:
        """Return which records need the slow path, and the exact texts of the others.

        With `whole`, a record that lacks a field needs the slow path too. A record that needs the
        slow path may still be valid: `examine` decides.
        """
        decode = self._decode_whole if whole else self._decode
        tokens: dict[str, list[msgspec.Raw]] = {name: [] for name in self._exact}
        steps = [(of, tokens[name].append) for of, name in self._getters]
        slow = []
        for place, value in enumerate(cast(Sequence[bytes], values)):
            try:
                record = decode(value)
                if len(value) > SHALLOW:
                    check_depth(value)
            except Exception:
                # Any exception concerns the record, including RecursionError.
                slow.append(place)
                record = self._nothing
            for of, add in steps:
                add(of(record))
        texts: dict[str, Column] = {}
        for name, exact in self._exact.items():
            texts[name], more = exact.many(tokens[name])
            slow += more
        return Screened(slow, texts)

    def has_duplicate_inside(self, value: str) -> bool:
        """Return whether an object inside a field repeats one of its declared keys."""
        pieces = self._raw(value)
        return any(_repeated(f, bytes(pieces[n])) for n, f in self.nested.items() if n in pieces)

    def examine(self, value: bytes | None) -> Examined:
        """Return the reasons against a record, field by field, and the valid part of it."""
        if value is None:
            return _nothing_of(Reason(Code.TOMBSTONE, RECORD, "is null (a tombstone)"))
        if reason := _unreadable(value):
            return _nothing_of(_with_likeness(reason, value))
        try:
            check_depth(value)
            pieces = self._raw(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return _nothing_of(_with_likeness(_not_an_object(value, error), value))
        examined = Examined(b"{}", [], [])
        keys = Counter(object_keys(value))
        if envelope := envelope_of(keys.keys(), self.names):
            message = f"looks like {described(envelope, value)}, not a record"
            return _nothing_of(Reason(Code.ENVELOPE, RECORD, message))
        if not keys.keys() & self.names:
            message = "has none of the contract's fields"
            examined.reasons.append(Reason(Code.ENVELOPE, RECORD, message))
        for name in [f.name for f in self._fields if keys[f.name] > 1]:
            message = "the key stands twice in the object"
            examined.reasons.append(Reason(Code.UNIQUE_KEYS, name, message))
            examined.broken.append(name)
        kept = []
        for item in self._fields:
            token = pieces.get(item.name, NULL)
            if reason := self._reason(item, bytes(token)):
                examined.reasons.append(reason)
                examined.broken.append(item.name)
                token = NULL
            if item.name in self._exact:
                examined.texts[item.name] = self._exact[item.name].one(token)
                token = NULL
            kept.append(json.dumps(item.name).encode() + b":" + self._kept(item, bytes(token)))
        clean = b"{" + b",".join(kept) + b"}"
        return Examined(clean, examined.broken, examined.reasons, examined.texts)

    def _reason(self, item: Field, text: bytes) -> Reason | None:
        """Return why a token does not have the field's type; None if it does."""
        try:
            if item.name in self._exact:
                return self._unread(item, text)
            self._each[item.name](text)
            if item.name in self.nested and (name := _repeated(item, text)):
                message = f"the key {name} stands twice in an object"
                return Reason(Code.UNIQUE_KEYS, item.name, message, _shown(text))
        except (msgspec.MsgspecError, RecursionError) as error:
            return Reason(_code(item, text, error), item.name, _plain(error), _shown(text))
        return None

    def _unread(self, item: Field, text: bytes) -> Reason | None:
        """Return why the token of an exact field cannot be read; None if it can."""
        try:
            self._exact[item.name].one(msgspec.Raw(text))
        except (ValueError, RecursionError) as error:
            if is_epoch(item):
                return Reason(_code(item, text, error), item.name, str(error), _shown(text))
            value = self._each[item.name](text)
            if isinstance(value, str):
                return _embedded_reason(item, value)
            return Reason(_code(item, text, error), item.name, _plain(error))
        return None

    def _kept(self, item: Field, text: bytes) -> bytes:
        """Return the JSON text of a field in a form that the query reads correctly."""
        return _rewritten(item, text) if _has(item, _is_rewritten) else text


def _is_json(item: Field) -> bool:
    return item.kind is Kind.JSON


def _is_rewritten(item: Field) -> bool:
    return item.kind is Kind.JSON or item.kind in _MOMENTS


def _rewritten(item: Field, text: bytes) -> bytes:
    """Return a valid value with ISO 8601 times, and open JSON as strings of minified text."""
    if text == b"null" or not _has(item, _is_rewritten):
        return text
    if item.kind is Kind.JSON:
        return msgspec.json.encode(minified(text).decode())
    if item.kind in _MOMENTS:
        return msgspec.json.encode(read_text(item, _decode_string(text)).isoformat())
    if item.kind is Kind.ARRAY and item.item is not None:
        parts = msgspec.json.decode(text, type=list[msgspec.Raw])
        return b"[" + b",".join(_rewritten(item.item, bytes(part)) for part in parts) + b"]"
    members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    inner = {f.name: f for f in item.fields}
    return msgspec.json.encode(
        {
            name: msgspec.Raw(_rewritten(inner[name], bytes(part)))
            for name, part in members.items()
            if name in inner
        }
    )


class _Open(msgspec.Struct):
    """An object of any content: msgspec checks its syntax and keeps nothing of it."""


_decode_string = msgspec.json.Decoder(str).decode
_decode_open = msgspec.json.Decoder(_Open | list[msgspec.Raw]).decode


def _embedded_reason(item: Field, text: str) -> Reason | None:
    """Return why a string is not the JSON text of an object or array; None if it is."""
    shown = _shown(text.encode())
    try:
        _decode_open(text)
        check_depth(text.encode())
    except msgspec.ValidationError:
        message = "must be a JSON object or array, or its text"
        return Reason(Code.TYPE, item.name, message, shown)
    except RecursionError as error:
        return Reason(Code.DEPTH, item.name, _plain(error), shown)
    except msgspec.MsgspecError as error:
        return Reason(Code.JSON, item.name, f"is not valid JSON text: {_plain(error)}", shown)
    return None


def _nothing_of(reason: Reason) -> Examined:
    return Examined(None, ["*"], [reason])


def _with_likeness(reason: Reason, value: bytes) -> Reason:
    like = likeness(value)
    return replace(reason, message=f"{reason.message}; looks like {like}") if like else reason


def _unreadable(value: bytes) -> Reason | None:
    """Return why a value cannot be JSON text; None if it may be."""
    if not value.strip():
        return Reason(Code.JSON, RECORD, "is empty")
    if value.startswith(b"\xef\xbb\xbf"):
        return Reason(Code.ENCODING, RECORD, "starts with a byte order mark")
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return Reason(Code.ENCODING, RECORD, "is not valid UTF-8", f"at byte {error.start}")
    return None


def _not_an_object(value: bytes, error: Exception) -> Reason:
    if isinstance(error, RecursionError):
        return Reason(Code.DEPTH, RECORD, _plain(error))
    if isinstance(error, msgspec.ValidationError):
        return Reason(Code.TYPE, RECORD, "must be a JSON object", _shown(value))
    place = _BYTE.search(str(error))
    shown = None if place is None else f"at byte {place[1]}"
    return Reason(Code.JSON, RECORD, f"is not valid JSON: {_plain(error)}", shown)


def _code(item: Field, text: bytes, error: Exception) -> str:
    """Return the reason code of a decoding error, since msgspec gives only a message."""
    if isinstance(error, RecursionError):
        return Code.DEPTH
    cause = error if isinstance(error, InvalidValue) else error.__cause__
    if isinstance(cause, InvalidValue):
        return cause.code
    return _violated(item, json.loads(text)) or Code.TYPE


def _violated(item: Field, value: Any) -> Code | None:
    """Return the code of the constraint that a value breaks; None if its type may be wrong."""
    if isinstance(value, dict) and item.kind is Kind.OBJECT:
        members = [(f, value.get(f.name)) for f in item.fields]
    elif isinstance(value, list) and item.item is not None:
        members = [(item.item, member) for member in value]
    else:
        return _breach_code(item, value)
    for f, member in members:
        if member is None and f.required:
            return Code.REQUIRED
        if member is not None and (code := _violated(f, member)):
            return code
    # The query checks that the items of a top-level array are unique.
    return _breach_code(replace(item, unique_items=False), value)


def _breach_code(item: Field, value: Any) -> Code | None:
    if not isinstance(value, _PYTHON.get(item.kind, ())) or isinstance(value, bool):
        return None
    if item.pattern is not None and not re.fullmatch(item.pattern, str(value)):
        return Code.PATTERN
    problem = breach(item, value)
    return None if problem is None else problem.code


def _has(item: Field, which: Callable[[Field], bool]) -> bool:
    """Return whether `which` is true for a field or for any field inside it."""
    inner = (*item.fields, *((item.item,) if item.item else ()))
    return which(item) or any(_has(f, which) for f in inner)


def _repeated(item: Field, text: bytes) -> str | None:
    """Return a declared key that an object inside a field repeats; None if there is none."""

    class Pairs(list[tuple[str, Any]]):
        pass

    def search(f: Field, value: Any) -> str | None:
        if isinstance(value, Pairs):
            keys = Counter(key for key, _ in value)
            found = next((inner.name for inner in f.fields if keys[inner.name] > 1), None)
            members = dict(value)
            parts = [(inner, members.get(inner.name)) for inner in f.fields]
        elif isinstance(value, list) and f.item is not None:
            found, parts = None, [(f.item, member) for member in value]
        else:
            return None
        return found or next(filter(None, (search(*part) for part in parts)), None)

    return search(item, json.loads(text, object_pairs_hook=Pairs))


_BYTE = re.compile(r" \(byte (\d+)\)")
_PYTHON: dict[Kind, tuple[type, ...]] = {
    Kind.STRING: (str,),
    Kind.INTEGER: (int,),
    Kind.NUMBER: (int, float),
    Kind.DECIMAL: (int, float),
    Kind.ARRAY: (list,),
}
_NAMES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
    "_Open": "object",
}


def _plain(error: Exception) -> str:
    """Return a decoding error's message with JSON's type names, without record-specific parts."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    message = str(error).removeprefix("JSON is malformed: ")
    message = _BYTE.sub("", re.sub(r"\[\d+\]", "[]", message))
    message = re.sub(r" - at `(\$\.?)?([^`]*)`", lambda m: f" at {m[2]}" if m[2] else "", message)
    message = message.replace(" | null", "")
    message = re.sub(r"`([\w |]+)`", lambda m: _named(m[1]), message)
    return message[:1].lower() + message[1:]


def _named(types: str) -> str:
    """Return Python type names, separated by bars, as JSON type names joined by "or"."""
    return " or ".join(_NAMES.get(name, name) for name in types.split(" | "))


def _shown(text: bytes) -> str:
    shown = text[: SHOWN * 4].decode(errors="replace")
    return shown if len(shown) <= SHOWN else shown[:SHOWN] + "…"


class _Moment(str):
    """The text of a date or time in a record. Each date or time field has its own subclass."""

    field: ClassVar[Field]
    nested: ClassVar[bool]
    form: ClassVar[re.Pattern[str] | None]
    """Pattern of the texts that the query reads in the same way as `read_text`; None for any."""

    @classmethod
    def read(cls, value: Any) -> _Moment:
        """Return the text of a value of the field.

        Raises:
            ValueError: the value is not the text of a valid date or time, or needs the slow path.
        """
        if not isinstance(value, str):
            raise InvalidValue(f"Expected `{cls.field.kind}`, got `{type(value).__name__}`")
        if cls.form is not None and not cls.form.fullmatch(value):
            raise ValueError("needs the slow path")
        typed = read_text(cls.field, value)
        if cls.nested and (problem := breach(cls.field, typed)):
            raise problem  # SQL checks the top level
        return cls(value)


_DAY, _CLOCK = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d:\d\d(\.\d{1,6})?"


def _form(item: Field) -> re.Pattern[str]:
    """Return the pattern of the dates or times that the query reads correctly."""
    zone = r"(Z|[+-]\d\d:\d\d)" if item.zoned else "Z"
    optional = "?" if item.default_zone == "UTC" else ""
    text = {Kind.DATE: _DAY, Kind.TIME: _CLOCK}.get(
        item.kind, f"{_DAY}[T ]{_CLOCK}{zone}{optional}"
    )
    return re.compile(text, re.ASCII)


def _decoder(kind: Any) -> Callable[[Any], Any]:
    def hook(moment: Any, value: Any) -> Any:
        return moment.read(value)

    return msgspec.json.Decoder(kind, dec_hook=hook).decode


def _record_type(fields: Sequence[Field], *, whole: bool) -> type:
    # Numbered attributes with a rename, since a field's name may be a Python keyword.
    columns: list[Any] = []
    for i, each in enumerate(fields):
        kind, default = (msgspec.Raw, NULL) if exact_of(each) else (_FAST.optional(each), None)
        columns.append((f"f{i}", kind) if whole else (f"f{i}", kind, default))
    names = {f"f{i}": f.name for i, f in enumerate(fields)}
    return msgspec.defstruct("Record", columns, rename=names, gc=False)


_MOMENTS = {Kind.DATE: dt.date, Kind.TIMESTAMP: dt.datetime, Kind.TIME: dt.time}
_SCALARS: dict[Kind, Any] = {
    Kind.STRING: str,
    Kind.NUMBER: float,
    Kind.DECIMAL: float,
    Kind.BOOLEAN: bool,
    Kind.DATE: dt.date,
    Kind.TIMESTAMP: dt.datetime,
    Kind.TIME: Annotated[dt.time, msgspec.Meta(tz=False)],
}


@dataclass(frozen=True, slots=True)
class _Types:
    """Build the msgspec types of fields.

    With `fast`, these are the types of the fast path, which may reject valid values.
    """

    fast: bool

    def optional(self, item: Field) -> Any:
        """Return the type of a field or null, since SQL checks `required`."""
        return Optional[self.of(item)]  # noqa: UP045 - built at run time

    def of(self, item: Field, *, nested: bool = False) -> Any:
        """Return a field's type.

        With `nested`, the type has the field's constraints. SQL checks those of the top level.
        """
        if item.kind is Kind.OBJECT:
            return self._object(item)
        if item.kind is Kind.ARRAY and item.item is not None:
            return _constrained(list.__class_getitem__(self._inner(item.item)), item)
        if item.kind in _MOMENTS and (nested or not self.fast):
            form = _form(item) if self.fast else None
            return type(item.kind, (_Moment,), {"field": item, "nested": nested, "form": form})
        return _scalar(item, nested)

    def _inner(self, item: Field) -> Any:
        kind = self.of(item, nested=True)
        return kind if item.required else Optional[kind]  # noqa: UP045

    def _object(self, item: Field) -> type:
        columns: list[Any] = []
        for i, f in enumerate(item.fields):
            kind = self._inner(f)
            columns.append((f"f{i}", kind) if f.required else (f"f{i}", kind, None))
        names = {f"f{i}": f.name for i, f in enumerate(item.fields)}
        return msgspec.defstruct(item.name or "Item", columns, rename=names, kw_only=True)


_FAST, _EXACT = _Types(fast=True), _Types(fast=False)


def _scalar(item: Field, nested: bool) -> Any:
    if item.kind is Kind.JSON:
        return _Open | list[msgspec.Raw] if nested else _Open | list[msgspec.Raw] | str
    if item.allowed and nested:
        return Literal.__getitem__(item.allowed)
    if item.kind is Kind.INTEGER and not nested:
        low, high = _range(item)
        return Annotated[int, msgspec.Meta(ge=low, le=high)]
    if item.kind is Kind.NUMBER and item.bits == 32 and not nested:
        return Annotated[float, msgspec.Meta(ge=-_LARGEST_SINGLE, le=_LARGEST_SINGLE)]
    kind: Any = int if item.kind is Kind.INTEGER else _SCALARS[item.kind]
    return _constrained(kind, item) if nested else kind


_LARGEST_SINGLE = (2 - 2**-23) * 2.0**127


def _range(item: Field) -> tuple[float, float]:
    """Return the smallest and the largest number that fits into the field's bits."""
    if item.kind is Kind.NUMBER:
        return -_LARGEST_SINGLE, _LARGEST_SINGLE
    return -(2 ** (item.bits - 1)), 2 ** (item.bits - 1) - 1


def _constrained(kind: Any, item: Field) -> Any:
    limits = {
        "ge": item.minimum,
        "le": item.maximum,
        "gt": item.exclusive_minimum,
        "lt": item.exclusive_maximum,
        "min_length": item.min_length,
        "max_length": item.max_length,
        "pattern": None if item.pattern is None else rf"\A(?:{item.pattern})\Z",
    }
    given = {name: limit for name, limit in limits.items() if limit is not None}
    if item.kind is Kind.INTEGER or (item.kind is Kind.NUMBER and item.bits == 32):
        # The number of bits limits the value where the contract does not.
        low, high = _range(item)
        given |= {} if "gt" in given or "ge" in given else {"ge": low}
        given |= {} if "lt" in given or "le" in given else {"le": high}
    return Annotated[kind, msgspec.Meta(**given)] if given else kind
