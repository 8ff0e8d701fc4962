"""Writes the tables of docs/metrics.md: `python docs/write_metrics.py` (`make docs` does).

Metrics are those of the catalogue, alerts those of Prometheus's rules.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ingestion_platform.operations.metrics.catalogue import markdown

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "metrics.md"
ALERTS = ROOT / "monitoring" / "prometheus" / "rules" / "alerts.yml"


def alerts() -> str:
    """A table of all alerts."""
    lines = ["| alert | severity | when | what to do |", "|---|---|---|---|"]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            notes = rule["annotations"]
            when = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", notes["summary"])
            when = re.sub(r"\{\{ \$value[^}]*\}\}", "*so many*", when)
            lasting = f" (for {rule['for']})" if "for" in rule else ""
            segment = notes["runbook_url"].removeprefix("docs/")
            section = segment.partition("#")[2].replace("-", " ")
            severity = rule["labels"]["severity"]
            lines.append(
                f"| `{rule['alert']}` | {severity} | {when}{lasting} | [{section}]({segment}) |"
            )
    return "\n".join(lines)


def page() -> str:
    """The page with its tables as they must be."""
    text = PAGE.read_text()
    for name, table in (("table", markdown()), ("alerts", alerts())):
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        head, _, rest = text.partition(start)
        text = f"{head}{start}{table}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE.relative_to(ROOT)}: metrics and alerts")
