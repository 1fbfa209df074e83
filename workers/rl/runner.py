"""The environment runner: steps its environments as one batch and returns one rollout a call.

It builds its environments from the lane's stream and follows task switches without being built
anew. Knows nothing of learning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.metrics import SAMPLE_TIMER, WEIGHTS_SEQ_NO
from torch import Tensor

from workers.contract import RunError, TaskSpec, derive_seed
from workers.machine import leave_memory_unfilled, pick_device
from workers.moe.growth import surgery
from workers.rl.building import build_stream, sample_actions
from workers.rl.dlpack import as_tensor, torch_type
from workers.rl.environments.base import BatchedEnvironment, Episode, EpisodeLog, Observations
from workers.rl.environments.vector_env import VectorEnvironment
from workers.rl.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Setting:
    """What a runner plays: a task, and the seed of its environments and of the actions drawn."""

    task: TaskSpec
    seed: int


def build_environment(context: Any) -> VectorEnvironment:
    """RLlib's environment creator: the stream's first task, ``num_envs`` at once."""
    stream = build_stream(context["stream"], context["seed"])
    return VectorEnvironment(stream.environment(stream.tasks()[0], context["num_envs"]))


class BatchEnvRunner(SingleAgentEnvRunner):
    """RLlib's runner with batches instead of one episode object per environment.

    A rollout is on-policy: weights change between two calls of ``sample`` only, and actions are
    drawn from a generator that ``point_at`` and ``reseed`` fix.
    """

    # RLlib declares these as optional; in a built runner they are there.
    env: Any
    module: Any

    setting: Setting | None = None
    """Task it plays; None in one that was just built, or built again after a death."""

    def make_env(self) -> None:
        """Build the batch of environments of this runner."""
        leave_memory_unfilled()
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
        self._plays = self._stream.built_as(task)
        self._log = EpisodeLog(self.num_envs)

    def point_at(self, setting: Setting) -> None:
        """Play this task with these seeds; running episodes are dropped."""
        self.setting = setting
        seed = derive_seed(setting.seed, self.worker_index or 0)
        if self._stream.built_as(setting.task) != self._plays:
            self.env.close()
            self._build(setting.task)
        self.env.engine.set_task(self._stream.setting(setting.task))
        self.env.engine.seed(seed)
        self._generator.manual_seed(seed)
        self._needs_initial_reset = True

    def reseed(self, seed: int) -> None:
        """Fix the actions drawn from here on; episodes go on."""
        self._generator.manual_seed(derive_seed(seed, self.worker_index or 0))

    def fingerprint(self) -> str:
        """Digest of the shape, masks and weights it acts with."""
        return surgery.fingerprint(self.module.net)

    def observe(self) -> Observations:
        """Observations of all environments now [num_envs, ...], a copy."""
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
        self.module.eval()
        self._needs_initial_reset |= force_reset
        self._begin()
        shape = (horizon + 1, envs, *engine.observation_shape)
        kind = torch_type(engine.observation_type)
        observations = torch.empty(shape, dtype=kind, device=self._device)
        # On a GPU the copy of each step is the rollout's own.
        rows = observations.numpy() if self._device.type == "cpu" else None
        shared = False  # whether the engine writes into the next row itself
        actions = np.empty((horizon, envs), np.int64)
        log_probabilities = np.empty((horizon, envs), np.float32)
        logits = np.empty((horizon, envs, engine.actions), np.float32)
        rewards = np.empty((horizon, envs), np.float32)
        terminated = np.empty((horizon, envs), np.bool_)
        truncated = np.empty((horizon, envs), np.bool_)
        finals = _Finals(engine, self._state)
        finished: list[Episode] = []
        before = self._state.cpu().numpy().copy()
        for t in range(horizon):
            # The engine may reuse its memory: the one copy is the rollout's own. Drawing actions
            # waits for the answer to it, so it is made before the engine goes on.
            if not shared:
                observations[t].copy_(as_tensor(self._current))
            batch = {Columns.OBS: observations[t], Columns.STATE_IN: self._state}
            output = self.module.forward_exploration(batch)
            self._state = output[Columns.STATE_OUT]
            answered = output[Columns.ACTION_DIST_INPUTS].cpu()
            drawn, chances = sample_actions(answered, self._generator)
            logits[t] = answered.numpy()
            actions[t], log_probabilities[t] = drawn.numpy(), chances.numpy()
            shared = rows is not None and engine.look_into(rows[t + 1])
            self._current, rewards[t], terminated[t], cut = engine.step(actions[t])
            np.logical_and(cut, ~terminated[t], out=truncated[t])
            finished += self._log.add(engine, rewards[t], terminated[t], truncated[t])
            if truncated[t].any():
                finals.add(self._current, self._state, truncated[t])
            ended = np.flatnonzero(terminated[t] | truncated[t])
            if len(ended):
                self._current = engine.renew(ended)
                self._state[ended] = 0.0
        if shared:
            # The learner has the rows from here on.
            self._current = engine.look_away()
        else:
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
            terminated=terminated,
            truncated=truncated,
            state=before[None],
            final_observations=np.concatenate(finals.observations),
            final_states=np.concatenate(finals.states),
            finished=tuple(finished),
        )


class _Finals:
    """Final observations of truncated episodes, and the model's state with them, as copies."""

    def __init__(self, engine: BatchedEnvironment, state: Tensor) -> None:
        none = np.empty((0, *engine.observation_shape), engine.observation_type)
        self.observations: list[NDArray[Any]] = [none]
        self.states = [np.empty((0, state.shape[1]), np.float32)]

    def add(self, current: Observations, state: Tensor, truncated: NDArray[np.bool_]) -> None:
        """Note what the truncated environments see now, before they are reset."""
        chosen = torch.from_numpy(truncated)
        self.observations.append(as_tensor(current)[chosen].cpu().numpy())
        self.states.append(state[chosen].float().cpu().numpy())
