"""Upper bounds of texts: never below the text, and never a text that cannot be stored."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.settings import Settings
from ingestion_platform.warehouse.bounds import upper_bound
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.datafiles import write_data_files


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("ab", "ab"),
        ("abc", "abc"),
        ("abcd", "abd"),
        ("ab\ud7ffd", "ab\ue000"),
        ("ab\U0010ffffd", "ac"),
        ("\U0010ffff" * 4, None),
    ],
)
def test_upper_bound_is_the_next_text(text: str, bound: str | None) -> None:
    """Of three characters; None where no such text is above."""
    assert upper_bound(text, 3) == bound


@given(st.text(st.characters(codec="utf-8")), st.integers(1, 20))
def test_upper_bound_is_encodable_and_above(text: str, length: int) -> None:
    """Readers compare it as UTF-8 bytes, which order texts like their characters."""
    bound = upper_bound(text, length)
    assert bound is None or bound.encode() >= text.encode()


def test_text_before_the_surrogates_is_written(local_settings: Settings) -> None:
    """As the largest value of a file, with U+D7FF where the bound ends."""
    rows = pa.table({"text": ["x" * 15 + "\ud7ff" + "y"]})
    catalog = open_catalog(local_settings)
    catalog.create_namespace("bronze")
    table = catalog.create_table("bronze.texts", schema=rows.schema)
    (file,) = write_data_files(table, rows)
    assert file.upper_bounds[1].decode() == "x" * 15 + "\ue000"
