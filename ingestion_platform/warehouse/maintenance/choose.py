"""Which files are worth being rewritten together: plain decisions on sizes, nothing is read.

What is rewritten becomes at least twice as large each time, so that a row is rewritten a number of
times that grows with the logarithm of the target; and there are fewer files after it, so that it
comes to an end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ingestion_platform.contract import columns
from ingestion_platform.warehouse.datafiles import column_bounds

if TYPE_CHECKING:
    from pyiceberg.schema import Schema
    from pyiceberg.table import FileScanTask
    from pyiceberg.typedef import Record

FAN = 5
"""Fewer files than this are not worth a rewrite."""
_FLOOR = 1024 * 1024  # bytes below which files count as equal: opening them is what costs
MOST_ROWS = 1_000_000
"""Rows of a group at most, since those of files that overlap are in memory together."""
_LARGE = 0.75  # of the target, or of the most rows: large enough
_WORN_FILES = 3  # delete files upon a large file that make it worth a rewrite,
_WORN_ROWS = 0.05  # or deleted rows in proportion
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Files of one partition value, in the order of the log, that become one file."""

    spec_id: int
    partition: Record
    tasks: tuple[FileScanTask, ...]

    @property
    def bytes(self) -> int:
        """The size of the files."""
        return sum(task.file.file_size_in_bytes for task in self.tasks)


def groups(tasks: Iterable[FileScanTask], schema: Schema, target: int) -> list[Group]:
    """The groups of files to be rewritten, towards `target` bytes; none when all is fine."""
    by_partition: dict[tuple[int, Record], list[FileScanTask]] = defaultdict(list)
    for task in tasks:
        by_partition[task.file.spec_id, task.file.partition].append(task)
    return [
        Group(spec_id, partition, tuple(bin_))
        for (spec_id, partition), files in by_partition.items()
        for bin_ in _of_partition(files, schema, target)
    ]


def runs(items: Iterable[T], size: Callable[[T], int], *, fan: int, floor: int) -> list[list[T]]:
    """Groups of at least `fan` items of which none is larger than the smaller ones together."""
    found: list[list[T]] = []
    run: list[T] = []
    total = 0
    for item in sorted(items, key=size):
        if run and size(item) > max(total, floor):
            found.append(run)
            run, total = [], 0
        run.append(item)
        total += size(item)
    return [run for run in (*found, run) if len(run) >= fan]


def bounds(task: FileScanTask, schema: Schema) -> tuple[Any, Any] | None:
    """The least and the greatest (log partition, offset) that a file may hold, if it tells."""
    partition, offset = (
        column_bounds(schema, task.file, name) for name in (columns.PARTITION, columns.OFFSET)
    )
    if None in (*partition, *offset):
        return None
    nulls = task.file.null_value_counts or {}
    if nulls.get(schema.find_field(columns.PARTITION).field_id, 1):
        return None  # inserted rows have no place in a log
    return (partition[0], offset[0]), (partition[1], offset[1])


def _of_partition(
    files: Sequence[FileScanTask], schema: Schema, target: int
) -> Iterator[list[FileScanTask]]:
    small = [f for f in files if not _is_large(f, target)]
    chosen = runs((f for f in small if not f.delete_files), _size, fan=FAN, floor=_FLOOR)
    worn = [f for f in files if f.delete_files and (not _is_large(f, target) or _is_worn(f))]
    for run in [*chosen, worn]:
        for bin_ in _bins(_in_order(run, schema), target):
            if len(bin_) > 1 or bin_[0].delete_files:
                yield bin_


def _is_large(task: FileScanTask, target: int) -> bool:
    return _size(task) >= _LARGE * target or task.file.record_count >= _LARGE * MOST_ROWS


def _is_worn(task: FileScanTask) -> bool:
    deleted = sum(file.record_count for file in task.delete_files)
    return len(task.delete_files) >= _WORN_FILES or deleted >= _WORN_ROWS * task.file.record_count


def _in_order(tasks: Iterable[FileScanTask], schema: Schema) -> list[FileScanTask]:
    """By what they hold, those that do not tell last."""
    keyed = [(bounds(task, schema), task.file.file_path, task) for task in tasks]
    told = sorted((b, path, task) for b, path, task in keyed if b is not None)
    rest = sorted((path, task) for b, path, task in keyed if b is None)
    return [task for *_, task in (*told, *rest)]


def _bins(tasks: Iterable[FileScanTask], target: int) -> Iterator[list[FileScanTask]]:
    """Consecutive files up to the target; a file that is larger stands alone."""
    bin_: list[FileScanTask] = []
    filled = rows = 0
    for task in tasks:
        more = task.file.record_count
        if bin_ and (filled + _size(task) > target or rows + more > MOST_ROWS):
            yield bin_
            bin_, filled, rows = [], 0, 0
        bin_.append(task)
        filled, rows = filled + _size(task), rows + more
    if bin_:
        yield bin_


def _size(task: FileScanTask) -> int:
    return int(task.file.file_size_in_bytes)
