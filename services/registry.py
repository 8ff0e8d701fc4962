"""The services that can be started, by name; a new one is a module and a line here.

How they are started and ended is the manager's business.
"""

from services.elasticsearch import Elasticsearch
from services.kafka import Kafka
from services.minio import Minio
from services.postgres import Postgres
from services.prometheus import Prometheus
from services.service import Service
from services.trino import Trino

_KINDS = (Elasticsearch, Kafka, Minio, Postgres, Prometheus, Trino)
REGISTRY: dict[str, type[Service]] = {kind.name: kind for kind in _KINDS}
DEFAULT = ("kafka", "minio", "postgres")
