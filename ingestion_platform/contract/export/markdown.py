"""Export a documentation page per stream, and an index of the pages by domain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby

from ingestion_platform.contract.columns import INGEST_DATE
from ingestion_platform.contract.export import Published
from ingestion_platform.contract.export.text import code, document, fields_table, table

_ANY_FILE = "CSV, JSON Lines and JSON arrays, as they are or as gzip or zstd; Parquet"
_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def index(published: Sequence[Published]) -> str:
    """Return the index of all streams by domain, with links to their pages."""
    ordered = sorted(published, key=lambda p: p.domain)
    blocks = []
    for domain, streams in groupby(ordered, key=lambda p: p.domain):
        rows = [
            (
                f"[{p.stream}]({p.stream}.md)",
                code(p.topic) if p.topic else "",
                code(p.bronze_table),
                p.contract.description,
            )
            for p in streams
        ]
        blocks += [f"## {domain}", table(("Stream", "Topic", "Bronze table", "What it is"), rows)]
    return document("# Streams", *blocks)


def page(p: Published) -> str:
    """Return the page of one stream, for its producers and readers."""
    contract = p.contract
    return document(
        f"# {p.stream}",
        f"**{contract.name}.** {contract.description}",
        table(("Contract", "Version", "Status", "Domain", "Owner", "Tags"), [_identity(p)]),
        "## Fields",
        "Other fields are ignored. Derived fields are not sent: the platform computes them.",
        fields_table(contract.fields),
        _row_rules(p),
        "## Example",
        f"```json\n{_example(p)}\n```",
        "## Sources",
        table(("Source", "Where"), _sources(p)),
        _curl(p),
        "## Tables",
        table(("Layer", "Where", "Partitioned by"), _tables(p)),
        "## Service levels",
        "\n".join(f"- {level}" for level in _service_levels(p)),
    )


def _identity(p: Published) -> Sequence[str]:
    contract = p.contract
    tags = ", ".join(contract.tags)
    return (code(contract.id), contract.version, contract.status, p.domain, contract.owner, tags)


def _row_rules(p: Published) -> str:
    rows = [(code(r.name), r.description, code(r.expression)) for r in p.contract.rules]
    keys = ", ".join(map(code, p.contract.primary_key))
    identity = f"Primary key: {keys}." if keys else "Records have no primary key."
    identity += " Bronze keeps every record that was sent, copies too."
    rules = table(("Rule", "Meaning", "Never false (SQL; null passes)"), rows)
    return "\n\n".join(filter(None, ("### Rules over rows" if rules else "", rules, identity)))


def _sources(p: Published) -> Iterator[tuple[str, str]]:
    if p.topic is not None:
        key = f"key {code(p.key)}" if p.key else "without a key"
        yield (
            "Kafka",
            f"topic {code(p.topic)}, {key}, {p.partitions} partitions declared, "
            f"consumer group {code(p.group_id)}",
        )
    for place, path in enumerate(p.http_paths):
        takes = "one record" if place else "one record, a JSON array, NDJSON or CloudEvents"
        yield "HTTP", f"{code(f'POST {path}')}: {takes}"
    files = ", ".join(map(code, p.drop_patterns)) or _ANY_FILE
    files += f" (format {p.drop_format})" if p.drop_format else ""
    yield "Files", f"{code(f'<DROP_URL>/{p.drop_folder}/')}: {files}"
    yield "Files by hand", code(f"ingest load {p.stream} FILE...")
    if p.topic is not None:
        yield "Python", code(f'Client().send("{p.stream}", [record])')
    yield "SQL", f"{code(f'INSERT INTO {p.bronze_table} (...)')}: the fields above, no others"


def _curl(p: Published) -> str:
    if not p.http_paths:
        return ""
    return f"""The example by HTTP (`ingest serve` runs the source):

```sh
curl http://127.0.0.1:8080{p.http_paths[0]} \\
  -H "X-API-Key: $API_KEY" -H 'Content-Type: application/json' --data-binary @- <<'JSON'
{json.dumps(p.example, ensure_ascii=False)}
JSON
```"""


def _tables(p: Published) -> Iterator[tuple[str, str, str]]:
    yield "Lake, as sent", code(f"<LAKE_URL>/{p.lake_folder}"), "UTC day, log partition"
    by = ", ".join(map(code, p.contract.partition_by or (INGEST_DATE,)))
    yield "Bronze, typed and valid", code(p.bronze_table), by
    yield "Quarantine, with all reasons", code(p.quarantine_table), code(INGEST_DATE)


def _service_levels(p: Published) -> Iterator[str]:
    if p.contract.freshness_seconds is not None:
        within = _duration(p.contract.freshness_seconds)
        yield f"Freshness: a record is in bronze within {within} of its arrival."
    share = f"{p.contract.quarantine_share:.2%}".replace(".00%", "%")
    yield f"Quarantine: more than {share} of a slice's records there fails its check."


def _duration(seconds: float) -> str:
    size, unit = next((s, u) for s, u in _UNITS if seconds % s == 0 or s == 1)
    count = seconds / size
    return f"{count:g} {unit}{'s' * (count != 1)}"


def _example(p: Published) -> str:
    return json.dumps(p.example, indent=2, ensure_ascii=False)
