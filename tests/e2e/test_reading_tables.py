"""The page on reading from outside: its blocks, run as they stand, by the variables it names."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from ingestion_platform.settings import Settings
from services import Services, java
from services.files import cached
from tests.support.grievances import EVENT, as_jsonl
from tests.support.testbed import separate_environment
from tests.support.trino_sql import Trino

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reading-tables.md"
OURS = ("KAFKA_", "LAKE_", "AWS_", "PYICEBERG_", "DAGSTER_", "PLATFORM_", "TRINO_")
DAY = {"event_date": "2026-11-20", "event_time": "2026-11-20 10:00:00"}
ROWS = [EVENT | DAY | {"entity_id": f"CMP_{number:03}"} for number in range(3)]

pytestmark = pytest.mark.slow


def blocks(*headings: str) -> str:
    """Return the Python blocks below some headings of the page as one script."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.M)
    found = {section.split("\n", 1)[0]: section for section in sections}
    code = [re.findall(r"^```python\n(.*?)^```$", found[each], re.M | re.S) for each in headings]
    assert all(code)
    return "\n".join(block for some in code for block in some)


def environment(variables: dict[str, str]) -> dict[str, str]:
    """Return the environment of a process that has these variables, and no other of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return kept | variables


def run(folder: Path, variables: dict[str, str], *arguments: str, program: str = "") -> str:
    """Run Python in the folder with these variables; return what it prints."""
    done = subprocess.run(
        [program or sys.executable, *arguments],
        cwd=folder,
        env=environment(variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def load(folder: Path, variables: dict[str, str]) -> None:
    """Load ROWS by `ingest load`."""
    (folder / "events.jsonl").write_bytes(as_jsonl(ROWS))
    ingest(folder, variables, "load", "pgr_events", "events.jsonl")


def ingest(folder: Path, variables: dict[str, str], *arguments: str) -> str:
    """Return what `ingest` prints."""
    ours = variables | {"PYTHONPATH": str(ROOT)}
    return run(folder, ours, "-m", "ingestion_platform", *arguments)


def exported(folder: Path, variables: dict[str, str]) -> dict[str, str]:
    """Return the variables that `ingest env --export` sets."""
    script = ingest(folder, variables, "env", "--export")
    words = [word for line in script.splitlines() for word in shlex.split(line)[1:]]
    return dict(word.split("=", 1) for word in words)


def test_embedded_tables_are_read_as_documented(tmp_path: Path) -> None:
    """PyIceberg, pandas and DuckDB read tables and lake of the embedded default."""
    variables = {"PLATFORM_HOME": str(tmp_path / "home")}
    load(tmp_path, variables)
    printed = exported(tmp_path, variables)
    shown = run(tmp_path, printed, "-c", blocks("PyIceberg", "pandas", "DuckDB", "The raw lake"))
    assert "('bronze', 'service_events_raw')" in shown
    assert re.search(r"entity_id: \[\[.*CMP_000.*CMP_001.*CMP_002", shown)
    assert re.search(r"OPEN +WEB +3", shown)
    assert re.search(r"TENANT_001 │ OPEN +│ +3", shown)
    assert re.search(r"-1 │ +2 │ \{", shown)


@pytest.mark.services
def test_served_tables_are_read_as_documented(trino: Services, tmp_path: Path) -> None:
    """The same on Kafka's stack, with Trino beside them."""
    variables = separate_environment(trino)
    settings = Settings.load(variables, root=tmp_path)
    load(tmp_path, variables)
    with Trino(trino, settings) as engine:
        where = engine.settings
        variables |= {"TRINO_HOST": where.host, "TRINO_PORT": str(where.port)}
        variables |= {"TRINO_USER": where.user, "TRINO_CATALOG": where.catalog}
        printed = exported(tmp_path, variables)
        assert {name: variables[name] for name in printed} == printed
        assert {name for name in variables if not name.startswith("KAFKA_")} == set(printed)
        script = blocks("PyIceberg", "pandas", "DuckDB", "The raw lake", "Trino")
        shown = run(tmp_path, printed, "-c", script)
    assert re.search(r"entity_id: \[\[.*CMP_000.*CMP_001.*CMP_002", shown)
    assert re.search(r"OPEN +WEB +3", shown)
    assert re.search(r"-1 │ +2 │ \{", shown)
    assert "[['OPEN', 3]]" in shown


@pytest.mark.services
def test_a_plain_catalog_reads_what_services_print(servers: Services, tmp_path: Path) -> None:
    """`load_catalog("lakehouse")` writes and reads tables by the variables of `services env`."""
    script = """
import pyarrow, uuid
from pyiceberg.catalog import load_catalog
catalog, name = load_catalog("lakehouse"), f"n{uuid.uuid4().hex[:8]}"
catalog.create_namespace(name)
rows = pyarrow.table({"number": [1, 2]})
catalog.create_table(f"{name}.numbers", rows.schema).append(rows)
print(catalog.load_table(f"{name}.numbers").scan().to_arrow().to_pydict())
catalog.drop_table(f"{name}.numbers")
catalog.drop_namespace(name)
"""
    assert run(tmp_path, servers.env(), "-c", script) == "{'number': [1, 2]}\n"


def jars() -> str:
    """Return the jars that the page names, but for hadoop-aws, with commas between."""
    named = re.findall(r"^\| .* \| `([\w.:-]+)` \|$", PAGE.read_text(), re.M)
    wanted = [each for each in named if "hadoop" not in each]
    return ",".join(map(str, sorted(java.jars("spark", "spark-jars", wanted).glob("*.jar"))))


def pyspark() -> str:
    """Return the Python of an environment with the PySpark that fits the page's jars."""
    version = re.search(r"iceberg-spark-runtime-(\d+\.\d+)_", PAGE.read_text())
    assert version is not None
    return str(cached(f"pyspark-{version[1]}", partial(_install, version[1])) / "bin" / "python")


def _install(version: str, target: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, target], check=True
    )
    install = [uv, "pip", "install", "--quiet", "--python", target / "bin" / "python"]
    subprocess.run([*install, f"pyspark=={version}.*"], check=True)


@pytest.mark.long
@pytest.mark.services
@pytest.mark.parametrize("kind", ["embedded", "served"])
def test_spark_reads_as_documented(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Spark reads tables, and the lake on local disk, by what `ingest env --spark` prints."""
    variables = {"PLATFORM_HOME": str(tmp_path / "home")}
    if kind == "served":
        variables |= separate_environment(request.getfixturevalue("servers"))
        # In S3 the lake needs hadoop-aws, which brings half a gigabyte.
        variables["LAKE_URL"] = (tmp_path / "lake").as_uri()
    load(tmp_path, variables)
    (tmp_path / "spark.properties").write_text(ingest(tmp_path, variables, "env", "--spark"))
    submit = f"--properties-file spark.properties --jars {jars()} pyspark-shell"
    spark = exported(tmp_path, variables) | {
        "PYSPARK_SUBMIT_ARGS": submit,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    shown = run(tmp_path, spark, "-c", blocks("Spark"), program=pyspark())
    assert re.search(r"OPEN\| +3\|", shown)
    assert re.search(r"\| +2\|\{\"event_date\"", shown)
