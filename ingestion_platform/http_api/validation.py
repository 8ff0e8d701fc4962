"""Validating records by the contract that bronze uses, so that what the API accepts, bronze
accepts.

Validating has a fixed cost per call: requests that wait meanwhile are validated together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa

from ingestion_platform.bronze.load import SegmentValidator as Bronze
from ingestion_platform.contract.model import Contract
from ingestion_platform.contract.reasons import Reason, reasons_of

_TOGETHER = 5000  # records validated by one call, unless a single request has more


class ValidationResult(NamedTuple):
    """What the contract says of a record: no reasons, no objection."""

    reasons: tuple[Reason, ...] = ()


class BatchValidator:
    """A contract that validates the records of all requests to its stream. For one event loop."""

    def __init__(self, contract: Contract, executor: Executor) -> None:
        self._contract = contract
        self._executor = executor
        self._waiting: list[tuple[Sequence[bytes], asyncio.Future[list[ValidationResult]]]] = []
        self._work: asyncio.Task[None] | None = None

    async def validate(self, values: Sequence[bytes]) -> list[ValidationResult]:
        """The results on records, in their order."""
        if not values:
            return []
        future: asyncio.Future[list[ValidationResult]] = asyncio.get_running_loop().create_future()
        self._waiting.append((values, future))
        if self._work is None:
            self._work = asyncio.create_task(self._work_off())
        return await future

    async def _work_off(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = self._take()
            every = [value for values, _ in taken for value in values]
            try:
                validations = await loop.run_in_executor(self._executor, self._results, every)
            except Exception as error:  # each request that waits has to hear of it
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                continue
            start = 0
            for values, future in taken:
                if not future.done():
                    future.set_result(validations[start : start + len(values)])
                start += len(values)
        self._work = None

    def _take(self) -> list[tuple[Sequence[bytes], asyncio.Future[list[ValidationResult]]]]:
        """The requests that are validated by the next call."""
        count, records = 1, len(self._waiting[0][0])
        for values, _ in self._waiting[1:]:
            records += len(values)
            if records > _TOGETHER:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    @cached_property
    def _bronze(self) -> Bronze:
        return Bronze(self._contract)

    def _results(self, values: list[bytes]) -> list[ValidationResult]:
        parsed = self._bronze.parse(pa.array(values, pa.binary()), "json")
        validations = [ValidationResult()] * len(values)
        rejected = zip(parsed.rejected.to_pylist(), parsed.reasons.to_pylist(), strict=True)
        for place, reasons in rejected:
            validations[place] = ValidationResult(reasons_of(reasons))
        return validations
