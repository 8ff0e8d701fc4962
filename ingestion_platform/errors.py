"""What can go wrong and who can mend it; every error of the platform derives from here.

`Permanent` needs a person (a setting, a contract, a file); `Transient` passes by itself and may
be retried. Both say what happened and what to do next.
"""

from __future__ import annotations

import re

ACTION = "\n  -> "
"""What stands between message and action in the text of an error."""

TRANSIENT_CODE = "[transient]"
"""Begins the text of a Transient where only texts pass (from dbt): a code to look for."""


class PlatformError(Exception):
    """An error with a next action; `str()` gives both, the action on a line of its own."""

    def __init__(self, message: str, *, action: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.action = action

    def __str__(self) -> str:
        return f"{self.message}{ACTION}{self.action}" if self.action else self.message

    @property
    def code(self) -> str:
        """What kind of error it is, for machines: `source_unavailable`, `topic_missing`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()


class Permanent(PlatformError):
    """Trying again gives the same error until a person changes something."""


class Transient(PlatformError):
    """Trying again, `retry_after` seconds from now, may succeed."""

    def __init__(self, message: str, *, action: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, action=action)
        self.retry_after = retry_after


class SettingError(Permanent):
    """A setting has a value that cannot work; names the setting, the problem and an example."""

    def __init__(self, name: str, problem: str, *, example: str) -> None:
        super().__init__(f"setting {name}: {problem}", action=f"for example {name}={example}")
        self.name = name


class ContractError(Permanent):
    """A contract file says something the platform cannot do; names file, element, alternative."""

    def __init__(self, file: str, element: str, problem: str, *, action: str) -> None:
        super().__init__(f"{file}: {element}: {problem}", action=action)
        self.file = file
        self.element = element


class UnknownStream(Permanent):
    """No stream of that name is declared."""


class NoTopic(Permanent):
    """A record was to be sent to a stream that takes files only."""


class SourceUnavailable(Transient):
    """The log (Kafka, the embedded broker) does not answer or lacks the topic."""


class TopicMissing(SourceUnavailable):
    """The brokers answer, and have no topic of that name."""


class StoreUnavailable(Transient):
    """The object store does not answer, or refuses."""


class CatalogUnavailable(Transient):
    """The Iceberg catalog does not answer."""


class TableUnreadable(Permanent):
    """The catalog has a table whose metadata cannot be read."""


class EngineUnavailable(Transient):
    """The engine beside the embedded one (Trino) does not answer."""


class SinkUnavailable(Transient):
    """The store that something is delivered to does not answer."""


class Unexpected(Permanent):
    """An error that is none of the platform's own: its cause is a mistake to be reported."""


class WriteConflict(Transient):
    """Somebody else processed the same records first; read the positions again and go on."""
