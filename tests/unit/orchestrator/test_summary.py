"""Variants over runs: what is one, seeds that were run again, baselines, the long table."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from orchestrator.core.events import RunStarted
from orchestrator.core.records import Record
from orchestrator.report.history import RunHistory
from orchestrator.report.summary import as_json, standings, variants
from orchestrator.report.tables import Value, as_csv, as_parquet, values
from tests.journals import RUN_ID, TASKS, story

SEEDS = (("replay", 0), ("replay", 1), ("finetune", 0))


def told(records: list[Record], at: float = 0.0, **settings: object) -> RunHistory:
    """The history of records; ``at`` and ``settings`` (of every lane's spec) are laid over them."""
    history = RunHistory()
    for record in records:
        event = record.event
        if isinstance(event, RunStarted):
            lanes = tuple(
                replace(lane, spec=replace(lane.spec, **settings)) for lane in event.plan.lanes
            )
            plan = replace(event.plan, lanes=lanes)
            record = replace(record, event=replace(event, at=event.at + at, plan=plan))
        history.add(record)
    return history


def test_seeds_of_a_method_are_one_variant() -> None:
    found = {one.name: one for one in variants([told(story(SEEDS))])}
    assert set(found) == {"replay", "finetune"}
    assert set(found["replay"].values["acc.final"]) == {0, 1}
    assert standings(found.values(), "forgetting.max")["replay"] == "best"
    assert found["replay"].values["experts"] == {0: 2, 1: 2}


def test_variants_of_one_mean_are_both_the_best_and_a_bound_is_not() -> None:
    found = variants([told(story(SEEDS))])
    for one in found:
        one.values["acc.final"] = {0: 0.5, 1: 0.7}
    assert standings(found, "acc.final") == {"replay": "best", "finetune": "best"}
    found[1].baselines = {"finetune"}
    found[1].values["acc.final"] = {0: 0.9, 1: 0.7}
    assert standings(found, "acc.final") == {"replay": "best", "finetune": "equal"}
    assert standings(found, "intransigence") == {}


def test_a_seed_that_was_run_again_counts_once() -> None:
    again = told(story(SEEDS, run_id="later"), at=5.0)
    (replay, _) = variants([again, told(story(SEEDS))])
    assert set(replay.values["acc.final"]) == {0, 1}
    assert replay.lanes[0] == "later replay-s0"


def test_a_lane_that_did_not_end_replaces_none_that_did() -> None:
    cut = told(story(SEEDS, run_id="later")[:-25], at=5.0)
    (replay, _) = variants([told(story(SEEDS)), cut])
    assert replay.lanes[0] == f"{RUN_ID} replay-s0"


def test_other_settings_are_another_variant() -> None:
    other = told(story(SEEDS, run_id="other"), at=5.0, settings={"buffer": 7})
    names = [one.name for one in variants([told(story(SEEDS)), other])]
    assert len(names) == len(set(names)) == 4
    assert sum(name.startswith("replay ") for name in names) == 2


def test_json_holds_values_means_and_intervals() -> None:
    (replay, finetune) = as_json(variants([told(story(SEEDS))]))
    assert replay["mean"]["acc.final"] == pytest.approx(
        sum(replay["values"]["acc.final"].values()) / 2
    )
    assert replay["half_width"]["acc.final"] > 0
    assert finetune["half_width"]["acc.final"] is None


def test_the_long_table_holds_matrix_metrics_and_cost() -> None:
    history = told(story())
    rows = list(values([history]))
    lane = history.lanes["replay-s0"]
    cells = {
        (row.stage, row.task): row.value
        for row in rows
        if row.lane == "replay-s0" and (row.metric, row.part) == ("score", "test")
    }
    assert len(cells) == len(TASKS) * (len(TASKS) + 1)
    assert cells[2, TASKS[0]] == lane.complete()[2][0]
    whole = {row.metric: row.value for row in rows if row.lane == "replay-s0" and row.stage is None}
    assert whole["acc.final"] == history.lane_json(lane)["metrics"]["acc.final"]
    assert whole["seconds"] == 3.0


def test_csv_and_parquet_hold_the_same_rows() -> None:
    rows = list(values([told(story())]))
    table = pq.read_table(io.BytesIO(as_parquet(rows))).to_pylist()
    assert [Value(**row) for row in table] == rows
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert tuple(read[0]) == Value._fields
    assert [float(row["value"]) for row in read] == [row.value for row in rows]


def test_lanes_under_way_count_where_none_has_ended() -> None:
    cut = told(story(SEEDS)[:-25])
    assert not all(one.ended for one in variants([cut]))
    ended = variants([told(story(SEEDS, run_id="whole"), at=-5.0), cut])
    assert all(one.ended for one in ended)
    assert {lane.split()[0] for one in ended for lane in one.lanes.values()} == {"whole"}
