"""Records that the engine complains about in words of which a character is cut in two."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.streams import declared_streams
from tests.support.reasons import reason_texts

GOOD = {"user_id": 1, "age": 30, "gender": "F", "device": "Tablet"}


@pytest.mark.parametrize("length", range(60))
def test_a_record_of_wide_characters_is_validated_like_any_other(length: int) -> None:
    """Wherever the engine's message ends, the record alone is rejected, with the true reason."""
    wide = {
        "€" * length + "𗧖" * 40: [None, "𗧖" * 40],
        "device": "Tablet",
        "age": 5,
        "gender": "F",
    }
    values = [json.dumps(v, ensure_ascii=a).encode() for v in (GOOD, wide) for a in (True, False)]
    parsed = Validator(declared_streams()["recomart_users"].contract).parse(
        pa.array(values, pa.binary())
    )
    assert sorted(parsed.valid.to_pylist()) == [0, 1]
    assert reason_texts(parsed.reasons) == [["user_id: is required, but missing or null"]] * 2
