"""Check the SQL of a contract (rules, derived columns, patterns) with DuckDB.

DuckDB binds each expression against an empty table of the contract's columns. No expression is
executed on data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ingestion_platform.contract.model import Field, Rule
from ingestion_platform.contract.problems import Problems
from ingestion_platform.contract.properties import elements, labelled
from ingestion_platform.contract.schemas import duckdb_type

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": "1",
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
}
_CLOCK_KEYWORDS = {"current_timestamp", "current_time", "localtime", "localtimestamp"}


def check_expressions(
    fields: tuple[Field, ...], rules: Sequence[tuple[str, Rule]], at: str, problems: Problems
) -> None:
    """Add a problem for each expression that does not compile.

    `at` is the path of the list of properties.
    """
    patterned = [(here, f) for here, f in elements(fields, at) if f.pattern is not None]
    derived = [(i, f) for i, f in enumerate(fields) if f.derived]
    if not (patterned or derived or rules):
        return
    import duckdb

    with duckdb.connect(config=_CONFIG) as connection:
        for here, each in patterned:
            _check_pattern(connection, each, here, problems)
        if derived or rules:
            _check_sql(connection, fields, rules, at, problems)


def _check_sql(
    connection: DuckDBPyConnection,
    fields: tuple[Field, ...],
    rules: Sequence[tuple[str, Rule]],
    at: str,
    problems: Problems,
) -> None:
    forbidden = _forbidden_functions()
    _create(connection, "record", fields)
    available = [f for f in fields if not f.derived]
    for i, each in enumerate(fields):
        if each.derived:
            _create(connection, "sent", available)
            here = f"{labelled(at, i, each.name)}.transformLogic"
            problem = _purity(connection, each.derived, fields, forbidden)
            problem = problem or _derivation(connection, each)
            if problem:
                action = "write a DuckDB expression over columns of the record"
                problems.add(here, problem, action=action)
            available.append(each)
    for here, rule in rules:
        problem = _purity(connection, rule.expression, fields, forbidden)
        problem = problem or _condition(connection, rule.expression)
        if problem:
            action = "write a DuckDB expression over columns of the record, true or false"
            problems.add(f"{here}.implementation", problem, action=action)


def _derivation(connection: DuckDBPyConnection, each: Field) -> str | None:
    expression = f"({each.derived}\n)"
    problem, found = _bind(connection, expression, "sent")
    if problem:
        later = _bind(connection, expression, "record")[0] is None
        return "uses itself or a derived column that comes later" if later else problem
    expected = _bind(connection, f"CAST(NULL AS {duckdb_type(each)})", "sent")[1]
    # Numbers are cast automatically; the author must write any other cast.
    if found == expected or (_is_number(found) and _is_number(expected)):
        return None
    return None if (found, expected) == ("JSON", "VARCHAR") else f"gives {found}, not {expected}"


def _is_number(sql_type: str | None) -> bool:
    name = (sql_type or "").split("(")[0]
    return name in ("FLOAT", "DOUBLE", "DECIMAL", "INTEGER", "UINTEGER") or name.endswith("INT")


def _condition(connection: DuckDBPyConnection, expression: str) -> str | None:
    problem, found = _bind(connection, f"({expression}\n)", "record")
    if problem is None and found != "BOOLEAN":
        return f"gives {found}, not BOOLEAN"
    return problem


def _purity(
    connection: DuckDBPyConnection,
    expression: str,
    fields: Sequence[Field],
    forbidden: frozenset[str],
) -> str | None:
    """Return why an expression depends on more than the record; None if it does not."""
    # Parse with and without parentheses: `1), (2` parses inside them, `a AS b` only without.
    for query in (f"SELECT {expression}", f"SELECT ({expression}\n)"):
        tree = _parsed(connection, query)
        if tree.get("error"):
            return f"is not one expression: {tree.get('error_message')}"
    columns = {f.name.lower() for f in fields}
    for node in _nodes(tree["statements"]):
        kind = node.get("class")
        if kind in ("SUBQUERY", "WINDOW"):
            return f"a {kind.lower()} looks at more than one record"
        name = str(node.get("function_name", "")).lower()
        if kind == "COLUMN_REF" and len(node["column_names"]) == 1:
            # DuckDB parses a keyword such as current_date as a column.
            name = str(node["column_names"][0]).lower()
            name = "" if name in columns else name
        if name in forbidden:
            return f"{name} depends on more than the record, so a second run could differ"
    return None


def _parsed(connection: DuckDBPyConnection, query: str) -> dict[str, Any]:
    # No bound parameter: the first one makes DuckDB import pandas, which takes a second.
    row = connection.execute(f"SELECT json_serialize_sql({_quoted(query)})").fetchone()
    tree: dict[str, Any] = json.loads(row[0]) if row else {}
    return tree


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _nodes(part)


@cache
def _forbidden_functions() -> frozenset[str]:
    """Return the functions that depend on more than the record; the same for all contracts.

    These are aggregates, scalar functions that are not consistent, and clocks.
    """
    import duckdb

    with duckdb.connect(config=_CONFIG) as connection:
        rows = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE function_type = 'aggregate' "
            "OR (function_type = 'scalar' AND stability <> 'CONSISTENT') EXCEPT "
            "SELECT function_name FROM duckdb_functions() "
            "WHERE function_type = 'scalar' AND stability = 'CONSISTENT'"
        ).fetchall()
    clocks = {"current_timestamp", "current_time", "localtime", "localtimestamp"}
    return frozenset({name for (name,) in rows} | clocks)


def _bind(
    connection: DuckDBPyConnection, expression: str, table: str
) -> tuple[str | None, str | None]:
    """Return a problem and None, or None and the SQL type of the expression."""
    import duckdb

    try:
        result = connection.execute(f"SELECT {expression} FROM {table}")
    except duckdb.Error as error:
        return _message(error), None
    return None, str(result.description[0][1]) if result.description else None


def _create(connection: DuckDBPyConnection, table: str, fields: Sequence[Field]) -> None:
    columns = ", ".join(f'"{f.name}" {duckdb_type(f)}' for f in fields) or "nothing INTEGER"
    connection.execute(f"CREATE OR REPLACE TABLE {table} ({columns})")


def _check_pattern(
    connection: DuckDBPyConnection, each: Field, here: str, problems: Problems
) -> None:
    import duckdb

    at = f"{here}.logicalTypeOptions.pattern"
    pattern = _quoted(each.pattern or "")
    texts = [("enum", i, value) for i, value in enumerate(each.allowed)]
    texts += [("examples", i, value) for i, value in enumerate(each.examples)]
    try:
        connection.execute(f"SELECT regexp_full_match('', {pattern})").fetchone()
        for key, i, value in texts:
            if value is None or not isinstance(value, str):
                continue
            query = f"SELECT regexp_full_match({_quoted(value)}, {pattern})"
            row = connection.execute(query).fetchone()
            if row != (True,):
                problem = f"{value!r} does not match the pattern {each.pattern} as a whole"
                problems.add(f"{here}.{key}[{i}]", problem, action="mend it or the pattern")
    except duckdb.Error as error:
        action = "use RE2 syntax: no look-around, no back-references"
        problems.add(at, f"{each.pattern!r} does not compile: {_message(error)}", action=action)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _message(error: Exception) -> str:
    """Return DuckDB's message without the error class and the quoted line."""
    text = str(error).split("\n\nLINE ")[0]
    text = text.removeprefix("Binder Error: ").removeprefix("Invalid Input Error: ")
    return " ".join(text.split())
