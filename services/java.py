"""Java programs: the virtual machine, and their jars fetched by Maven into the user's cache.

Which programs, and how they are configured, is their own modules' business.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from services.errors import Unavailable
from services.files import cached
from services.service import run_tool

logger = logging.getLogger(__name__)

_JAVA = 17
_DEPENDENCY_PLUGIN = "3.8.1"


def java(service: str) -> str:
    """Return the program `java` of JAVA_HOME or PATH.

    Raises Unavailable when there is none, or an older one than the servers need.
    """
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    action = f"install a JDK {_JAVA} or newer and put java on PATH, or set JAVA_HOME"
    if program is None:
        raise Unavailable(service, f"Java {_JAVA} or newer", action)
    banner = run_tool(service, [program, "-version"], action)
    version = re.search(r'version "(\d+)', banner)
    if version is None or int(version[1]) < _JAVA:
        found = f"found {version[1]}" if version else "found one of unknown version"
        raise Unavailable(service, f"Java {_JAVA} or newer ({found})", action)
    return program


def jars(service: str, name: str, artifacts: Iterable[str]) -> Path:
    """Return the cached folder of the artifacts (group:artifact:version) and all they need.

    Raises Unavailable when they are not in the cache and there is no Maven, ServiceError when
    Maven cannot fetch them.
    """
    pom = _pom(artifacts)
    digest = hashlib.sha256(pom.encode()).hexdigest()[:8]
    return cached(f"{name}-{digest}", partial(_copy, service, name, pom))


def _copy(service: str, name: str, pom: str, target: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable(service, "Maven", "install Maven (mvn) and put it on PATH")
    logger.info("%s: fetching %s, this once", service, name)
    (target / "pom.xml").write_text(pom, encoding="utf-8")
    goal = f"org.apache.maven.plugins:maven-dependency-plugin:{_DEPENDENCY_PLUGIN}"
    run_tool(
        service,
        [
            *(maven, "-q", "-B", f"{goal}:copy-dependencies"),
            *("-DincludeScope=runtime", f"-DoutputDirectory={target}"),
        ],
        "check that Maven can reach a repository, then try again",
        folder=target,
    )


def _pom(artifacts: Iterable[str]) -> str:
    dependencies = "".join(
        f"""    <dependency>
      <groupId>{group}</groupId><artifactId>{artifact}</artifactId>
      <version>{version}</version>
    </dependency>
"""
        for group, artifact, version in (each.split(":") for each in artifacts)
    )
    return f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka-server</artifactId><version>1</version>
  <dependencies>
{dependencies}  </dependencies>
</project>
"""
