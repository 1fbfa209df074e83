"""PPO's learner with a model that grows in place and keeps its optimizer state by name.

RLlib's learner holds the parameters it trains in several registers; growth changes them all, and
raises the number of the weights so that no runner takes the new ones for old.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchDDPRLModule
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from torch import Tensor

from workers.contract import Edit, EditReport, Json, ModelShape
from workers.moe import surgery
from workers.moe.actor_critic import ActorCritic
from workers.moe.optimizer import load_named_state, named_state
from workers.moe.telemetry import auxiliary_loss, usage
from workers.rl.lane import freeze, frozen_names


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerState:
    """All a learner must get back after a loss, on the CPU."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    architecture: Json
    frozen: tuple[str, ...]
    """Names of parameters that are not to be trained."""
    kl_coefficient: float
    lr: float


class GrowableLearner(PPOTorchLearner):
    """PPO on a growable model: edits, state by name, minibatches by index."""

    _module: Any

    def configure_optimizers_for_module(self, module_id: Any, config: Any = None) -> None:
        """Adam over the model's own parameter names (Adam's epsilon as in PPO baselines)."""
        named = list(self._net.named_parameters())
        self.register_optimizer(
            module_id=module_id,
            optimizer=torch.optim.Adam(named, lr=config.lr, eps=1e-5),
            params=[parameter for _, parameter in named],
            lr_or_lr_schedule=config.lr,
        )

    # ------------------------------------------------------------ growth

    def apply_edit(self, edit: Edit, probe: NDArray[np.float32]) -> EditReport:
        """Change the model as the edit says; a repeated edit changes nothing.

        ``probe`` [B, *observation_shape]: observations on which the change is measured.
        """
        seen = torch.tensor(probe, device=self._device)
        report = surgery.apply(self._net, self._optimizer, edit, seen)
        self._register_parameters()
        self._weights_seq_no += 1
        return report

    def _register_parameters(self) -> None:
        """Bring RLlib's registers, and the data-parallel wrapper, up to the model's parameters."""
        optimizer = self._optimizer
        for reference in self._optimizer_parameters[optimizer]:
            self._params.pop(reference, None)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._optimizer_parameters[optimizer] = [self.get_param_ref(p) for p in parameters]
        self._params.update((self.get_param_ref(p), p) for p in parameters)
        if self.distributed:
            module = self._module[DEFAULT_MODULE_ID].unwrapped()
            wrapped = TorchDDPRLModule(module, **self.config.torch_ddp_kwargs)
            self._module.add_module(DEFAULT_MODULE_ID, wrapped, override=True)

    # ------------------------------------------------------------ state

    def export(self) -> LearnerState:
        """A copy of everything to be kept."""
        return LearnerState(
            model={k: v.detach().cpu().clone() for k, v in self._net.state_dict().items()},
            optimizer={
                name: tensor.detach().cpu().clone()
                for name, tensor in named_state(self._net, self._optimizer).items()
            },
            architecture=surgery.arch(self._net),
            frozen=frozen_names(self._net),
            kl_coefficient=float(self._kl_coefficient),
            lr=float(self._get_optimizer_lr(self._optimizer)),
        )

    def restore(self, state: LearnerState) -> None:
        """Become what was exported, whatever shape the model has now."""
        surgery.ensure_arch(self._net, state.architecture)
        self._net.load_state_dict(state.model)
        freeze(self._net, state.frozen)
        load_named_state(self._net, self._optimizer, state.optimizer)
        self._register_parameters()
        self._kl_coefficient.data.fill_(state.kl_coefficient)
        self._set_optimizer_lr(self._optimizer, state.lr)
        self._weights_seq_no += 1

    def reseed(self, seed: int) -> None:
        """Fix the order of minibatches from here on."""
        torch.manual_seed(seed)

    def shape(self) -> ModelShape:
        """Shape of the model as it stands."""
        return surgery.shape(self._net)

    def usage(self) -> dict[str, list[float]]:
        """Layer -> mean gate weight of each expert in training since the last call."""
        return usage(self._net)

    def fingerprint(self) -> str:
        """Digest of the model as it stands."""
        return surgery.fingerprint(self._net)

    # ------------------------------------------------------------ training

    def compute_loss_for_module(
        self, *, module_id: Any, config: Any, batch: Any, fwd_out: Any
    ) -> Tensor:
        """PPO's loss and the balance loss of the routers, where one is asked for."""
        loss: Any = super().compute_loss_for_module(
            module_id=module_id, config=config, batch=batch, fwd_out=fwd_out
        )
        total: Tensor = loss + auxiliary_loss(self._net)
        return total

    def postprocess_gradients_for_module(
        self, *, module_id: Any, config: Any = None, module_gradients_dict: Any
    ) -> Any:
        """Drop parameters without a gradient: a frozen one must not move by Adam's momentum."""
        present = {}
        for reference, gradient in module_gradients_dict.items():
            if gradient is not None and self._params[reference].requires_grad:
                present[reference] = gradient
            else:
                self._params[reference].grad = None
        return super().postprocess_gradients_for_module(
            module_id=module_id, config=config, module_gradients_dict=present
        )

    def _create_iterator_if_necessary(
        self,
        *,
        training_data: Any,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        **_: Any,
    ) -> Iterable[MultiAgentBatch]:
        """Minibatches picked by index: RLlib's own iterator shuffles the whole batch instead."""
        batch = self._make_batch_if_necessary(training_data=training_data)
        columns = dict(batch.policy_batches[DEFAULT_MODULE_ID])
        return _minibatches(columns, num_epochs, minibatch_size or len(batch))

    @property
    def _net(self) -> ActorCritic:
        net = self._module[DEFAULT_MODULE_ID].unwrapped().net
        assert isinstance(net, ActorCritic)
        return net

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.get_optimizer(DEFAULT_MODULE_ID)

    @property
    def _kl_coefficient(self) -> Tensor:
        coefficient: Any = self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID]
        assert isinstance(coefficient, Tensor)
        return coefficient


def _minibatches(columns: dict[str, Tensor], epochs: int, size: int) -> Iterator[MultiAgentBatch]:
    total = len(next(iter(columns.values())))
    for _ in range(epochs):
        order = torch.randperm(total)
        for start in range(0, total - size + 1, size):
            chosen = order[start : start + size]
            part = {name: column[chosen] for name, column in columns.items()}
            yield MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(part)}, env_steps=size)
