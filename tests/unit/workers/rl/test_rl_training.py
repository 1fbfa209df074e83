"""Settings of PPO refuse what cannot be split evenly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from workers.contract import LaneSettings
from workers.models.actor_critic import ActorCritic
from workers.models.cores import GRU
from workers.parsing import choose
from workers.rl import TRAININGS
from workers.rl.settings import PPOTraining


def test_an_interval_is_a_whole_number_of_updates():
    config = PPOTraining.Config(num_envs=8, rollout=16, steps_per_stage=1024, intervals=2)
    assert config.batch == 128
    assert config.updates_per_interval == 4
    assert config.evaluated == 8


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"steps_per_stage": 1000}, "multiple of intervals"),
        ({"num_envs": 6, "rollout": 5, "steps_per_stage": 30}, "minibatches"),
        ({"num_envs": 64, "num_env_runners": 3, "steps_per_stage": 4096}, "num_env_runners"),
        ({"gamma": 1.5, "steps_per_stage": 4096}, "gamma"),
        ({"lr": 0.0, "steps_per_stage": 4096}, "lr"),
        ({"eval_envs": -4, "steps_per_stage": 4096}, "eval_envs"),
        ({"num_learners": -1, "steps_per_stage": 4096}, "num_learners"),
        ({"num_env_runners": -1, "steps_per_stage": 4096}, "num_env_runners"),
        ({"eval_episodes": 65, "steps_per_stage": 4096}, "eval_episodes"),
    ],
)
def test_what_cannot_be_split_is_a_problem_at_the_door(settings, word):
    _, config, problems = choose(TRAININGS, {"kind": "ppo", **settings}, "training")
    assert config is None
    assert word in str(problems[0])


def lane(model: Any) -> LaneSettings:
    return LaneSettings(
        sections={"model": model},
        policies={},
        tasks=(),
        domains=(),
        trainer="rl",
        acts=True,
        workers=1,
        intervals=1,
    )


def test_sequences_of_a_recurrent_model_must_not_be_torn():
    training = PPOTraining.Config(num_envs=12, rollout=16, steps_per_stage=768)
    recurrent = ActorCritic.Config(core=GRU.Config())
    assert training.problems(lane(ActorCritic.Config())) == []
    (problem,) = training.problems(lane(recurrent))
    assert problem.path == "minibatches"
    assert "multiple of minibatches * learners = 8" in str(problem)
    assert replace(training, minibatches=3, num_learners=2).problems(lane(recurrent)) == []
    assert replace(training, minibatches=4, num_learners=2).problems(lane(recurrent)) != []


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({}, (48, 16)),
        ({"validation_episodes": 0}, (64, 0)),
        ({"eval_episodes": 10}, (10, 16)),
        ({"eval_episodes": 60}, (60, 4)),
        ({"eval_episodes": 10, "validation_episodes": 54}, (10, 54)),
        ({"eval_envs": 3}, (3, 0)),
    ],
)
def test_validation_episodes_are_played_beside_those_of_the_test_part(settings, parts):
    config = PPOTraining.Config(steps_per_stage=4096, **settings)
    assert (config.test_episodes, config.validated) == parts


@pytest.mark.parametrize(
    "settings",
    [
        {"validation_episodes": 64},
        {"validation_episodes": -1},
        {"eval_episodes": 60, "validation_episodes": 5},
        {"eval_episodes": 0},
    ],
)
def test_parts_that_do_not_fit_the_environments_are_refused(settings):
    with pytest.raises(ValueError, match="validation_episodes"):
        PPOTraining.Config(steps_per_stage=4096, **settings)
