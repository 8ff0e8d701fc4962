"""Prometheus: one server that scrapes the platform and evaluates its rules, and promtool.

What is scraped, and what the rules say, is the platform's business (`monitoring/prometheus`).
"""

import json
import logging
import os
import shutil
from pathlib import Path

from services.errors import ServiceError, Unavailable
from services.files import cached
from services.net import LOOPBACK, http_ok
from services.processes import Identity
from services.service import Service, run_tool

logger = logging.getLogger(__name__)

_PROGRAMS = ("prometheus", "promtool")
_RULES = Path(__file__).parents[1] / "monitoring" / "prometheus" / "rules" / "*.yml"
_ACTION = "install Prometheus and put `prometheus` and `promtool` on PATH"


class Prometheus(Service):
    """One Prometheus server with the platform's rules.

    It scrapes PROMETHEUS_TARGET (127.0.0.1:9464, where `ingest metrics` answers) each
    PROMETHEUS_INTERVAL (5s), as they were when it started.
    """

    name = "prometheus"
    port_names = ("http",)

    def install(self) -> None:
        """Find installed programs, or unpack Debian's package into the cache; nothing is installed.

        Raises Unavailable when there is neither a server nor a way to get one.
        """
        program("prometheus")

    def start(self) -> Identity:
        """Write the configuration and start the server on its data folder."""
        target = os.environ.get("PROMETHEUS_TARGET", f"{LOOPBACK}:9464")
        interval = os.environ.get("PROMETHEUS_INTERVAL", "5s")
        # JSON is YAML.
        (self.folder / "prometheus.yml").write_text(json.dumps(_config(target, interval), indent=2))
        options = {
            "config.file": "prometheus.yml",
            "storage.tsdb.path": "data",
            "web.listen-address": f"{LOOPBACK}:{self.record.ports['http']}",
        }
        argv = [
            str(program("prometheus")),
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        return self.spawn(argv)

    def ready(self) -> bool:
        """Say whether the server reports itself ready to be asked."""
        return http_ok(self.record.ports["http"], "/-/ready")

    def settings(self, running: frozenset[str]) -> dict[str, str]:
        """Return where it answers."""
        return {"PROMETHEUS_URL": f"http://{LOOPBACK}:{self.record.ports['http']}"}


def program(name: str) -> Path:
    """The `prometheus` or `promtool` to run: that on PATH, or Debian's from the cache.

    Raises Unavailable when there is neither, nor apt-get to fetch it with.
    """
    on_path = shutil.which(name)
    if on_path is not None and all(map(shutil.which, _PROGRAMS)):
        return Path(on_path)
    return cached("prometheus-debian", _unpack) / "usr" / "bin" / name


def _unpack(target: Path) -> None:
    """Unpack the package: its programs need nothing else of it, and no system service starts."""
    tools = [shutil.which(tool) for tool in ("apt-get", "dpkg-deb")]
    if None in tools:
        raise Unavailable("prometheus", "Prometheus, or apt-get to fetch it", _ACTION)
    apt, dpkg = (str(tool) for tool in tools)
    logger.info("prometheus: fetching Debian's package, this once")
    fetch = [apt, "download", "prometheus"]
    try:
        run_tool("prometheus", fetch, _ACTION, folder=target)
    except ServiceError:
        # Perhaps apt knows no packages yet; only root may change that.
        if os.geteuid() != 0:
            raise Unavailable("prometheus", "Debian's list of packages", _ACTION) from None
        run_tool("prometheus", [apt, "-o", "DPkg::Lock::Timeout=300", "update"], _ACTION)
        run_tool("prometheus", fetch, _ACTION, folder=target)
    for package in target.glob("prometheus_*.deb"):
        run_tool("prometheus", [dpkg, "--extract", str(package), str(target)], _ACTION)
        package.unlink()


def _config(target: str, interval: str) -> dict[str, object]:
    job = {"job_name": "ingestion", "static_configs": [{"targets": [target]}]}
    return {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": [str(_RULES)],
        "scrape_configs": [job],
    }
