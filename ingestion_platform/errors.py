"""Base classes of all errors of the platform.

A `Permanent` error needs a person to change something (a setting, a contract, a file). A
`Transient` error can be retried. Both carry a message (what happened) and an action (what to do
next).
"""

from __future__ import annotations

import re

ACTION = "\n  -> "
"""Separates message and action in the text of an error."""

TRANSIENT_CODE = "[transient]"
"""Prefix that marks a Transient where only text is passed on, as from dbt."""


class PlatformError(Exception):
    """An error with a next action; `str()` returns both, the action on its own line."""

    def __init__(self, message: str, *, action: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.action = action

    def __str__(self) -> str:
        return f"{self.message}{ACTION}{self.action}" if self.action else self.message

    @property
    def code(self) -> str:
        """The error code: the class name in snake case, such as `source_unavailable`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()


class Permanent(PlatformError):
    """An error that a retry repeats until a person changes something."""


class Transient(PlatformError):
    """An error after which a retry, in `retry_after` seconds, may succeed."""

    def __init__(self, message: str, *, action: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, action=action)
        self.retry_after = retry_after


class SettingError(Permanent):
    """A setting has an invalid value; the message names the setting, the problem and an example."""

    def __init__(self, name: str, problem: str, *, example: str) -> None:
        super().__init__(f"setting {name}: {problem}", action=f"for example {name}={example}")
        self.name = name


class ContractError(Permanent):
    """A contract is invalid or unsupported; the message names the file, element and alternative."""

    def __init__(self, file: str, element: str, problem: str, *, action: str) -> None:
        super().__init__(f"{file}: {element}: {problem}", action=action)
        self.file = file
        self.element = element


class UnknownStream(Permanent):
    """No stream of that name is declared."""


class NoTopic(Permanent):
    """A record cannot be sent to a stream without a topic (a stream of files only)."""


class SourceUnavailable(Transient):
    """The log (Kafka, the embedded broker) does not answer or lacks the topic."""


class TopicMissing(SourceUnavailable):
    """The brokers answer but have no topic of that name."""


class StoreUnavailable(Transient):
    """The object store does not answer, or rejects the request."""


class CatalogUnavailable(Transient):
    """The Iceberg catalog does not answer."""


class TableUnreadable(Permanent):
    """The catalog has a table whose metadata cannot be read."""


class EngineUnavailable(Transient):
    """The external query engine (Trino) does not answer."""


class SinkUnavailable(Transient):
    """The server of a delivery's sink does not answer."""


class Unexpected(Permanent):
    """An error of another library or a bug: its cause should be reported."""


class WriteConflict(Transient):
    """Another writer processed the same records first; read the positions again and continue."""
