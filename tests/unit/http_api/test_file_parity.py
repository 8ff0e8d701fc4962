"""The HTTP API accepts what bronze accepts: the same bytes give the same records and reasons.

A few bodies are loaded into the tables; any bytes are compared with what the loader validates.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.contract import columns as c
from ingestion_platform.contract.model import Contract
from ingestion_platform.contract.reasons import Reason, reasons_of
from ingestion_platform.files.formats import copy_file, format_of, open_copy
from ingestion_platform.files.reading import UnreadableFile
from ingestion_platform.files.spool import Spool
from ingestion_platform.http_api.envelopes import split
from ingestion_platform.http_api.problems import Problem
from ingestion_platform.http_api.validation import BatchValidator
from ingestion_platform.pipeline import load_files
from ingestion_platform.platform import Platform
from ingestion_platform.streams import Stream, declared_streams
from tests.support.oracle import read_table

USER = {"user_id": 1001, "age": 34, "gender": "F", "device": "Mobile"}
GOOD = json.dumps(USER).encode()
CONTRACT = declared_streams()["recomart_users"].contract
FORMS = {"jsonl": "application/x-ndjson", "json": "application/json"}

Outcome = list[tuple[bytes, list[Any]]] | str
"""Each record with its reasons; "unreadable" if a body cannot be split into records."""


def by_file(body: bytes, form: str, folder: Path, contract: Contract = CONTRACT) -> Outcome:
    """Read and validate the bytes as the file source does."""
    file = folder / f"users.{form}"
    file.write_bytes(body)
    validator, found = Validator(contract), []
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
    """Read and validate the bytes as the HTTP API does."""
    try:
        envelopes = split(body, FORMS[form], [])
    except Problem as problem:
        return "unreadable" if problem.status == 400 else problem.kind
    with ThreadPoolExecutor(1) as pool:
        fine = [e.value for e in envelopes if not e.reasons]
        validations = iter(asyncio.run(BatchValidator(contract, pool).validate(fine)))
        return [(e.value, list(e.reasons or next(validations).reasons)) for e in envelopes]


def in_tables(platform: Platform, stream: Stream, file: Path) -> list[list[Reason]] | str:
    """Load a file; return the reasons of each record in quarantine, none of each in bronze."""
    try:
        load_files(platform, stream, [file])
    except UnreadableFile:
        return "unreadable"
    found: dict[int, list[Reason]] = {}
    for row in read_table(platform.settings, stream.bronze_table).to_pylist():
        found[row[c.OFFSET]] = []
    for row in read_table(platform.settings, stream.quarantine_table).to_pylist():
        found[row[c.OFFSET]] = list(reasons_of(row[c.REASONS]))
    return [found[offset] for offset in sorted(found)]


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


@pytest.mark.parametrize(
    ("form", "body"),
    [
        *(pytest.param("jsonl", body, id=f"lines, {name}") for name, body in BODIES.items()),
        *(pytest.param("json", body, id=f"array, {name}") for name, body in ARRAYS.items()),
    ],
)
def test_tables_and_api_agree(
    platform: Platform, make_stream: Callable[..., Stream], tmp_path: Path, form: str, body: bytes
) -> None:
    """Number and order of records, and every reason, are those of bronze and quarantine."""
    contract_file = declared_streams()["recomart_users"].contract_file
    stream = make_stream(contract=yaml.safe_load(contract_file.read_text()))
    file = tmp_path / f"users.{form}"
    file.write_bytes(body)
    outcome = by_api(body, form, stream.contract)
    reasons = outcome if isinstance(outcome, str) else [reasons for _, reasons in outcome]
    assert reasons == in_tables(platform, stream, file)
    assert outcome == by_file(body, form, tmp_path, stream.contract)


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
