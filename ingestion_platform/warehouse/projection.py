"""A mend of PyIceberg's reading, so that null lists of objects are read as null.

Its projection (version 0.12, to which the platform is pinned) makes empty lists of them: what was
never sent would look like something, and a rewritten file would say so for good.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.types import ListType


@cache
def keep_null_lists() -> None:
    """Mend it for this process."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyiceberg.io.pyarrow import ArrowProjectionVisitor

    project = ArrowProjectionVisitor.list

    def project_with_nulls(
        self: ArrowProjectionVisitor,
        list_type: ListType,
        list_array: pa.Array | None,
        value_array: pa.Array | None,
    ) -> pa.Array | None:
        projected = project(self, list_type, list_array, value_array)
        if projected is None or list_array is None or projected.null_count == list_array.null_count:
            return projected
        return pc.if_else(list_array.is_valid(), projected, pa.scalar(None, projected.type))

    ArrowProjectionVisitor.list = project_with_nulls
