"""Read the service levels of a contract that the platform checks; all others are prose."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ingestion_platform.contract.problems import Problems

if TYPE_CHECKING:
    from open_data_contract_standard.model import ServiceLevelAgreementProperty

_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
}
_FRESHNESS = {"freshness", "latency", "ly"}
_QUARANTINE = "quarantineshare"


def check_names(promises: list[ServiceLevelAgreementProperty], problems: Problems) -> None:
    """Add a problem for each name that nearly equals one of ours.

    The standard allows any name, so a misspelled one would pass as prose.
    """
    for i, promise in enumerate(promises):
        name = (promise.property or "").lower()
        ours = {_QUARANTINE: "quarantineShare", "freshness": "freshness", "latency": "latency"}
        near = get_close_matches(name, ours, n=1, cutoff=0.8)
        if near and name not in ours:
            problem = f"{promise.property!r} is not known"
            action = f"did you mean `{ours[near[0]]}`?"
            problems.add(f"slaProperties[{i}].property", problem, action=action)


def quarantine_share(promises: list[ServiceLevelAgreementProperty], problems: Problems) -> float:
    """Return the tolerated share of quarantined records, 0 to 1; 0 if none is declared."""
    found = _sla(promises, {_QUARANTINE}, problems)
    if found is None:
        return 0.0
    at, promise = found
    scale = {None: 1, "": 1, "percent": 100, "%": 100}.get(promise.unit)
    value = _number(promise.value)
    if value is None or scale is None or not 0 <= value / scale <= 1:
        problem = f"{promise.value!r} {promise.unit or ''}".rstrip() + " is not a share from 0 to 1"
        problems.add(f"{at}.value", problem, action="for example `value: 0.05`")
        return 0.0
    return value / scale


def freshness_seconds(
    promises: list[ServiceLevelAgreementProperty], problems: Problems
) -> float | None:
    """Return the maximum age of the newest row, in seconds; None if none is declared."""
    found = _sla(promises, _FRESHNESS, problems)
    if found is None:
        return None
    at, promise = found
    value, seconds = _number(promise.value), _SECONDS.get((promise.unit or "").lower())
    if value is None or value <= 0:
        problem = f"{promise.value!r} is not a positive number"
        problems.add(f"{at}.value", problem, action="for example `value: 1` with `unit: h`")
        return None
    if seconds is None:
        problem = f"{promise.unit!r} is not a unit of time" if promise.unit else "is missing"
        problems.add(f"{at}.unit", problem, action="use s, m, h or d")
        return None
    return value * seconds


def _sla(
    promises: list[ServiceLevelAgreementProperty], names: set[str], problems: Problems
) -> tuple[str, ServiceLevelAgreementProperty] | None:
    """Return path and service level of one of these names (in any case); None if there is none.

    At most one may be given: adds a problem for each further one.
    """
    given = [(i, p) for i, p in enumerate(promises) if (p.property or "").lower() in names]
    for i, promise in given[1:]:
        problem = f"{promise.property} is promised already"
        problems.add(f"slaProperties[{i}]", problem, action=f"keep slaProperties[{given[0][0]}]")
    return (f"slaProperties[{given[0][0]}]", given[0][1]) if given else None


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
