"""One input of a format and what becomes of it; tests run such cases, docs/formats.md shows them.

Lists of cases are modules beside this one, each with a tuple `CASES`; the tests that run them are
elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["read", "rejected", "refused"]
"""`read`: rows or values are stored. `rejected`: the record goes to quarantine, others are read.
`refused`: the whole file or request is refused, nothing of it is stored."""


@dataclass(frozen=True, slots=True)
class FormatCase:
    """An input, its outcome, and the stored value or the reason given.

    `section` is the heading of the page under which the case appears, `setting` the declaration
    (in the contract or below `files:`) that the case needs, or that the message recommends.
    `shown` is what the page has in place of an input that is no text, or long.
    """

    section: str
    title: str
    given: bytes
    outcome: Outcome
    result: str
    setting: str = ""
    shown: str = ""
