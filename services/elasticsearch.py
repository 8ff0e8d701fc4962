"""Elasticsearch: one node without security, from the distribution that its own tests use.

That one has no plugins and no `GET /`; indices are the platform's business.
"""

import logging
import os
import re
import shutil
from pathlib import Path

from services.accounts import account, give, open_to_all, reachable_folder
from services.files import cached
from services.java import java, unpack
from services.net import LOOPBACK, http_ok
from services.processes import Identity
from services.service import Service

logger = logging.getLogger(__name__)

_ELASTICSEARCH = "9.2.0"
_JAVA = 21
_ARTIFACT = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{_ELASTICSEARCH}:zip"

# A disk that is nearly full is no reason to refuse the few documents of a test.
_CONFIG = """cluster.name: ingestion
discovery.type: single-node
network.host: {host}
http.port: {http}
transport.port: {transport}
path.data: {folder}/data
path.logs: {folder}/logs
xpack.security.enabled: false
cluster.routing.allocation.disk.threshold_enabled: false
"""

_JVM = """-Xms{heap}
-Xmx{heap}
-XX:+UseSerialGC
-XX:+ExitOnOutOfMemoryError
-Djava.io.tmpdir=${{ES_TMPDIR}}
20-:--add-modules=jdk.incubator.vector
"""

_LOGGING = """status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %-5p %c{1.}: %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


class Elasticsearch(Service):
    """One node; its heap is SERVICES_ELASTICSEARCH_HEAP (default 512m). It refuses to be root."""

    name = "elasticsearch"
    port_names = ("http", "transport")
    start_timeout_s = 240  # a busy machine takes its time to load it

    def install(self) -> None:
        """Unpack it into the cache; Unavailable without Java 21 or, the first time, mvn."""
        java(self.name, _JAVA)
        _home()

    def start(self) -> Identity:
        """Write the configuration and start the node; ServiceError for a malformed heap."""
        heap = os.environ.get("SERVICES_ELASTICSEARCH_HEAP", "512m")
        if not re.fullmatch(r"\d+[kmgKMG]?", heap):
            raise self.error(
                f"SERVICES_ELASTICSEARCH_HEAP={heap!r} is not a size",
                "set it to a size such as 512m",
            )
        place = reachable_folder(self.folder, self.record, self.name, "node")
        self._write_configuration(place, heap)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("ES_", "JAVA_"))}
        environment |= {
            "ES_JAVA_HOME": str(Path(java(self.name, _JAVA)).resolve().parents[1]),
            "ES_PATH_CONF": str(place / "config"),
            "ES_TMPDIR": str(place / "tmp"),
            "CLI_JAVA_OPTS": "-Xmx64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
            "HOME": str(place),
        }
        program = _program(place) / "bin" / "elasticsearch"
        return self.spawn([str(program)], env=environment, folder=place, user=account())

    def ready(self) -> bool:
        """Say whether the node has a master and its indices can be searched and written."""
        return http_ok(
            self.record.ports["http"], "/_cluster/health?wait_for_status=yellow&timeout=1s"
        )

    def settings(self, running: frozenset[str]) -> dict[str, str]:
        """Return its address."""
        return {"ELASTICSEARCH_URL": f"http://{LOOPBACK}:{self.record.ports['http']}"}

    def _write_configuration(self, place: Path, heap: str) -> None:
        files = {
            "elasticsearch.yml": _CONFIG.format(host=LOOPBACK, folder=place, **self.record.ports),
            "jvm.options": _JVM.format(heap=heap),
            "log4j2.properties": _LOGGING,
        }
        for name in ("config", "config/jvm.options.d", "data", "logs", "tmp"):
            (place / name).mkdir(exist_ok=True)
            give(place / name, account())
        for name, text in files.items():
            (place / "config" / name).write_text(text, encoding="utf-8")
            give(place / "config" / name, account())


def _program(place: Path) -> Path:
    """The unpacked distribution: the cached one, or where the account cannot get to it, links."""
    home = _home()
    if account() is None or open_to_all(home):
        return home
    program = place / "program"
    if not program.is_dir():
        aside = place / "unfinished"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(home, aside, copy_function=_segment)
        aside.rename(program)
    return program


def _segment(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _home() -> Path:
    return cached(f"elasticsearch-{_ELASTICSEARCH}", _unpack) / f"elasticsearch-{_ELASTICSEARCH}"


def _unpack(target: Path) -> None:
    logger.info("elasticsearch: fetching %s, this once", _ELASTICSEARCH)
    unpack(Elasticsearch.name, _ARTIFACT, target)
    programs = target / f"elasticsearch-{_ELASTICSEARCH}" / "bin"
    for program in programs.iterdir():
        program.chmod(0o755)
