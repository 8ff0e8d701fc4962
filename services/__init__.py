"""Real servers without containers, for tests, benchmarks and machines without Docker.

Nothing of the platform is in here; the platform is pointed at the servers by variables.
"""

from services.errors import ServiceError, Unavailable, UnknownService
from services.manager import Services, Status

__all__ = ["ServiceError", "Services", "Status", "Unavailable", "UnknownService"]
