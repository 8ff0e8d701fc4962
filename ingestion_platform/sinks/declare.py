"""Deliveries as declared: `deliver:` of streams and of models, with the sinks that there are.

A new sink is a module like `postgres`, and a line in SINKS.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestion_platform.each import Attempt, for_each, results
from ingestion_platform.errors import ContractError, UnknownStream
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
    from ingestion_platform.sinks.interface import Target

SINKS = {
    "postgres": "ingestion_platform.sinks.postgres",
    "elasticsearch": "ingestion_platform.sinks.elasticsearch",
    "files": "ingestion_platform.sinks.files",
}
"""Name in YAML and module. A module has `options`, `label`, `configured` and `open_target`."""

COMPONENT = "ingestion_platform.orchestration.Delivery"
"""The `type` of a YAML document that delivers a model."""


@dataclass(frozen=True)
class Delivery:
    """A source that is kept equal in a target: a stream's bronze table, or a dbt model's."""

    sink: str
    label: str
    """Of the target within its sink."""
    options: Any
    """What the sink's own `options` made of the YAML."""
    table: str
    """The table that is delivered, as namespace.name."""
    domain: str
    key: tuple[str, ...]
    """The columns that tell rows apart; empty when only their place in the log does."""
    stream: Stream | None = None
    """The stream whose bronze table it is; None for a model."""

    @property
    def name(self) -> str:
        """What it is called: `postgres/shop.users`."""
        return f"{self.sink}/{self.label}"

    @property
    def source(self) -> str:
        """The stream, or the model's table."""
        return self.table if self.stream is None else self.stream.name

    def configured(self, settings: Settings) -> bool:
        """Whether the settings tell where the sink is."""
        return bool(_module(self.sink).configured(settings))

    def open(self, settings: Settings) -> Target:
        """The target, not yet connected.

        Raises:
            SettingError: the settings do not tell where the sink is.
        """
        target: Target = _module(self.sink).open_target(settings, self.options)
        return target


def stream_deliveries(stream: Stream) -> list[Delivery]:
    """The deliveries of a stream's bronze table.

    Raises:
        ContractError: a destination is wrong; says which, and how.
    """
    if not stream.deliver:
        return []  # without a look into the contract
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
    """The deliveries of a model, from the attributes of its YAML document in `folder`.

    Raises:
        ContractError: an attribute is missing or wrong; names it.
    """
    file = str(folder / "defs.yaml")
    known = {"model", "key", "deliver"}
    for unknown in sorted(set(attributes) - known):
        raise ContractError(
            file, unknown, "is not an attribute of a delivery", action=f"use {sorted(known)}"
        )
    model, key = attributes.get("model"), attributes.get("key")
    if not isinstance(model, str) or model.count(".") != 1:
        raise ContractError(
            file, "model", "names no table", action="for example `model: silver.shop_users`"
        )
    key = [key] if isinstance(key, str) else key
    if not (isinstance(key, list) and key and all(isinstance(name, str) for name in key)):
        action = "name the model's unique key, for example `key: [user_id]`"
        raise ContractError(file, f"model {model}, key", "is missing or no list", action=action)
    domain = domain_of(folder)
    where = destinations(attributes.get("deliver"), file, f"model {model}")
    if not where:
        raise ContractError(
            file, f"model {model}", "is delivered nowhere", action="add `deliver: [postgres: {}]`"
        )
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
                    f"is, or is mixed up with, {other.name}, the target of {other.source}",
                    action="give each a target of its own",
                )
        found[of.name] = of
    return found, [of for of in attempts if of.error is not None]


def declared_deliveries(*roots: Path) -> dict[str, Delivery]:
    """All deliveries that these folders declare, by name; see `readable_deliveries`.

    Raises:
        ContractError: one is wrong, or two have the same target.
    """
    found, unreadable = readable_deliveries(*roots)
    for of in unreadable:
        _ = of.result
    return found


def _same_target(one: Delivery, other: Delivery) -> bool:
    """Whether two targets are one to a server or a file system, or lie within each other."""
    if one.sink != other.sink:
        return False
    a, b = (f"{each.label.casefold()}/" for each in (one, other))
    return a.startswith(b) or b.startswith(a)


def select(deliveries: Mapping[str, Delivery], names: Iterable[str]) -> list[Delivery]:
    """The deliveries of some streams or models, or those of these very names.

    Raises:
        UnknownStream: nothing of a name is delivered; lists what is.
    """
    chosen: dict[str, Delivery] = {}
    for name in names:
        of = [each for each in deliveries.values() if name in (each.source, each.name)]
        if not of:
            there = dict.fromkeys(each.source for each in deliveries.values())
            raise UnknownStream(
                f"{name} is not delivered anywhere",
                action=f"use one of: {', '.join(there)}; or declare `deliver:` in its defs.yaml",
            )
        chosen |= {each.name: each for each in of}
    return list(chosen.values())


def models_of(root: Path) -> Iterator[Delivery]:
    """The deliveries of models that a folder of domains declares; raises as `model_deliveries`."""
    for file in definition_files(root):
        for attributes in documents(file, COMPONENT):
            yield from model_deliveries(attributes, file.parent)


def _delivery(where: Destination, file: str, said: str, **of: Any) -> Delivery:
    if where.sink not in SINKS:
        raise ContractError(
            file,
            f"{said}, deliver",
            f"there is no sink {where.sink!r}",
            action=f"use one of: {', '.join(SINKS)}",
        )
    module = _module(where.sink)
    default_table = of["table"].rpartition(".")[2]
    try:
        options = module.options(where.options, of["domain"], default_table)
    except ValueError as error:
        raise ContractError(
            file, f"{said}, deliver, {where.sink}", str(error), action="correct it there"
        ) from None
    return Delivery(sink=where.sink, label=module.label(options), options=options, **of)


def _module(sink: str) -> Any:
    return import_module(SINKS[sink])
