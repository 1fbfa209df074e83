"""What a sweep tells at its end, from attempts that learnt different numbers of stages."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.tracking.pages import Page
from tests.streams import OPTIONS
from tune_spaces import SPACES
from tune_spaces.figures import (
    common_stage,
    comparable,
    importance,
    importance_bars,
    parallel_coordinates,
)
from tune_spaces.search import _scheduler, within
from tune_spaces.space import Choice, LogUniform, ends
from tune_spaces.summary import Attempt, as_json, base_of, best, gain, latest
from tune_spaces.sweep import make_plan
from tune_spaces.tracking import SweepTracker

SPACE = {"policies.growth.add": Choice((1, 2, 4)), "training.lr": LogUniform(1e-4, 1e-2)}


def attempt(trial: str, *values: float, number: int = 0, add: int = 1, **more: Any) -> Attempt:
    told: dict[str, Any] = {
        "run": f"s/{trial}/{number}",
        "trial": trial,
        "number": number,
        "name": trial,
        "settings": {"policies.growth.add": add, "training.lr": 1e-3},
        "parent": None,
        "status": "done",
        "folder": Path(trial),
        "last": 1000.0,
        "planned": 3,
        "values": values,
        "experts": 1,
        "trained": len(values),
        "cut": 0,
        "shared": 0,
        "inherited": 0,
    }
    return Attempt(**{**told, **more})


FOUND = [
    attempt("a", 1.0, 0.8, 0.6, add=1),
    attempt("b", 1.0, 0.9, add=2, cut=1, status="stopped"),
    attempt("c", 0.9, status="stopped"),
    attempt("c", 0.9, 0.7, 0.65, number=1, parent="s/a/0", inherited=1, trained=2, add=4),
    attempt("d", 1.0, 0.5, add=4, shared=1, trained=1, status="stopped"),
]


def test_the_best_is_the_best_of_those_that_learnt_most() -> None:
    winner = best(FOUND)
    assert winner is not None
    assert winner.run == "s/c/1"
    assert best([attempt("e")]) is None


def test_stages_are_counted_by_how_they_came_about() -> None:
    told = as_json("s", Path("s"), FOUND)
    assert told["stages"] == {
        "planned": 12,
        "trained": 9,
        "cut_short": 1,
        "saved_by_early_stopping": 2,
        "saved_by_shared_prefixes": 1,
        "inherited": 1,
    }
    assert told["best"]["parent"] == "s/a/0"
    assert [item.run for item in latest(FOUND)] == ["s/a/0", "s/b/0", "s/c/1", "s/d/0"]


def test_the_gain_over_the_base_is_taken_where_both_have_come_to() -> None:
    """Trial b has the base's settings, and was stopped after two stages."""
    settings = {"policies.growth.add": 2, "training.lr": 1e-3}
    told = as_json("s", Path("s"), FOUND, settings)
    assert told["base"]["run"] == "s/b/0"
    assert told["gain"] == {"objective": pytest.approx(0.7 - 0.9), "stages": 2}
    assert base_of(FOUND, {"policies.growth.add": 4, "training.lr": 1e-3}) is FOUND[4]
    assert base_of(FOUND, None) is None
    assert gain(FOUND[0], None) is None
    assert as_json("s", Path("s"), FOUND)["gain"] is None


def test_trials_are_compared_after_the_same_stage() -> None:
    assert common_stage(FOUND) == 3
    assert common_stage(FOUND[:2]) == 2
    assert common_stage(FOUND[:1]) == 0
    stage, points = comparable(FOUND[:2])
    assert stage == 2
    assert [value for _, value in points] == [0.8, 0.9]


def test_importance_needs_enough_trials_that_differ() -> None:
    assert importance(FOUND, SPACE) == {}
    many = [attempt(f"t{i}", 0.1 * add, add=add) for i, add in enumerate((1, 2, 4, 1, 2, 4))]
    assert importance(many, SPACE) == {"policies.growth.add": pytest.approx(1.0)}
    same = [attempt(f"t{i}", 0.5, add=add) for i, add in enumerate((1, 2, 4, 1))]
    assert importance(same, SPACE) == {}


def test_numbers_that_pbt_moved_past_their_ends_are_brought_back() -> None:
    moved = [
        {"policies.growth.add": add, "training.lr": lr}
        for add, lr in ((1, 8e-5), (2, 1.2e-2), (4, 1e-3), (1, 1e-2))
    ]
    kept = [within(settings, SPACE) for settings in moved]
    assert [settings["training.lr"] for settings in kept] == [1e-4, 1e-2, 1e-3, 1e-2]
    assert [settings["policies.growth.add"] for settings in kept] == [1, 2, 4, 1]
    found = [attempt(f"t{i}", 0.1 * i, settings=settings) for i, settings in enumerate(kept)]
    assert set(importance(found, SPACE)) == set(SPACE)


def test_pbt_stays_within_the_space() -> None:
    scheduler = _scheduler(make_plan("ppo", None, None, **OPTIONS | {"scheduler": "pbt"}), stages=3)
    domains = SPACES["ppo"].parameters
    at = SimpleNamespace(config={key: ends(domain)[0] for key, domain in domains.items()})
    for _ in range(40):
        new, _ = scheduler._get_new_config(None, at)
        for key in ("training.lr", "training.entropy"):
            assert domains[key].low <= new[key] <= domains[key].high


@pytest.mark.parametrize("found", [FOUND, FOUND[:1], []])
def test_the_figure_is_drawn_whatever_there_is(found: list[Attempt]) -> None:
    assert parallel_coordinates(found, SPACE).startswith(b"\x89PNG")


def test_a_bar_for_each_parameter() -> None:
    shares = {"policies.growth.add": 0.7, "policies.growth.every": 0.3}
    assert importance_bars(shares, "acc.final").startswith(b"\x89PNG")
    assert importance_bars(dict.fromkeys(shares, 0.0), "acc.final").startswith(b"\x89PNG")


def test_what_a_sweep_came_to_is_shown_once_however_often_it_ends(tmp_path: Path) -> None:
    """An interrupt shows no outcome, and an end that is told again adds nothing."""
    import mlflow

    sweep = SweepTracker(make_plan("growth", None, None, **OPTIONS), tmp_path / "sweep", None)
    sweep.connect()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    shown = []
    for status in ("interrupted", "done", "done"):
        sweep.finish(status, FOUND, Page())
        (run,) = client.search_runs(experiments)
        told = [
            [row.value for row in client.get_metric_history(run.info.run_id, name)]
            for name in ("trials", "best.objective", "best.experts")
        ]
        shown.append((run.info.status, told))
    outcome = [[4.0], [0.65], [1.0]]
    assert shown == [("KILLED", [[], [], []]), ("FINISHED", outcome), ("FINISHED", outcome)]
