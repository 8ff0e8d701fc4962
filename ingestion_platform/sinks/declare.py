"""Deliveries that YAML declares: `deliver:` of streams and of models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestion_platform.each import Attempt, for_each, results
from ingestion_platform.errors import ContractError, UnknownStream
from ingestion_platform.sinks.registry import SINKS, sink
from ingestion_platform.streams import (
    Destination,
    Stream,
    declared_streams,
    definition_files,
    destinations,
    documents,
    domain_of,
    folders,
)

if TYPE_CHECKING:
    from ingestion_platform.settings import Settings
    from ingestion_platform.sinks.base import Target

COMPONENT = "ingestion_platform.orchestration.Delivery"
"""The `type` of a YAML document that delivers a model."""


@dataclass(frozen=True)
class Delivery:
    """A bronze table or a dbt model, and a target that is kept equal to it."""

    sink: str
    options: Any
    """Checked options of the sink."""
    table: str
    """The delivered table, as namespace.name."""
    domain: str
    key: tuple[str, ...]
    """Columns of the key; empty when rows are told apart by their place in the log."""
    stream: Stream | None = None
    """The stream of the bronze table; None for a model."""

    @property
    def label(self) -> str:
        """Name of the target within its sink."""
        return str(self.options.label)

    @property
    def name(self) -> str:
        """Name of the delivery: `postgres/shop.users`."""
        return f"{self.sink}/{self.label}"

    @property
    def source(self) -> str:
        """Name of the stream, or the model's table."""
        return self.table if self.stream is None else self.stream.name

    def configured(self, settings: Settings) -> bool:
        """Return whether the settings say where the sink is."""
        return sink(self.sink).configured(settings)

    def open(self, settings: Settings) -> Target[Any]:
        """Return the target, not yet connected.

        Raises:
            SettingError: the settings do not say where the sink is.
        """
        return sink(self.sink).open_target(settings, self.options)


def stream_deliveries(stream: Stream) -> list[Delivery]:
    """Return the deliveries of a stream's bronze table.

    Raises:
        ContractError: a destination is wrong; names it.
    """
    if not stream.deliver:
        return []  # without reading the contract
    file = str(stream.contract_file.parent / "defs.yaml")
    contract = stream.contract
    return [
        _delivery(
            where,
            file,
            f"stream {stream.name}",
            table=stream.bronze_table,
            domain=stream.domain,
            key=contract.primary_key,
            stream=stream,
        )
        for where in stream.deliver
    ]


def model_deliveries(attributes: Mapping[str, Any], folder: Path) -> list[Delivery]:
    """Return the deliveries of a model, from the attributes of its YAML document in `folder`.

    Raises:
        ContractError: an attribute is missing or wrong; names it.
    """
    file = str(folder / "defs.yaml")
    model, key = attributes.get("model"), attributes.get("key")
    known = {"model", "key", "deliver"}
    for unknown in sorted(set(attributes) - known):
        problem, action = "is not an attribute of a delivery", f"use {sorted(known)}"
        raise ContractError(file, unknown, problem, action=action)
    if not isinstance(model, str) or model.count(".") != 1:
        action = "for example `model: silver.shop_users`"
        raise ContractError(file, "model", "does not name a table", action=action)
    key = [key] if isinstance(key, str) else key
    if not (isinstance(key, list) and key and all(isinstance(name, str) for name in key)):
        action = "name the model's unique key, for example `key: [user_id]`"
        raise ContractError(file, f"model {model}, key", "is missing or not a list", action=action)
    domain = domain_of(folder)
    where = destinations(attributes.get("deliver"), file, f"model {model}")
    if not where:
        action = "add `deliver: [postgres: {}]`"
        raise ContractError(file, f"model {model}", "has no destination", action=action)
    return [
        _delivery(each, file, f"model {model}", table=model, domain=domain, key=tuple(key))
        for each in where
    ]


def readable_deliveries(
    *roots: Path,
) -> tuple[dict[str, Delivery], list[Attempt[Stream, list[Delivery]]]]:
    """Return the deliveries that can be read, by name, and the streams whose deliveries cannot.

    The folders are the platform's own and PLATFORM_DOMAINS by default.

    Raises:
        ContractError: a model's delivery is wrong, or two deliveries have the same target.
    """
    found: dict[str, Delivery] = {}
    attempts = list(for_each(stream_deliveries, declared_streams(*roots).values()))
    deliveries = [of for some in results(attempts) for of in some]
    deliveries += [of for root in roots or folders() for of in models_of(root)]
    for of in deliveries:
        for other in found.values():
            if _same_target(of, other):
                raise ContractError(
                    f"{of.domain}/defs.yaml",
                    f"deliver, {of.name}",
                    f"is the same target as, or nested with, {other.name} of {other.source}",
                    action="give each a target of its own",
                )
        found[of.name] = of
    return found, [of for of in attempts if of.error is not None]


def declared_deliveries(*roots: Path) -> dict[str, Delivery]:
    """Return all deliveries that these folders declare, by name; see `readable_deliveries`.

    Raises:
        ContractError: one is wrong, or two have the same target.
    """
    found, unreadable = readable_deliveries(*roots)
    for of in unreadable:
        _ = of.result
    return found


def _same_target(one: Delivery, other: Delivery) -> bool:
    """Return whether a server or file system may not tell two targets apart, or nests them."""
    if one.sink != other.sink:
        return False
    a, b = (f"{each.label.casefold()}/" for each in (one, other))
    return a.startswith(b) or b.startswith(a)


def select(deliveries: Mapping[str, Delivery], names: Iterable[str]) -> list[Delivery]:
    """Return the deliveries of streams, of models, or by their own names.

    Raises:
        UnknownStream: a name has no delivery; lists those that have.
    """
    chosen: dict[str, Delivery] = {}
    for name in names:
        of = [each for each in deliveries.values() if name in (each.source, each.name)]
        if not of:
            there = dict.fromkeys(each.source for each in deliveries.values())
            raise UnknownStream(
                f"{name} has no delivery",
                action=f"use one of: {', '.join(there)}; or declare `deliver:` in its defs.yaml",
            )
        chosen |= {each.name: each for each in of}
    return list(chosen.values())


def models_of(root: Path) -> Iterator[Delivery]:
    """Yield the deliveries of models in a folder of domains; raises as `model_deliveries`."""
    for file in definition_files(root):
        for attributes in documents(file, COMPONENT):
            yield from model_deliveries(attributes, file.parent)


def _delivery(where: Destination, file: str, owner: str, **of: Any) -> Delivery:
    if where.sink not in SINKS:
        raise ContractError(
            file,
            f"{owner}, deliver",
            f"{where.sink!r} is not a sink",
            action=f"use one of: {', '.join(SINKS)}",
        )
    default_table = of["table"].rpartition(".")[2]
    try:
        options = sink(where.sink).parse_options(where.options, of["domain"], default_table)
    except ValueError as error:
        raise ContractError(
            file, f"{owner}, deliver, {where.sink}", str(error), action="correct it there"
        ) from None
    return Delivery(sink=where.sink, options=options, **of)
