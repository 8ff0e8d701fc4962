"""Choose which files to compact together, by their sizes; nothing is read.

Each rewrite at least doubles the size of a file, so a row is rewritten a number of times that grows
with the logarithm of the target. It leaves fewer files, so compaction ends.
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
"""Minimum number of files for a rewrite."""
_FLOOR = 1024 * 1024  # smaller files cost the same: opening them dominates
MOST_ROWS = 1_000_000
"""Maximum rows of a group: files that overlap are in memory together."""
_LARGE = 0.75  # of the target, or of MOST_ROWS: not compacted
_WORN_FILES = 3  # delete files of a large file that justify a rewrite,
_WORN_ROWS = 0.05  # or the share of its deleted rows
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Files of one partition, in log order, to be rewritten as one file."""

    spec_id: int
    partition: Record
    tasks: tuple[FileScanTask, ...]

    @property
    def bytes(self) -> int:
        """The size of the files in bytes."""
        return sum(task.file.file_size_in_bytes for task in self.tasks)


def groups(tasks: Iterable[FileScanTask], schema: Schema, target: int) -> list[Group]:
    """Return the groups of files to rewrite, each of about `target` bytes."""
    by_partition: dict[tuple[int, Record], list[FileScanTask]] = defaultdict(list)
    for task in tasks:
        by_partition[task.file.spec_id, task.file.partition].append(task)
    return [
        Group(spec_id, partition, tuple(bin_))
        for (spec_id, partition), files in by_partition.items()
        for bin_ in _of_partition(files, schema, target)
    ]


def runs(items: Iterable[T], size: Callable[[T], int], *, fan: int, floor: int) -> list[list[T]]:
    """Group items, at least `fan` each; none is larger than the sum of the smaller ones."""
    complete: list[list[T]] = []
    run: list[T] = []
    total = 0
    for item in sorted(items, key=size):
        if run and size(item) > max(total, floor):
            complete.append(run)
            run, total = [], 0
        run.append(item)
        total += size(item)
    return [run for run in (*complete, run) if len(run) >= fan]


def bounds(task: FileScanTask, schema: Schema) -> tuple[Any, Any] | None:
    """Return the lowest and highest (log partition, offset) of a file; None if unknown."""
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
    """Sort by (log partition, offset), files with unknown bounds last."""
    keyed = [(bounds(task, schema), task.file.file_path, task) for task in tasks]
    known = sorted((b, path, task) for b, path, task in keyed if b is not None)
    rest = sorted((path, task) for b, path, task in keyed if b is None)
    return [task for *_, task in (*known, *rest)]


def _bins(tasks: Iterable[FileScanTask], target: int) -> Iterator[list[FileScanTask]]:
    """Yield consecutive files of up to the target size; a larger file is alone."""
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
