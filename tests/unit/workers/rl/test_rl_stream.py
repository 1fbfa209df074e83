"""Craftax streams: names, floors and parameters are checked before anything is compiled."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workers.parsing import choose
from workers.rl import ENVIRONMENT_STREAMS, ENVIRONMENTS
from workers.rl.streams import CraftaxStream
from workers.tables import first_line


def stream(**settings) -> CraftaxStream:
    cls, config, problems = choose(ENVIRONMENT_STREAMS, {"kind": "craftax", **settings}, "stream")
    assert not problems, [str(problem) for problem in problems]
    return cls(config, 0)


def found(**settings) -> dict[str, str]:
    return {problem.path: str(problem) for problem in stream(**settings).problems()}


def test_importing_the_package_loads_neither_ray_nor_jax_nor_torch():
    heavy = "('ray', 'jax', 'torch', 'craftax')"
    code = f"import sys, workers.rl; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "[]"


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_every_environment_has_a_line_and_a_valid_stream(name):
    assert first_line(ENVIRONMENTS[name]).endswith(".")
    assert stream(environment=name).problems() == []


def test_tasks_carry_all_that_the_environment_needs():
    tasks = stream(
        environment="Craftax-Symbolic-v1",
        tasks=[
            {"name": "surface"},
            {"name": "mines", "domain": "deep", "start_floor": 2, "params": {"god_mode": True}},
        ],
    ).tasks()
    assert [task.domain for task in tasks] == ["surface", "deep"]
    assert tasks[1].settings == {
        "environment": "Craftax-Symbolic-v1",
        "start_floor": 2,
        "achievements": [],
        "params": {"god_mode": True},
    }


def test_unknown_names_are_all_reported_with_what_is_allowed():
    problems = found(
        tasks=[
            {"name": "a", "achievements": ["eat_cow", "fly"], "params": {"gravity": 1}},
            {"name": "b", "start_floor": 1},
        ]
    )
    assert "collect_wood" in problems["stream.tasks.0.achievements.fly"]
    assert "max_timesteps" in problems["stream.tasks.0.params.gravity"]
    assert "surface only" in problems["stream.tasks.1.start_floor"]


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"max_timesteps": True}, "max_timesteps"),
        ({"max_timesteps": 0}, "max_timesteps"),
        ({"max_timesteps": 2**31}, "max_timesteps"),
        ({"day_length": 0}, "day_length"),
        ({"spawn_cow_chance": "x"}, "spawn_cow_chance"),
        ({"always_diamond": 1}, "always_diamond"),
    ],
)
def test_parameters_of_the_wrong_type_or_sign_are_refused(params, path):
    _, config, problems = choose(
        ENVIRONMENT_STREAMS,
        {"kind": "craftax", "tasks": [{"name": "a", "params": params}]},
        "stream",
    )
    if not problems:
        problems = CraftaxStream(config).problems()
    assert any(path in problem.path for problem in problems)


def test_an_unknown_environment_or_another_shape_is_refused():
    assert "Craftax-Symbolic-v1" in found(environment="Crafter")["stream.environment"]
    problems = found(tasks=[{"name": "a", "environment": "Craftax-Symbolic-v1"}])
    assert "one model" in problems["stream.tasks.0.environment"]


def test_names_must_be_unique_and_a_task_is_needed():
    assert "twice" in found(tasks=[{"name": "a"}, {"name": "a"}])["stream.tasks"]
    assert "at least one" in found(tasks=[])["stream.tasks"]


def test_largest_returns_are_those_of_the_game():
    classic = stream(
        tasks=[{"name": "a"}, {"name": "b", "achievements": ["eat_cow", "collect_iron"]}]
    )
    assert [classic.largest_return(task) for task in classic.tasks()] == [22.0, 2.0]
    full = stream(
        environment="Craftax-Symbolic-v1",
        tasks=[{"name": "a"}, {"name": "b", "start_floor": 2}],
    )
    assert [full.largest_return(task) for task in full.tasks()] == [226.0, 220.0]


def test_achievements_that_the_start_already_gives_cannot_be_the_task():
    problems = found(
        environment="Craftax-Symbolic-v1",
        tasks=[{"name": "a", "start_floor": 2, "achievements": ["enter_dungeon"]}],
    )
    assert "already has" in problems["stream.tasks.0.achievements"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"engine": "fast"}, "got 'fast'"),
        ({"engine": "native", "environment": "Craftax-Classic-Pixels-v1"}, "there is no native"),
    ],
)
def test_an_engine_that_cannot_play_is_refused(settings, says):
    assert says in found(**settings)["stream.engine"]
