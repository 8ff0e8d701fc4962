"""Read values from JSON tokens in Python, for fields whose values the query would change.

One function per kind takes the token and returns the value (None for null) or raises. The query
gets the values in separate columns, beside the records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np

from ingestion_platform.contract.json_text import SHALLOW, all_minified, check_depth, minified
from ingestion_platform.contract.model import Field, Kind
from ingestion_platform.contract.reasons import InvalidValue
from ingestion_platform.contract.times import EPOCHS, read_epoch

Reader = Callable[[msgspec.Raw], bytes | int | None]
Column = list[bytes | int | None]
"""The exact values of one field, in the order of the records; None where there is no value."""

NULL = msgspec.Raw(b"null")
_QUOTE, _OPENING = ord('"'), b"{["
_NUMBER_STARTS = b"-0123456789"
_decode_string = msgspec.json.Decoder(str).decode


def json_text(token: msgspec.Raw) -> bytes | None:
    """Return the minified text of an object or array, which a JSON column stores.

    The token is the object or array itself, or a string that holds its text.

    Raises:
        InvalidValue: the token is neither.
        msgspec.MsgspecError: the text is not JSON.
        RecursionError: the text is nested too deeply.
    """
    text = bytes(token)
    if text == b"null":
        return None
    text = minified(_decode_string(text).encode() if text[0] == _QUOTE else text)
    if text[0] not in _OPENING:
        raise InvalidValue("is not a JSON object or array, or its text")
    if len(text) > SHALLOW:
        check_depth(text)
    return text


def decimal_text(token: msgspec.Raw) -> bytes | None:
    """Return the text of a JSON number as it was written, of any size and precision.

    Raises:
        InvalidValue: the token is not a number.
    """
    text = bytes(token)
    if text == b"null":
        return None
    if text[0] not in _NUMBER_STARTS:
        raise InvalidValue("is not a number")
    return text


@dataclass(frozen=True, slots=True)
class Exact:
    """The readers of one kind's tokens.

    `one` reads a single token and decides whether it is valid. `many` gives the same results for a
    column. `plain` reads tokens that start with one of `starts` and have at most SHALLOW bytes.
    """

    one: Reader
    plain: Callable[[list[bytes]], list[bytes]]
    starts: bytes
    numbers: bool = False
    """Whether the values are integers instead of texts."""

    def many(self, tokens: Sequence[msgspec.Raw]) -> tuple[Column, list[int]]:
        """Return the values of tokens of valid JSON, and the indexes that need the slow path."""
        texts = list(map(bytes, tokens))
        read: dict[int, bytes | int | None] = {}
        slow = []
        for place in self._unclear(texts):
            texts[place], read[place] = b"null", None
            try:
                read[place] = self.one(tokens[place])
            except (ValueError, RecursionError):
                slow.append(place)
        values: Column = [*self.plain(texts)]
        for place, value in read.items():
            values[place] = value
        return values, slow

    def _unclear(self, texts: list[bytes]) -> list[int]:
        """Return the indexes of the texts that `plain` does not read."""
        firsts = np.frombuffer(bytes([text[0] for text in texts]), np.uint8)
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        plain = np.isin(firsts, list(self.starts)) & (sizes <= SHALLOW)
        places: list[int] = np.flatnonzero(~plain).tolist()
        return places


def epoch_micros(token: msgspec.Raw, form: str) -> int | None:
    """Return the microseconds since 1970 of a number in the unit `form` of `times.EPOCHS`.

    Raises:
        InvalidValue: the same cases as in `times.read_epoch`.
    """
    text = bytes(token).decode()
    return None if text == "null" else read_epoch(text, form)


def exact_of(field: Field) -> Exact | None:
    """Return the readers of a top-level field; None if the query reads its values exactly."""
    if field.derived is not None:
        return None
    if is_epoch(field):
        return Exact(partial(epoch_micros, form=str(field.format)), list, b"", numbers=True)
    return KINDS.get(field.kind)


def is_epoch(field: Field) -> bool:
    """Return whether a field is a timestamp that is sent as a number."""
    return field.kind is Kind.TIMESTAMP and field.format in EPOCHS


KINDS: dict[Kind, Exact] = {
    Kind.JSON: Exact(json_text, all_minified, _OPENING),
    Kind.DECIMAL: Exact(decimal_text, list, _NUMBER_STARTS),
}
