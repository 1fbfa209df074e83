"""The environment runner: acts in all its environments at once and brings home one rollout.

It builds its environments from the lane's stream, and can be pointed at another task without
being built anew. Knows nothing of learning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.metrics import SAMPLE_TIMER, WEIGHTS_SEQ_NO

from workers.contract import RunError, TaskSpec, derive_seed
from workers.moe.growth import surgery
from workers.rl.building import build_stream, sample_actions
from workers.rl.dlpack import as_tensor, torch_type
from workers.rl.environments.base import Episode, EpisodeLog, Observations
from workers.rl.environments.gymnasium_vector import VectorEnvironment
from workers.rl.rollout import Rollout
from workers.supervised.building import pick_device


@dataclass(frozen=True, slots=True)
class Setting:
    """What a runner is pointed at: a task, and the seed of its worlds and actions."""

    task: TaskSpec
    seed: int


def build_environment(context: Any) -> VectorEnvironment:
    """RLlib's environment creator: the stream's first task, ``num_envs`` at once."""
    stream = build_stream(context["stream"], context["seed"])
    return VectorEnvironment(stream.environment(stream.tasks()[0], context["num_envs"]))


class BatchEnvRunner(SingleAgentEnvRunner):
    """RLlib's runner with batches instead of one episode object per environment."""

    # RLlib declares these as optional; in a built runner they are there.
    env: Any
    module: Any

    setting: Setting | None = None
    """What it was pointed at; None in one that was just built, or built again after a death."""

    def make_env(self) -> None:
        """Build the batch of environments of this runner."""
        context = self.config.env_config
        self.num_envs = self.config.num_envs_per_env_runner
        self._stream = build_stream(context["stream"], context["seed"])
        self._build(self._stream.tasks()[0])
        self._generator = torch.Generator()
        # RLlib leaves the runner inside the worker on the CPU, whatever the learner beside it has.
        self._shares = not self.worker_index and self.config.num_learners == 0
        if self._shares:
            self._device = pick_device()
        self._needs_initial_reset = True

    def _build(self, task: TaskSpec) -> None:
        self.env = VectorEnvironment(self._stream.environment(task, self.num_envs))
        self._plays = task.settings.get("environment")
        self._log = EpisodeLog(self.num_envs)

    def point_at(self, setting: Setting) -> None:
        """Play this task with these seeds; running episodes are dropped."""
        self.setting = setting
        seed = derive_seed(setting.seed, self.worker_index or 0)
        if setting.task.settings.get("environment") != self._plays:
            self._build(setting.task)
        self.env.engine.set_task(self._stream.setting(setting.task))
        self.env.engine.seed(seed)
        self._generator.manual_seed(seed)
        self._needs_initial_reset = True

    def reseed(self, seed: int) -> None:
        """Fix the actions drawn from here on; worlds go on."""
        self._generator.manual_seed(derive_seed(seed, self.worker_index or 0))

    def fingerprint(self) -> str:
        """Digest of the shape, masks and weights it acts with."""
        return surgery.fingerprint(self.module.net)

    def observe(self) -> Observations:
        """What is seen in all environments now [num_envs, ...], a copy."""
        self._begin()
        return np.array(self._current)

    def sample(  # type: ignore[override]
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[Rollout]:
        """One rollout of T steps in every environment, with actions drawn from the policy."""
        assert num_episodes is None, "rollouts have a fixed length; episodes are not counted"
        assert not random_actions, "actions come from the policy"
        if self.setting is None:
            raise RunError("an environment runner was not pointed at a task; it has been restarted")
        horizon = self.config.get_rollout_fragment_length(self.worker_index)
        if num_timesteps is not None:
            horizon = num_timesteps // self.num_envs
        self.metrics.log_value(WEIGHTS_SEQ_NO, self._weights_seq_no, window=1)
        with self.metrics.log_time(SAMPLE_TIMER), torch.inference_mode():
            rollout = self._roll(horizon, force_reset)
        self._increase_sampled_metrics(len(rollout), len(rollout.finished))
        self.num_env_steps_sampled_lifetime += len(rollout)
        return [rollout]

    def get_metrics(self) -> Any:
        """RLlib's counters; episodes travel in the rollouts."""
        return self.metrics.reduce()

    def _begin(self) -> None:
        """Begin new episodes everywhere, if that is due."""
        if self._needs_initial_reset:
            self._current = self.env.engine.reset()
            self._state = self.module.net.initial_state(self.num_envs)
            self._log.clear()
            self._needs_initial_reset = False

    def _roll(self, horizon: int, force_reset: bool) -> Rollout:
        engine, envs = self.env.engine, self.num_envs
        self._needs_initial_reset |= force_reset
        self._begin()
        shape = (horizon + 1, envs, *engine.observation_shape)
        kind = torch_type(engine.observation_type)
        observations = torch.empty(shape, dtype=kind, device=self._device)
        actions = np.empty((horizon, envs), np.int64)
        log_probabilities = np.empty((horizon, envs), np.float32)
        logits = np.empty((horizon, envs, engine.actions), np.float32)
        rewards = np.empty((horizon, envs), np.float32)
        done = np.empty((horizon, envs), np.bool_)
        finished: list[Episode] = []
        before = self._state.cpu().numpy().copy()
        for t in range(horizon):
            # The engine may reuse its memory: the one copy is the rollout's own. Drawing actions
            # waits for the answer to it, so it is made before the engine goes on.
            observations[t].copy_(as_tensor(self._current))
            batch = {Columns.OBS: observations[t], Columns.STATE_IN: self._state}
            output = self.module.forward_exploration(batch)
            self._state = output[Columns.STATE_OUT]
            answered = output[Columns.ACTION_DIST_INPUTS].cpu()
            drawn, chances = sample_actions(answered, self._generator)
            logits[t] = answered.numpy()
            actions[t], log_probabilities[t] = drawn.numpy(), chances.numpy()
            self._current, rewards[t], done[t] = engine.step(actions[t])
            finished += self._log.add(engine, rewards[t], done[t])
            if done[t].any():
                ended = np.flatnonzero(done[t])
                self._current = engine.renew(ended)
                self._state[ended] = 0.0
        observations[horizon].copy_(as_tensor(self._current))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the last copy too, before the engine goes on
        return Rollout(
            # A learner in this process reads them where they are.
            observations=observations if self._shares else observations.cpu().numpy(),
            actions=actions,
            log_probabilities=log_probabilities,
            logits=logits,
            rewards=rewards,
            done=done,
            state=before[None],
            finished=tuple(finished),
        )
