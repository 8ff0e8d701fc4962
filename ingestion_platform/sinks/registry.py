"""The sinks that there are. A new sink is a module with a `SINK`, and a line in SINKS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ingestion_platform.errors import SettingError

if TYPE_CHECKING:
    from ingestion_platform.settings import Settings
    from ingestion_platform.sinks.base import Target

SINKS = {
    "postgres": "ingestion_platform.sinks.postgres",
    "elasticsearch": "ingestion_platform.sinks.elasticsearch",
    "files": "ingestion_platform.sinks.files",
}
"""Modules by the name that YAML uses. They are imported when a delivery names them."""


@dataclass(frozen=True)
class Sink:
    """What a module of SINKS declares as `SINK`."""

    options: tuple[str, ...]
    """Names that a delivery may set in YAML."""
    setting: str
    """The setting that says where the sink is."""
    example: str
    """A value of that setting."""
    parse: Callable[[Mapping[str, Any], str, str], Any]
    """Return the options of a delivery, an object with a `label`: see `parse_options`."""
    configured: Callable[[Settings], bool]
    """Whether the setting is there."""
    open: Callable[[Settings, Any], Target[Any]]
    """Return the target of some options, not yet connected."""

    def parse_options(self, given: Mapping[str, Any], schema: str, table: str) -> Any:
        """Return the checked options of a delivery; schema and table are defaults for its name.

        Raises:
            ValueError: names the option, what is wrong and what to write.
        """
        if unknown := sorted(set(given) - set(self.options)):
            raise ValueError(f"{unknown[0]}: is not an option; use {', '.join(self.options)}")
        return self.parse(given, schema, table)

    def open_target(self, settings: Settings, options: Any) -> Target[Any]:
        """Return the target, not yet connected.

        Raises:
            SettingError: the settings do not say where the sink is.
        """
        if not self.configured(settings):
            problem = "is not set: nothing can be delivered"
            raise SettingError(self.setting, problem, example=self.example)
        return self.open(settings, options)


def sink(name: str) -> Sink:
    """Return a sink by its name in SINKS."""
    found: Sink = import_module(SINKS[name]).SINK
    return found
