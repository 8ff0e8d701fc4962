"""Reasons of rejected records as texts, for comparing them with what is expected."""

from __future__ import annotations

from typing import Any

from ingestion_platform.contract.reasons import reasons_of


def reason_texts(column: Any) -> list[list[str]]:
    """Return the reasons of each record of a column of reasons, as lines of text."""
    return [cell_texts(cell) for cell in column.to_pylist()]


def cell_texts(cell: list[dict[str, Any]] | None) -> list[str]:
    """Return the reasons against one record, as lines of text."""
    return [str(reason) for reason in reasons_of(cell)]
