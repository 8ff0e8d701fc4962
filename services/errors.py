"""What can go wrong with a server, each error naming service, file and next action.

Deciding what to do about an error is the caller's business.
"""

from pathlib import Path


class ServiceError(Exception):
    """A server could not be installed, started, reached or ended."""

    def __init__(
        self,
        service: str,
        problem: str,
        next_action: str,
        *,
        file: Path | None = None,
        detail: str = "",
    ) -> None:
        """Keep the parts; `detail` holds the last lines that the server or installer wrote."""
        self.service = service
        self.problem = problem
        self.next_action = next_action
        self.file = file
        self.detail = detail
        where = f" (see {file})" if file else ""
        text = f"{service}: {problem}{where}; next: {next_action}"
        super().__init__(f"{text}\n{detail}" if detail else text)


class Unavailable(ServiceError):
    """This machine lacks something that the service needs; nothing was started."""

    def __init__(self, service: str, missing: str, next_action: str) -> None:
        """Name what is `missing` and how to get it."""
        self.missing = missing
        super().__init__(service, f"{missing} is missing on this machine", next_action)


class UnknownService(ServiceError, ValueError):
    """No service of that name is registered."""
