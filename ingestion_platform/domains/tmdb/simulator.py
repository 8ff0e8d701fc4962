"""Simulators of the media catalogue: invented films, series and people, and their changes.

Records are enriched as those of labelled files (`produce.labelled`). Each run has its own ids.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulation import Shape, Simulator, run_number

NEW, OLD = 0.6, 0.3  # share of records that are no changes; share of these with label old
KNOWN = 5000  # records that may still change

_FIRST = ("Silent", "Copper", "Midnight", "Paper", "Northern", "Hollow", "Amber", "Second", "Blind")
_SECOND = ("Harbour", "Orchard", "Signal", "Winter", "Station", "Garden", "Meridian", "River")
_THIRD = ("", "", "", " Rising", " II", ": Return", " of Glass", " at Dawn")
_NAMES = ("Ada", "Bruno", "Chiara", "Dev", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas")
_FAMILIES = ("Aalto", "Bianchi", "Castillo", "Dahl", "Eze", "Fontaine", "Gupta", "Hansen", "Ito")
_GENRES = {18: "Drama", 35: "Comedy", 53: "Thriller", 878: "Science Fiction", 99: "Documentary"}
_COUNTRIES = {"US": "en", "FR": "fr", "JP": "ja", "IN": "hi", "DE": "de", "BR": "pt", "KR": "ko"}
_DEPARTMENTS = ("Acting", "Directing", "Writing", "Camera", "Sound", "Art")
_ENRICHMENT = ("data_type", "data_label", "source_file", "ingestion_id", "timestamp")

_BAD_GENRES = ("Drama", {"id": 18}, [18], [{"id": "18", "name": "Drama"}], [{"name": 18}])
_OUT_OF_RANGE = (("vote_average", (10.5, -1)), ("vote_count", (-1, 2.5)), ("genres", _BAD_GENRES))


def _shape(name: str, dates: tuple[str, ...], **more: Any) -> Shape:
    return Shape(
        required=("tmdb_id", name, *_ENRICHMENT),
        texts=(name, "data_label", "source_file"),
        numbers=("tmdb_id", "popularity"),
        enums=("data_type", "data_label"),
        dates=dates,
        timestamps=("timestamp",),
        **more,
    )


Fields = dict[str, Any]


def _movie(rng: Random) -> Fields:
    country, language = rng.choice(list(_COUNTRIES.items()))
    return {
        "title": _title(rng),
        "original_language": language,
        "origin_country": [country],
        "overview": rng.choice((None, f"A {_title(rng).lower()} nobody asked for.")),
        "status": "Released",
        "release_date": _day(rng, 1960, 2026) if rng.random() < 0.97 else None,
        "runtime": rng.randrange(70, 190),
        "budget": rng.randrange(0, 200) * 100_000,
        "revenue": rng.randrange(0, 900) * 100_000,
        "adult": False,
        "video": False,
        **_rated(rng),
    }


def _series(rng: Random) -> Fields:
    country, language = rng.choice(list(_COUNTRIES.items()))
    seasons = rng.randrange(1, 8)
    return {
        "name": _title(rng),
        "original_language": language,
        "origin_country": [country],
        "overview": None,
        "status": rng.choice(("Returning Series", "Ended", "Canceled")),
        "type": "Scripted",
        "first_air_date": _day(rng, 1990, 2026),
        "number_of_seasons": seasons,
        "number_of_episodes": seasons * 10,
        "episode_run_time": [rng.choice((25, 45, 60))],
        "seasons": [
            {"season_number": n, "name": f"Season {n}", "episode_count": 10}
            for n in range(1, seasons + 1)
        ],
        "last_episode_to_air": {"season_number": seasons, "episode_number": 10},
        "adult": False,
        **_rated(rng),
    }


def _person(rng: Random) -> Fields:
    name = f"{rng.choice(_NAMES)} {rng.choice(_FAMILIES)}"
    return {
        "name": name,
        "also_known_as": [f"{name[0]}. {name.split()[1]}"] if rng.random() < 0.3 else [],
        "known_for_department": rng.choice(_DEPARTMENTS),
        "biography": None,
        "gender": rng.randrange(4),
        "birthday": _day(rng, 1930, 2005) if rng.random() < 0.9 else None,
        "place_of_birth": None,
        "adult": False,
        "popularity": round(rng.expovariate(1 / 12), 3),
    }


def _rated(rng: Random) -> Fields:
    votes = int(rng.paretovariate(0.7))
    return {
        "genres": [
            {"id": n, "name": _GENRES[n]} for n in rng.sample(list(_GENRES), rng.randrange(4))
        ],
        "popularity": round(rng.expovariate(1 / 20), 3),
        "vote_average": round(rng.triangular(2, 10, 6.8), 1) if votes > 1 else 0.0,
        "vote_count": min(votes, 40_000),
    }


def _changed(rng: Random, fields: Fields) -> Fields:
    """Return a later version, with another popularity and more votes."""
    fields = fields | {"popularity": round(fields["popularity"] * rng.uniform(0.7, 1.6), 3)}
    if "vote_count" in fields:
        fields["vote_count"] += rng.randrange(1, 200)
        fields["vote_average"] = round(
            min(10, max(1, fields["vote_average"] + rng.gauss(0, 0.1))), 1
        )
    return fields


def _title(rng: Random) -> str:
    return f"{rng.choice(_FIRST)} {rng.choice(_SECOND)}{rng.choice(_THIRD)}"


def _day(rng: Random, first: int, last: int) -> str:
    return (date(first, 1, 1) + timedelta(days=rng.randrange((last - first) * 365))).isoformat()


def _records(
    count: int,
    seed: int,
    start: datetime,
    days: float,
    *,
    kind: str,
    make: Callable[[Random], Fields],
) -> Iterator[Record]:
    rng = Random(f"{kind} {seed} {start.isoformat()}")
    run = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    begin, span = int(start.timestamp() * 1000), days * 86_400_000
    next_id = run_number(seed, start) * 1_000_000 + 1
    known: list[Fields] = []
    for turn in range(count):
        if not known or rng.random() < NEW:
            label = "old" if rng.random() < OLD else "new"
            fields = {"tmdb_id": next_id, "id": next_id, **make(rng)}
            next_id += 1
            place = len(known) if len(known) < KNOWN else rng.randrange(KNOWN)
            known[place : place + 1] = [fields]
        else:
            label, place = "change", rng.randrange(len(known))
            fields = known[place] = _changed(rng, known[place])
        stamp = begin + int(span * (turn + rng.random()) / count)
        time = datetime.fromtimestamp(stamp / 1000, UTC).isoformat(timespec="milliseconds")
        file = f"{kind}/{label}/{time[:10]}.jsonl"
        value = fields | dict(
            zip(_ENRICHMENT, (kind, label, file, run, time.replace("+00:00", "Z")), strict=True)
        )
        text = json.dumps(value, separators=(",", ":")).encode()
        yield Record(None, text, (), stamp)


SIMULATORS = {
    "tmdb_movie": Simulator(
        partial(_records, kind="movie", make=_movie),
        _shape("title", ("release_date",), rejected=(*_OUT_OF_RANGE, ("runtime", (-1, 90.5)))),
    ),
    "tmdb_tv_series": Simulator(
        partial(_records, kind="tv_series", make=_series),
        _shape(
            "name",
            ("first_air_date",),
            json_texts=("last_episode_to_air",),
            rejected=(*_OUT_OF_RANGE, ("episode_run_time", ([-1], ["45"], 45))),
        ),
    ),
    "tmdb_person": Simulator(
        partial(_records, kind="person", make=_person),
        _shape(
            "name", ("birthday",), rejected=(("gender", (4, -1)), ("also_known_as", ([1], "A")))
        ),
    ),
}
