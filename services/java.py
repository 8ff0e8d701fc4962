"""Java programs: the virtual machine, and what Maven fetches into the user's cache: jars, archives.

Which programs, and how they are configured, is their own modules' business.
"""

import hashlib
import logging
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from services.errors import Unavailable
from services.files import cached
from services.service import run_tool

logger = logging.getLogger(__name__)

_JAVA = 17
_INSTALLED = "usr/lib/jvm/*/bin/java"
_DEPENDENCY_PLUGIN = "3.8.1"


def java(service: str, least: int = _JAVA) -> str:
    """Return the program `java` of JAVA_HOME or PATH; if it is too old, a newer one beside it.

    Raises Unavailable when there is none, or none of version `least` or newer.
    """
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    action = f"install a JDK {least} or newer and put java on PATH, or set JAVA_HOME"
    if program is None:
        raise Unavailable(service, f"Java {least} or newer", action)
    found = _version(service, program, action)
    if found >= least:
        return program
    for other in Path("/").glob(_INSTALLED):
        if _version(service, str(other), action) >= least:
            return str(other)
    said = f"found {found}" if found else "found one of unknown version"
    raise Unavailable(service, f"Java {least} or newer ({said})", action)


def _version(service: str, program: str, action: str) -> int:
    """The major version of a `java`, 0 when it does not tell."""
    found = re.search(r'version "(\d+)', run_tool(service, [program, "-version"], action))
    return int(found[1]) if found else 0


def jars(service: str, name: str, artifacts: Iterable[str]) -> Path:
    """Return the cached folder of the artifacts (group:artifact:version) and all they need.

    Raises Unavailable when they are not in the cache and there is no Maven, ServiceError when
    Maven cannot fetch them.
    """
    pom = _pom(artifacts)
    digest = hashlib.sha256(pom.encode()).hexdigest()[:8]
    return cached(f"{name}-{digest}", partial(_copy, service, name, pom))


def _copy(service: str, name: str, pom: str, target: Path) -> None:
    logger.info("%s: fetching %s, this once", service, name)
    (target / "pom.xml").write_text(pom, encoding="utf-8")
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    _maven(service, target, "copy-dependencies", *options)


def unpack(service: str, artifact: str, target: Path) -> None:
    """Unpack an archive (group:artifact:version:type) into the folder `target`.

    Raises Unavailable when there is no Maven, ServiceError when Maven cannot fetch it.
    """
    with tempfile.TemporaryDirectory(dir=target) as name:
        folder = Path(name)
        options = [f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"]
        _maven(service, folder, "copy", *options)
        # Neither by Maven, which makes empty files of hard links, nor by shutil, which leaves out
        # names with two dots.
        for archive in folder.glob("*.tar.gz"):
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="tar")
        for archive in folder.glob("*.zip"):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(target)


def _maven(service: str, folder: Path, goal: str, *options: str) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable(service, "Maven", "install Maven (mvn) and put it on PATH")
    plugin = f"org.apache.maven.plugins:maven-dependency-plugin:{_DEPENDENCY_PLUGIN}"
    run_tool(
        service,
        [maven, "-q", "-B", f"{plugin}:{goal}", *options],
        "check that Maven can reach a repository, then try again",
        folder=folder,
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
