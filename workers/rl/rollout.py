"""Rollouts of an environment runner, and their conversion to a PPO training batch.

A rollout keeps time and environments as two axes, so that advantages of all environments are
computed at once. Letters: T steps, N environments, K truncated steps, S numbers of recurrent state.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from workers.models.cores import Past
from workers.rl.dlpack import as_tensor
from workers.rl.environments.base import Episode
from workers.rl.module import BEGINS


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """T steps of N environments; what RLlib calls an episode list is one of these."""

    observations: NDArray[Any] | Tensor
    """[T + 1, N, ...]: the last one is only looked at for its value. A tensor on their device
    where runner and learner are in one process."""
    actions: NDArray[np.int64]
    """[T, N], as are the following."""
    log_probabilities: NDArray[np.float32]
    logits: NDArray[np.float32]
    """[T, N, A]."""
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    """The episode ended with this step, and no reward can follow."""
    truncated: NDArray[np.bool_]
    """The episode was cut off after this step; never where it terminated."""
    state: NDArray[np.float32]
    """[1, N, S]: state of the model's core before the first step; S = 0 where it has none."""
    final_observations: NDArray[Any]
    """[K, ...]: what was seen after each truncated step, before the environment was reset, in the
    order of ``np.argwhere(truncated)``."""
    final_states: NDArray[np.float32]
    """[K, S]: state of the model's core then."""
    finished: tuple[Episode, ...] = ()
    """Episodes that ended in it."""

    def __len__(self) -> int:
        return int(self.actions.size)

    def env_steps(self) -> int:
        """Environment steps in it."""
        return len(self)

    def agent_steps(self) -> int:
        """The same: there is one agent in each environment."""
        return len(self)

    def __getitem__(self, part: slice) -> Rollout:
        """The environments of the first so many steps; RLlib splits for several learners so."""
        return self.slice(part)

    def slice(self, part: slice, len_lookback_buffer: int | None = None) -> Rollout:
        """A part of the environments, given in steps: multiples of T."""
        horizon = self.actions.shape[0]
        start, stop, stride = part.indices(len(self))
        assert stride == 1, "a rollout is cut in one piece"
        assert start % horizon == stop % horizon == 0, "a rollout is cut between environments"
        cut = slice(start // horizon, stop // horizon)
        arrays = {
            item.name: getattr(self, item.name)[:, cut]
            for item in fields(self)
            if item.name not in _NOT_BY_ENVIRONMENT
        }
        played_in = np.nonzero(self.truncated)[1]
        kept = (cut.start <= played_in) & (played_in < cut.stop)
        return Rollout(
            **arrays,
            final_observations=self.final_observations[kept],
            final_states=self.final_states[kept],
        )


_NOT_BY_ENVIRONMENT = ("final_observations", "final_states", "finished")


def advantages(
    rewards_TN: Tensor,
    values_TN: Tensor,
    terminated_TN: Tensor,
    truncated_TN: Tensor,
    final_K: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimation (arXiv 1506.02438), float [T, N].

    ``values`` [T + 1, N] has one more row than the rest. After a terminated step no return
    follows; after a truncated one the value of its final observation does: ``final`` [K], in the
    order of the truncated steps. The trace of later steps is cut at both.
    """
    ended_TN = terminated_TN | truncated_TN
    going_TN = 1.0 - ended_TN.float()
    next_TN = values_TN[1:] * going_TN
    if len(final_K):
        next_TN[truncated_TN] = final_K
    delta_TN = rewards_TN + gamma * next_TN - values_TN[:-1]
    result_TN = torch.empty_like(rewards_TN)
    running_N = torch.zeros_like(rewards_TN[0])
    for t in range(len(rewards_TN) - 1, -1, -1):
        running_N = delta_TN[t] + gamma * gae_lambda * going_TN[t] * running_N
        result_TN[t] = running_N
    return result_TN


def standardised(advantages_B: Tensor) -> Tensor:
    """Mean 0, standard deviation 1."""
    spread, mean = torch.std_mean(advantages_B)
    return (advantages_B - mean) / spread.clamp_min(1e-4)


class RolloutsToBatch(ConnectorV2):
    """The whole learner pipeline: rollouts to one batch of columns.

    An entry is one step [...]; for a recurrent model it is all steps of one environment
    [T, ...], so that sequences stay whole.
    """

    def __init__(
        self,
        input_observation_space: Any = None,
        input_action_space: Any = None,
        *,
        gamma: float,
        gae_lambda: float,
        normalise: bool,
    ) -> None:
        super().__init__(input_observation_space, input_action_space)
        self.gamma, self.gae_lambda, self.normalise = gamma, gae_lambda, normalise

    def __call__(  # type: ignore[override]
        self, *, rl_module: Any, batch: Any, episodes: list[Rollout], **_: Any
    ) -> Any:
        """RLlib's call: rollouts in, ``{module id: columns}`` out."""
        module = rl_module[DEFAULT_MODULE_ID].unwrapped()
        columns = [self._columns(module, rollout) for rollout in episodes]
        joined = columns[0]
        if len(columns) > 1:
            joined = {name: torch.cat([part[name] for part in columns]) for name in joined}
        if self.normalise:
            name = Postprocessing.ADVANTAGES
            joined[name] = standardised(joined[name])
        return {DEFAULT_MODULE_ID: joined}

    def _columns(self, module: Any, rollout: Rollout) -> dict[str, Tensor]:
        device = next(module.parameters()).device

        def tensor(array: NDArray[Any] | Tensor) -> Tensor:
            # Arrays out of Ray's object store are read-only, which torch cannot express.
            known = array if isinstance(array, Tensor) else as_tensor(array)
            return known.to(device)

        observations = tensor(rollout.observations)
        terminated, truncated = tensor(rollout.terminated), tensor(rollout.truncated)
        finals = tensor(rollout.final_observations), tensor(rollout.final_states)
        with torch.no_grad():
            ended = terminated | truncated
            values, past = _valued(module, observations, ended, tensor(rollout.state))
            final = _final_values(module, *finals)
        gained = advantages(
            tensor(rollout.rewards),
            values,
            terminated,
            truncated,
            final,
            self.gamma,
            self.gae_lambda,
        )
        steps = {
            Columns.OBS: observations[:-1],
            Columns.ACTIONS: tensor(rollout.actions),
            Columns.ACTION_LOGP: tensor(rollout.log_probabilities),
            Columns.ACTION_DIST_INPUTS: tensor(rollout.logits),
            Postprocessing.ADVANTAGES: gained,
            Columns.VF_PREDS: values[:-1],
            Postprocessing.VALUE_TARGETS: gained + values[:-1],
        }
        if past is None:
            return {name: column.flatten(0, 1) for name, column in steps.items()}
        whole = {name: column.transpose(0, 1).contiguous() for name, column in steps.items()}
        return {**whole, BEGINS: past.begins[:, :-1], Columns.STATE_IN: past.state}


def _valued(
    module: Any, observations: Tensor, ended_TN: Tensor, state: Tensor
) -> tuple[Tensor, Past | None]:
    """Values [T + 1, N] of all observations; for a recurrent model also what went before them."""
    horizon, envs = ended_TN.shape
    if not module.net.recurrent:
        values = module.compute_values({Columns.OBS: observations.flatten(0, 1)})
        return values.view(horizon + 1, envs), None
    begins = torch.cat([torch.zeros_like(ended_TN[:1]), ended_TN]).t()
    past = Past(state.squeeze(0), begins)
    batch = {
        Columns.OBS: observations.transpose(0, 1),
        Columns.STATE_IN: past.state,
        BEGINS: begins,
    }
    return module.compute_values(batch).t(), past


def _final_values(module: Any, observations: Tensor, states: Tensor) -> Tensor:
    """Values [K] of the final observations of truncated episodes [K, ...], each seen with the
    core's state [K, S] of its own episode."""
    if not len(observations):
        return states.new_zeros(0)
    batch = {Columns.OBS: observations}
    if module.net.recurrent:
        batch = {
            Columns.OBS: observations.unsqueeze(1),
            Columns.STATE_IN: states,
            BEGINS: torch.zeros(len(states), 1, dtype=torch.bool, device=states.device),
        }
    return module.compute_values(batch).flatten()
