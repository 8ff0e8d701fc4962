"""Validate the records of requests in batches, by the validator of bronze.

A call has a fixed cost, so the records of all requests that wait are validated together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.contract.model import Contract
from ingestion_platform.contract.reasons import Reason, reasons_of

_BATCH = 5000  # records of a call, unless a single request has more


class ValidationResult(NamedTuple):
    """The result for a record, which is valid if there are no reasons against it."""

    reasons: tuple[Reason, ...] = ()


class BatchValidator:
    """Validates the records of all requests to a stream. For one event loop."""

    def __init__(self, contract: Contract, executor: Executor) -> None:
        self._contract = contract
        self._executor = executor
        self._waiting: list[tuple[Sequence[bytes], asyncio.Future[list[ValidationResult]]]] = []
        self._work: asyncio.Task[None] | None = None

    async def validate(self, values: Sequence[bytes]) -> list[ValidationResult]:
        """Validate records; return a result for each, in order."""
        if not values:
            return []
        future: asyncio.Future[list[ValidationResult]] = asyncio.get_running_loop().create_future()
        self._waiting.append((values, future))
        if self._work is None:
            self._work = asyncio.create_task(self._validate_waiting())
        return await future

    async def _validate_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._next_batch()
            records = [value for values, _ in batch for value in values]
            try:
                results = await loop.run_in_executor(self._executor, self._results, records)
            except Exception as error:  # raise it in every request of the batch
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            start = 0
            for values, future in batch:
                if not future.done():
                    future.set_result(results[start : start + len(values)])
                start += len(values)
        self._work = None

    def _next_batch(self) -> list[tuple[Sequence[bytes], asyncio.Future[list[ValidationResult]]]]:
        """Remove and return the waiting requests that one call validates."""
        count, records = 1, len(self._waiting[0][0])
        for values, _ in self._waiting[1:]:
            records += len(values)
            if records > _BATCH:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    @cached_property
    def _validator(self) -> Validator:
        return Validator(self._contract)

    def _results(self, values: list[bytes]) -> list[ValidationResult]:
        parsed = self._validator.parse(pa.array(values, pa.binary()))
        results = [ValidationResult()] * len(values)
        rejected = zip(parsed.rejected.to_pylist(), parsed.reasons.to_pylist(), strict=True)
        for place, reasons in rejected:
            results[place] = ValidationResult(reasons_of(reasons))
        return results
