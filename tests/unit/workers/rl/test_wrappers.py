"""Wrappers by name: what a model then reads, and what is refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from workers.parsing import choose
from workers.rl import ENVIRONMENT_STREAMS
from workers.rl.environments.wrappers import WRAPPERS, wrapped

VIEW = ["one_hot_view", {"kind": "part", "name": "image"}, "flatten"]
GRID = {"environment": "minigrid:MiniGrid-Empty-5x5-v0", "largest_return": 1.0}
PONG = {
    "environment": "ale_py:ALE/Pong-v5",
    "largest_return": 21.0,
    "smallest_return": -21.0,
}


def stream(**settings: Any) -> Any:
    cls, config, problems = choose(
        ENVIRONMENT_STREAMS, {"kind": "environments", **settings}, "stream"
    )
    assert cls is not None, problems
    return cls(config, 0)


def found(**task: Any) -> str:
    return "; ".join(map(str, stream(tasks=[{"name": "a", **task}]).problems()))


def test_every_name_leads_to_a_wrapper() -> None:
    for name in WRAPPERS:
        module, _, attribute = WRAPPERS[name].partition(":")
        made = getattr(__import__(module, fromlist=[attribute]), attribute)
        assert issubclass(made, gym.Wrapper)


def test_a_grid_s_dictionary_becomes_one_vector() -> None:
    played = stream(tasks=[{"name": "grid", **GRID}], wrappers=VIEW)
    assert not played.problems()
    # 7 x 7 cells of 11 objects, 6 colours and 3 states
    assert (played.input_shape, played.outputs, played.form) == ((7 * 7 * 20,), 7, "dense")
    batch = played.environment(played.tasks()[0], 3)
    batch.seed(0)
    seen = batch.reset()
    assert seen.shape == (3, 980)
    assert seen.dtype == np.float32
    assert np.all(seen.reshape(3, 49, 20).sum(-1) == 3.0), "one object, colour and state a cell"
    assert "Dict" in found(**GRID)
    assert "give wrappers: flatten, or part" in found(**GRID)


def test_an_image_shrinks_to_means_of_squares() -> None:
    played = stream(
        tasks=[
            {"name": "pong", **PONG, "wrappers": [{"kind": "shrink", "factor": 5, "grey": True}]}
        ]
    )
    assert not played.problems()
    assert (played.input_shape, played.outputs, played.form) == ((42, 32, 1), 6, "pixels")
    batch = played.environment(played.tasks()[0], 1)
    batch.seed(3)
    seen = batch.reset()
    plain = gym.make("ale_py:ALE/Pong-v5")
    image, _ = plain.reset(seed=3)
    for row, column in ((0, 0), (20, 7), (41, 31)):
        square = image[5 * row : 5 * row + 5, 5 * column : 5 * column + 5]
        assert seen[0, row, column, 0] == int(square.mean())
    plain.close()


def test_rows_that_fill_no_square_are_left_out() -> None:
    env = gym.wrappers.TransformObservation(
        gym.make("CartPole-v1"),
        lambda seen: np.arange(7 * 5 * 2, dtype=np.uint8).reshape(7, 5, 2),
        gym.spaces.Box(0, 255, (7, 5, 2), np.uint8),
    )
    seen, _ = wrapped(env, [{"kind": "shrink", "factor": 3}]).reset(seed=0)
    assert seen.shape == (2, 1, 2)
    whole = np.arange(70).reshape(7, 5, 2)
    assert np.array_equal(seen[1, 0], whole[3:6, :3].mean((0, 1)).astype(np.uint8))


def test_the_physics_of_a_task_are_its_own() -> None:
    heavy = {"kind": "attributes", "gravity": 40.0}
    played = stream(tasks=[{"name": "light"}, {"name": "heavy", "wrappers": [heavy]}])
    assert not played.problems()
    light, weighed = played.tasks()
    assert played.built_as(light) != played.built_as(weighed)
    seen = []
    for task in (light, weighed):
        batch = played.environment(task, 1)
        batch.seed(1)
        batch.reset()
        seen.append([batch.step(np.array([1]))[0].copy() for _ in range(3)])
        batch.close()
    assert not np.array_equal(seen[0], seen[1])
    assert "has no 'weight'" in found(wrappers=[{"kind": "attributes", "weight": 1.0}])


def test_a_task_s_wrappers_replace_the_stream_s() -> None:
    tasks = [{"name": "grid", **GRID}, {"name": "pole", "wrappers": []}]
    specs = stream(tasks=tasks, wrappers=VIEW).tasks()
    assert [spec.settings["wrappers"] for spec in specs] == [VIEW, []]


@pytest.mark.parametrize(
    ("wrappers", "told"),
    [
        (["flat"], "no wrapper 'flat'; allowed: attributes, part, shrink"),
        ([{"name": "image"}], "no wrapper None"),
        ([{"kind": "part", "name": "sound"}], "allowed: direction, image, mission"),
        ([{"kind": "shrink", "factor": 5}], "needs images"),
        (["gymnasium.wrappers:Nothing"], "AttributeError"),
        (["nowhere.at.all:Wrapper"], "No module named 'nowhere'"),
        ([{"kind": "flatten", "wide": True}], "unexpected keyword"),
    ],
)
def test_a_wrapper_that_does_not_fit_is_refused_at_plan_time(wrappers: Any, told: str) -> None:
    assert told in found(**GRID, wrappers=wrappers)


def test_names_alone_are_tasks() -> None:
    names = ["CartPole-v1", "Acrobot-v1"]
    played = stream(environments=names, smallest_return=-500.0)
    assert [task.name for task in played.tasks()] == names
    assert [played.largest_return(task) for task in played.tasks()] == [475.0, -100.0]
    assert [played.smallest_return(task) for task in played.tasks()] == [-500.0, -500.0]
    both = stream(environments=names, tasks=[{"name": "a"}])
    assert [str(problem) for problem in both.problems()] == [
        "stream.environments: given beside tasks; give one of the two"
    ]


def test_continuous_actions_are_refused() -> None:
    assert "no training here has a loss for continuous ones" in found(
        environment="Pendulum-v1", largest_return=0.0, smallest_return=-1600.0
    )
