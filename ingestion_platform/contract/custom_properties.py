"""Custom properties that the platform reads. The standard allows any other names as well."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ingestion_platform.contract.problems import Problems

if TYPE_CHECKING:
    from open_data_contract_standard.model import CustomProperty

STREAM = "stream"  # of a contract: the stream's name
DEFAULT = "default"  # of a property: the value that sources fill in
PREVIOUS_NAMES = "previousNames"  # of a property: its former names

_PLACES = {STREAM: "OpenDataContractStandard", DEFAULT: "SchemaProperty",
           PREVIOUS_NAMES: "SchemaProperty"}  # fmt: skip
_WORDS = {
    "OpenDataContractStandard": "the contract",
    "SchemaObject": "the schema object",
    "SchemaProperty": "a property",
}


def of_name(listed: list[CustomProperty] | None, name: str) -> Iterator[tuple[int, CustomProperty]]:
    """Yield index and custom property for each one of this name without a `vendor`."""
    for i, custom in enumerate(listed or ()):
        if custom.property == name and not custom.vendor:
            yield i, custom


def check_custom(model: str, listed: Any, at: str, problems: Problems) -> None:
    """Add a problem for each custom property that resembles one of ours but has no effect.

    These are our names where they are misspelled, given twice, or given on an element that does
    not read them. A custom property with a `vendor` may have any name.

    Args:
        model: class name of the ODCS model that has the list.
        listed: value of its `customProperties`, as parsed from the file.
        at: path of the list in the file.
    """
    if model not in _WORDS:
        return
    seen = set()
    for here, name in _named(listed, at):
        ours = _nearest(name)
        if ours is None:
            continue
        if name != ours:
            action = f"did you mean `{ours}`? Another tool's property needs its `vendor`"
            problems.add(here, f"{name!r} is not read by the platform", action=action)
        elif _PLACES[name] != model:
            problem = f"{name!r} has no effect on {_WORDS[model]}"
            action = f"move it to customProperties of {_WORDS[_PLACES[name]]}"
            problems.add(here, problem, action=action)
        elif name in seen:
            problems.add(here, f"{name!r} is given twice", action="keep one of the two")
        seen.add(name)


def _named(listed: Any, at: str) -> Iterator[tuple[str, str]]:
    """Yield path and name of each custom property without a `vendor`."""
    for i, custom in enumerate(listed if isinstance(listed, list) else ()):
        if not isinstance(custom, dict) or custom.get("vendor"):
            continue
        if isinstance(custom.get("property"), str):
            yield f"{at}[{i}].property", custom["property"]


def _nearest(name: str) -> str | None:
    """Return our property that `name` equals, resembles or starts with; None if there is none."""
    plain = name.lower().replace("_", "").replace("-", "").replace(" ", "")
    ours = {each.lower(): each for each in _PLACES}
    near = get_close_matches(plain, ours, n=1, cutoff=0.8)
    begun = [each for each in ours if plain.startswith(each)]
    found = [*near, *begun]
    return ours[found[0]] if found else None
