"""The HTTP API reads as files are read: the same bytes give the same records and reasons."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingestion_platform.bronze.load import SegmentValidator as Bronze
from ingestion_platform.contract.model import Contract
from ingestion_platform.contract.reasons import reasons_of
from ingestion_platform.files.formats import copy_file, format_of, open_copy
from ingestion_platform.files.reading import UnreadableFile
from ingestion_platform.files.spool import Spool
from ingestion_platform.http_api.envelopes import split
from ingestion_platform.http_api.problems import Problem
from ingestion_platform.http_api.validation import BatchValidator
from ingestion_platform.streams import declared_streams

USER = {"user_id": 1001, "age": 34, "gender": "F", "device": "Mobile"}
GOOD = json.dumps(USER).encode()
CONTRACT = declared_streams()["recomart_users"].contract
FORMS = {"jsonl": "application/x-ndjson", "json": "application/json"}

Outcome = list[tuple[bytes, list[Any]]] | str
"""Each record with the reasons against it; "unreadable" where a body cannot be cut."""


def by_file(body: bytes, form: str, folder: Path, contract: Contract = CONTRACT) -> Outcome:
    """What the file source makes of the bytes."""
    file = folder / f"users.{form}"
    file.write_bytes(body)
    validator, found = Bronze(contract), []
    try:
        with Spool(folder) as spool:
            content = open_copy(copy_file(file, spool), format_of(file.name), spool)
            for batch in content.records(contract):
                parsed = validator.parse(batch.values, "json", batch.reasons)
                reasons = zip(parsed.rejected.to_pylist(), parsed.reasons.to_pylist(), strict=True)
                said = {at: reasons_of(given) for at, given in reasons}
                values = batch.values.to_pylist()
                found += [(value, list(said.get(at, []))) for at, value in enumerate(values)]
    except UnreadableFile:
        return "unreadable"
    return found


def by_api(body: bytes, form: str, contract: Contract = CONTRACT) -> Outcome:
    """What the HTTP API makes of them."""
    try:
        envelopes = split(body, FORMS[form], [])
    except Problem as problem:
        return "unreadable" if problem.status == 400 else problem.kind
    with ThreadPoolExecutor(1) as pool:
        fine = [e.value for e in envelopes if not e.reasons]
        validations = iter(asyncio.run(BatchValidator(contract, pool).validate(fine)))
        return [(e.value, list(e.reasons or next(validations).reasons)) for e in envelopes]


BODIES = {
    "records": GOOD + b"\n" + GOOD,
    "crlf and blank lines": b"\r\n" + GOOD + b"\r\n\n \t\n" + GOOD + b"\r\n",
    "bad lines": b'{"user_id":"\\ud83d"}\n{"a\n' + GOOD + b"\n{\xff}\n[1,2]\nNaN\n" + GOOD[:20],
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "two marks": b"\xef\xbb\xbf" * 2 + GOOD,
    "utf-16": GOOD.decode().encode("utf-16"),
    "broken utf-16": GOOD.decode().encode("utf-16")[:-1],
    "breaks the contract": b'{"user_id":1,"age":0,"gender":"x","device":null}\n' + GOOD,
    "nothing": b"",
    "blank": b" \n\t\n",
}
ARRAYS = {
    "array": b"[" + GOOD + b",\n " + GOOD + b" ]\n",
    "bad items": b"[" + GOOD + b', {"a":}, NaN, "\xff", ' + GOOD + b"]",
    "cut off": b"[" + GOOD + b"," + GOOD[:30],
    "open quote": b'[{"a": "x}, {}]',
    "trailing comma": b"[" + GOOD + b",]",
    "more behind": b"[" + GOOD + b"] x",
    "empty": b" [ ] ",
    "byte order mark": b"\xef\xbb\xbf[" + GOOD + b"]",
    "utf-16": ("[" + GOOD.decode() + "]").encode("utf-16"),
}


@pytest.mark.parametrize("name", BODIES)
def test_lines_are_read_alike(tmp_path: Path, name: str) -> None:
    """Values, their number and order, and every reason."""
    assert by_api(BODIES[name], "jsonl") == by_file(BODIES[name], "jsonl", tmp_path)


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_read_alike(tmp_path: Path, name: str) -> None:
    """An invalid item costs itself; a body that cannot be cut costs the request, or the file."""
    assert by_api(ARRAYS[name], "json") == by_file(ARRAYS[name], "json", tmp_path)


def test_invalid_lines_are_rejected_alone() -> None:
    """Of the mixed body the good record stays."""
    found = by_api(BODIES["bad lines"], "jsonl")
    assert isinstance(found, list)
    assert [value for value, reasons in found if not reasons] == [GOOD]
    assert len(found) == 7


def test_previous_names_are_read_alike(tmp_path: Path) -> None:
    """A field's previous name is known to both."""
    fields = tuple(
        replace(f, previous_names=("years",)) if f.name == "age" else f for f in CONTRACT.fields
    )
    contract = replace(CONTRACT, fields=fields)
    body = GOOD.replace(b'"age"', b'"years"')
    assert by_api(body, "jsonl", contract) == by_file(body, "jsonl", tmp_path, contract)
    assert by_api(body, "jsonl", contract) == [(body, [])]


def mutated(form: str) -> st.SearchStrategy[bytes]:
    """Bodies of a few records with some bytes replaced, removed or added."""
    records = st.lists(st.sampled_from([GOOD, b'{"user_id":1}', b"5", b'"\xc3\xa9"']), max_size=4)
    joined: Callable[[list[bytes]], bytes] = (
        (lambda parts: b"[" + b",".join(parts) + b"]") if form == "json" else b"\n".join
    )
    edits = st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 3), st.binary(max_size=3)), max_size=3
    )

    def edit(body: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        for at, removed, added in changes:
            at = at % (len(body) + 1)
            body = body[:at] + added + body[at + removed :]
        return body

    return st.builds(edit, records.map(joined), edits)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=mutated("jsonl"))
def test_any_lines_are_read_alike(tmp_path: Path, body: bytes) -> None:
    """Whatever bytes they hold."""
    assert by_api(body, "jsonl") == by_file(body, "jsonl", tmp_path)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=mutated("json").filter(lambda body: body.strip(b" \t\r\n")[:1] == b"["))
@example(body=b'[{"user_id":1}]')
def test_any_array_is_read_alike(tmp_path: Path, body: bytes) -> None:
    """Whatever bytes it holds; a body that begins otherwise is one record for the API."""
    assert by_api(body, "json") == by_file(body, "json", tmp_path)
