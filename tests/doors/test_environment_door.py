"""Environments from outside: gymnasium's CartPole, and one whose values can be told beforehand."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from tests.doors import rl
from workers.parsing import choose
from workers.rl import ENVIRONMENT_STREAMS
from workers.rl.environments.base import BatchedEnvironment, Environment
from workers.rl.environments.gymnasium import GymnasiumBatch, GymnasiumEnvironment
from workers.rl.environments.vector_env import VectorEnvironment
from workers.rl.rollout import _final_values
from workers.rl.trainer import RLTrainer

NET = {"kind": "actor_critic", "encoder": 16, "hidden": [16]}
CARTPOLE = {
    "kind": "environments",
    "environment": "CartPole-v1",
    "tasks": [
        {"name": "short", "max_episode_steps": 8, "largest_return": 8},
        {"name": "heavy", "max_episode_steps": 500, "kwargs": {"sutton_barto_reward": True},
         "largest_return": 0.0, "smallest_return": -1.0},
    ],
}  # fmt: skip


class Bell(BatchedEnvironment):
    """A reward of 1 a step; after ``length`` steps the episode ends, observed as its age unless it
    is ``blind``."""

    actions = 2

    def __init__(self, num_envs: int, length: int, cut: bool, blind: bool = False) -> None:
        self.num_envs, self.length, self.cut, self.blind = num_envs, length, cut, blind
        self.observation_shape = (length + 1,)

    def seed(self, seed: int) -> None:
        pass

    def reset(self) -> Any:
        self.age = np.zeros(self.num_envs, int)
        return self._seen()

    def step(self, actions: Any) -> Any:
        self.age += 1
        ended, never = self.age >= self.length, np.zeros(self.num_envs, bool)
        ends = (never, ended) if self.cut else (ended, never)
        return self._seen(), np.ones(self.num_envs, np.float32), *ends

    def renew(self, indices: Any) -> Any:
        self.age[indices] = 0
        return self._seen()

    def _seen(self) -> Any:
        age = np.zeros_like(self.age) if self.blind else self.age
        return np.eye(self.length + 1, dtype=np.float32)[age % (self.length + 1)]


class Bells(Environment):
    """Bells that are cut off, or that terminate."""

    actions = 2
    largest_return = 4.0

    def __init__(self, length: int = 4, cut: bool = True, blind: bool = False) -> None:
        self.length, self.cut, self.blind = length, cut, blind
        self.observation_shape = (length + 1,)

    def build(self, num_envs: int, form: str = "dense") -> BatchedEnvironment:
        return Bell(num_envs, self.length, self.cut, self.blind)


class Rung(gym.Env):
    """A gymnasium environment that never ends by itself: reward 1 for action 1."""

    observation_space = gym.spaces.Discrete(3, start=5)
    action_space = gym.spaces.Discrete(2, start=1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return 5, {}

    def step(self, action: Any) -> Any:
        return 5 + int(self.np_random.integers(3)), float(action == 2), False, False, {}


def bells(**kwargs: Any) -> dict[str, Any]:
    kind = "tests.doors.test_environment_door:Bells"
    tasks = [{"name": "ring", "environment": kind, "kwargs": kwargs}]
    return {"kind": "environments", "tasks": tasks}


def stream(**settings: Any) -> Any:
    cls, config, problems = choose(
        ENVIRONMENT_STREAMS, {"kind": "environments", **settings}, "stream"
    )
    assert cls is not None, problems
    return cls(config, 0)


def found(**task: Any) -> str:
    return "; ".join(map(str, stream(tasks=[{"name": "a", **task}]).problems()))


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("lose", [False, True])
def test_cartpole_with_a_time_limit_goes_through_a_whole_lane(tmp_path, lose):
    reports, scored = rl.run(rl.lane(CARTPOLE, NET), tmp_path, lose)
    assert [report.steps for report in reports] == [128, 256, 128, 256]
    assert [report.metrics["lifetime_steps"] for report in reports] == [128, 256, 384, 512]
    assert [report.revision for report in reports] == [0, 1, 1, 2]
    assert reports[0].metrics["truncated"] > 0.9
    assert reports[0].metrics["episode_length"] == pytest.approx(8, abs=0.5)
    assert reports[3].metrics["truncated"] == 0.0
    assert -1.0 <= reports[3].metrics["return"] <= 0.0
    assert [len(weights) for weights in reports[3].gate_weights.values()] == [3]
    assert scored.figures["short"]["truncated"] > 0.5
    assert 0.0 <= min(scored.scores) <= max(scored.scores) <= 1.0


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_truncated_episode_is_worth_its_future_and_a_terminated_one_its_past(tmp_path):
    """Reward 1 for ever is worth 1 / (1 - gamma) = 2; reward 1 once is worth 1."""
    values = {}
    for cut in (True, False):
        training = {"steps_per_stage": 16384, "gamma": 0.5, "lr": 0.01}
        spec = rl.lane(bells(length=1, cut=cut, blind=True), NET, **training)
        trainer = RLTrainer()
        trainer.open(spec, None)
        trainer.start(rl.stage(spec, 0))
        trainer.run_interval(1)
        learner = trainer._open_algorithm.learner_group._learner
        with torch.no_grad():
            values[cut] = float(learner._net.value(torch.tensor([[1.0, 0.0]])))
        trainer.close()
    assert values[True] == pytest.approx(2.0, abs=0.1)
    assert values[False] == pytest.approx(1.0, abs=0.1)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("core", ["none", "gru"])
def test_the_value_after_a_cut_is_that_of_the_final_observation_in_its_own_episode(core):
    spec = rl.lane(bells(length=5), NET | {"core": core})
    trainer = RLTrainer()
    trainer.open(spec, None)
    trainer.start(rl.stage(spec, 0))
    algorithm = trainer._open_algorithm
    (rollout,) = algorithm.env_runner.sample()
    assert rollout.truncated.sum() == len(rollout.final_observations) == 3 * 4
    assert not rollout.terminated.any()
    assert all(episode.truncated for episode in rollout.finished)
    assert (rollout.final_observations.argmax(1) == 5).all()
    assert not torch.as_tensor(rollout.observations)[..., 5].any()
    module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
    finals = torch.tensor(rollout.final_observations), torch.tensor(rollout.final_states)
    with torch.no_grad():
        state, whole = module.net.initial_state(1), torch.eye(6)
        for seen in whole[:5]:
            _, state = module.net.step(seen[None], state)
        assert torch.allclose(finals[1], state.expand(12, -1), atol=1e-6)
        values = _final_values(module, *finals)
    assert values.shape == (12,)
    assert torch.allclose(values, values[:1].expand(12), atol=1e-6)
    trainer.close()


def test_gymnasium_tells_both_ends_apart_and_begins_only_what_ended():
    facts = GymnasiumEnvironment("CartPole-v1", {}, 12)
    assert facts.problems("p") == []
    assert (facts.observation_shape, facts.actions, facts.largest_return) == ((4,), 2, 475.0)
    batch = facts.build(8)
    batch.seed(3)
    first = batch.reset()
    age, ends = np.zeros(8, int), {"terminated": 0, "truncated": 0}
    rng = np.random.default_rng(0)
    for _ in range(60):
        seen, rewards, terminated, truncated = batch.step(rng.integers(0, 2, 8))
        age += 1
        assert seen.dtype == rewards.dtype == np.float32
        assert (age[truncated] == 12).all()
        assert not (age[~(terminated | truncated)] >= 12).any()
        ends["terminated"] += int(terminated.sum())
        ends["truncated"] += int((truncated & ~terminated).sum())
        ended = terminated | truncated
        if ended.any():
            after = batch.renew(np.flatnonzero(ended))
            assert np.array_equal(after[~ended], seen[~ended])
            assert not (after[ended] == seen[ended]).all(1).any()
            age[ended] = 0
    assert min(ends.values()) > 0
    again = facts.build(8)
    again.seed(3)
    assert np.array_equal(again.reset(), first)


def test_an_ended_environment_may_be_stepped_before_it_is_renewed():
    batch = GymnasiumEnvironment("CartPole-v1", {}, 3).build(2)
    batch.seed(0)
    batch.reset()
    for _ in range(10):
        batch.step(np.zeros(2, int))


def test_classes_of_gymnasium_are_read_with_their_offsets_and_a_limit_of_the_task():
    name = "tests.doors.test_environment_door:Rung"
    played = stream(tasks=[{"name": "a", "environment": name, "max_episode_steps": 4,
                            "largest_return": 4}])  # fmt: skip
    assert played.problems() == []
    (task,) = played.tasks()
    batch = played.environment(task, 2)
    assert isinstance(batch, GymnasiumBatch)
    assert (batch.observation_shape, batch.actions) == ((3,), 2)
    batch.seed(0)
    assert np.array_equal(batch.reset(), [[1, 0, 0], [1, 0, 0]])
    for age in range(1, 5):
        seen, rewards, terminated, truncated = batch.step(np.array([0, 1]))
        assert (seen.sum(1) == 1).all()
        assert rewards.tolist() == [0.0, 1.0]
        assert not terminated.any()
        assert truncated.all() == (age == 4)
    assert (played.largest_return(task), played.smallest_return(task)) == (4, 0)


def test_the_vector_environment_passes_both_ends_on():
    door = VectorEnvironment(Bell(2, 2, cut=True))
    door.reset(seed=1)
    for wanted in (False, True):
        _, _, terminated, truncated, _ = door.step(np.zeros(2, int))
        assert (terminated.any(), truncated.all()) == (False, wanted)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"environment": "Pendulum-v1", "largest_return": 1}, "actions in Box; Discrete"),
        ({"environment": "Blackjack-v1", "largest_return": 1}, "observed in Tuple"),
        ({"environment": "NoSuch-v0"}, "doesn't exist"),
        ({"environment": "CartPole-v1", "kwargs": {"gravity": 1}}, "unexpected keyword"),
        ({"environment": "Acrobot-v1"}, "smallest_return: missing"),
        ({"environment": "CartPole-v1", "smallest_return": 500}, "475 is not above 500"),
        ({"environment": "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv",
          "largest_return": 1}, "resets itself"),
        ({"environment": "tests.doors.test_environment_door:Bell"}, "is none of"),
    ],
)  # fmt: skip
def test_what_cannot_be_played_is_refused_with_the_reason(task, words):
    assert words in found(**task)


def test_all_tasks_share_one_model():
    two = stream(tasks=[{"name": "a"}, {"name": "b", "environment": "FrozenLake-v1"}])
    (problem,) = two.problems()
    assert problem.path == "stream.tasks.1.environment"
    assert "share one model" in str(problem)
