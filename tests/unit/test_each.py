"""One thing done for several items: each has its result or its error."""

from __future__ import annotations

import pytest

from ingestion_platform.each import for_each, results
from ingestion_platform.errors import StoreUnavailable, Unexpected


def halved(number: int) -> int:
    """Half of an even number."""
    if number == 3:
        raise StoreUnavailable("the store is away", action="wait")
    if number % 2:
        raise LookupError("unknown")
    return number // 2


@pytest.mark.parametrize("at_once", [1, 4])
def test_errors_stay_with_their_items(at_once: int) -> None:
    """In the order of the items; a foreign error becomes the platform's, with its cause."""
    found = list(for_each(halved, [2, 3, 4, 5], at_once=at_once))
    assert [of.item for of in found] == [2, 3, 4, 5]
    assert [of.found for of in found] == [1, None, 2, None]
    assert [of.error and of.error.code for of in found] == [
        None,
        "store_unavailable",
        None,
        "unexpected",
    ]
    assert isinstance(found[3].error, Unexpected)
    assert isinstance(found[3].error.__cause__, LookupError)
    assert results(found) == [1, 2]
    with pytest.raises(StoreUnavailable):
        _ = found[1].result
