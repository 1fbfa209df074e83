"""PPO's learner with a model that grows in place and keeps its optimizer state by name.

RLlib's learner holds the parameters it trains in several registers; growth changes them all, and
raises the number of the weights so that no runner takes the new ones for old.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo.ppo import (
    LEARNER_RESULTS_KL_KEY,
    LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY,
)
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchDDPRLModule
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import NUM_ENV_STEPS_TRAINED_LIFETIME
from torch import Tensor

from workers.contract import EditReport, Json, ModelShape
from workers.edits import Edit
from workers.models.actor_critic import ActorCritic
from workers.moe.bank import ExpertBank
from workers.moe.domains import specialise
from workers.moe.growth import surgery
from workers.moe.growth.optimizer_state import load_named_state, named_state
from workers.moe.telemetry import routed, take_auxiliary, usage
from workers.rl.building import freeze, frozen_names
from workers.rl.loss import ClippedStep, LossWeights, divergence, ppo_loss
from workers.rl.module import NOT_ACTING, past_of
from workers.rl.rollout import standardised


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
            optimizer=torch.optim.Adam(named, lr=config.lr, eps=1e-5, fused=True),
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
            model={k: _kept(v) for k, v in self._net.state_dict().items()},
            optimizer={
                name: _kept(tensor)
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
        """Layer -> mean gate weight of each expert in training since the last call, in all
        learners. To be called in all of them at once."""
        return usage(self._net, self._total)

    def fingerprint(self) -> str:
        """Digest of the model as it stands."""
        return surgery.fingerprint(self._net)

    def acting_fingerprint(self) -> str:
        """Digest of what a runner holds of the model: all but the critic."""
        return surgery.fingerprint(self._net, without=NOT_ACTING)

    # ------------------------------------------------------------ domains

    def learn_for(self, domains: tuple[str, ...], domain: str) -> None:
        """Every sample from here on is of ``domain``, one of all the stream's ``domains``.

        Counts begin anew.
        """
        index = torch.tensor([domains.index(domain)], device=self._device)
        specialise.point(self._banks, domains, index)
        specialise.take_counts(self._net)

    def take_counts(self) -> specialise.Counts:
        """How many samples of each domain chose each expert since the last call, in all learners.

        A sample counts once in each epoch. To be called in all learners at once.
        """
        return specialise.take_counts(self._net, self._total)

    def _total(self, counts: Tensor) -> Tensor:
        """The sum over all learners."""
        if not self.distributed:
            return counts
        summed = counts.to(self._device, copy=True)
        torch.distributed.all_reduce(summed)
        return summed

    def _anywhere(self, flags_E: Tensor) -> Tensor:
        """Flags that hold in any learner."""
        return self._total(flags_E.long()) > 0

    # ------------------------------------------------------------ training

    def update(  # type: ignore[override]
        self, *, training_data: Any = None, episodes: Any = None, **settings: Any
    ) -> Any:
        """All epochs over one batch; RLlib's own loop spends its time on every minibatch anew.

        ``settings`` are RLlib's ``timesteps``, ``num_epochs`` and ``minibatch_size``, and ``lr``
        and ``progress`` (share of the stage that is done).
        """
        timesteps = settings.get("timesteps") or {}
        self.before_gradient_based_update(timesteps=timesteps)
        training_data = training_data or TrainingData(episodes=episodes)
        training_data.solve_refs()
        batch = self._make_batch_if_necessary(training_data=training_data)
        columns = dict(batch.policy_batches[DEFAULT_MODULE_ID])
        if settings.get("lr") is not None:
            self._set_optimizer_lr(self._optimizer, settings["lr"])
        specialise.set_progress(self._banks, settings.get("progress", 0.0))
        self._weights_seq_no += 1
        metrics = self._learn(columns, settings["num_epochs"], settings["minibatch_size"])
        self.metrics.log_dict(metrics, key=DEFAULT_MODULE_ID, window=1)
        steps = (ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME)
        self.metrics.log_value(steps, len(batch), reduce="lifetime_sum")
        self.after_gradient_based_update(timesteps=timesteps)
        return self.metrics.reduce()

    def _learn(self, columns: dict[str, Tensor], epochs: int, size: int) -> dict[str, float]:
        net, optimizer, config = self._net, self._optimizer, cast(Any, self.config)
        options = config.learner_config_dict
        module = self._module[DEFAULT_MODULE_ID]
        targets = columns[Postprocessing.VALUE_TARGETS]
        explained = _explained(targets, columns[Columns.VF_PREDS])
        net.follow(*self._moments(targets), options["value_rate"])
        columns[Postprocessing.VALUE_TARGETS] = net.scale(targets)
        columns[Columns.VF_PREDS] = net.scale(columns[Columns.VF_PREDS])
        parameters = [p for p in net.parameters() if p.requires_grad]
        banks = self._banks
        step = ClippedStep(
            optimizer,
            parameters,
            config.grad_clip,
            drop=lambda: specialise.drop_masked(banks, self._anywhere),
        )
        weights = LossWeights(
            clip=config.clip_param,
            value=config.vf_loss_coeff,
            clip_values=options["clip_values"],
            entropy=cast(
                float,
                self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value(),
            ),
            kl=float(self._kl_coefficient),
        )
        normalise, routers = options["normalise_each_minibatch"], routed(net)
        seen, part = [], columns
        for part in _minibatches(columns, epochs, size):
            if normalise:
                advantages = standardised(part[Postprocessing.ADVANTAGES])
                part[Postprocessing.ADVANTAGES] = advantages
            loss, figures = ppo_loss(module._forward_train(part), _steps(part), weights)
            auxiliary = take_auxiliary(routers)
            seen.append((*figures, step(loss if auxiliary is None else loss + auxiliary)))
        return {
            **_named(seen),
            "skipped": step.skipped(),
            "lr": float(self._get_optimizer_lr(optimizer)),
            LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY: explained,
            LEARNER_RESULTS_KL_KEY: self._divergence(part),
        }

    def _moments(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and mean square over the batches of all learners, which must stay equal."""
        moments = torch.stack([targets.mean(), (targets**2).mean()])
        if self.distributed:
            torch.distributed.all_reduce(moments)
            moments /= torch.distributed.get_world_size()
        return moments[0], moments[1]

    @torch.no_grad()
    def _divergence(self, part: dict[str, Tensor]) -> float:
        """Mean divergence of the new policy from the one that acted."""
        new_BA = self._net(part[Columns.OBS], past_of(part)).flatten(0, -2)
        return float(divergence(_steps(part)[Columns.ACTION_DIST_INPUTS], new_BA))

    @property
    def _net(self) -> ActorCritic:
        net = self._module[DEFAULT_MODULE_ID].unwrapped().net
        assert isinstance(net, ActorCritic)
        return net

    @property
    def _banks(self) -> tuple[ExpertBank, ...]:
        return tuple(specialise.banks(self._net).values())

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.get_optimizer(DEFAULT_MODULE_ID)

    @property
    def _kl_coefficient(self) -> Tensor:
        coefficient: Any = self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID]
        assert isinstance(coefficient, Tensor)
        return coefficient


def _kept(tensor: Tensor) -> Tensor:
    """A copy on the CPU in the plain order of memory, as checkpoints want it."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _minibatches(columns: dict[str, Tensor], epochs: int, size: int) -> Iterator[dict[str, Tensor]]:
    """``size`` steps each, in a new order at each epoch; whole sequences where columns are such."""
    total = len(columns[Columns.ACTIONS])
    size = size * total // columns[Columns.ACTIONS].numel()
    for _ in range(epochs):
        order = torch.randperm(total)
        for start in range(0, total - size + 1, size):
            chosen = order[start : start + size].to(columns[Columns.ACTIONS].device)
            yield {name: column.index_select(0, chosen) for name, column in columns.items()}


def _steps(part: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the loss needs of a minibatch, steps of sequences in a row."""
    if past_of(part) is None:
        return part
    return {name: part[name].flatten(0, 1) for name in _OF_LOSS}


_OF_LOSS = (
    Columns.ACTIONS,
    Columns.ACTION_LOGP,
    Columns.ACTION_DIST_INPUTS,
    Columns.VF_PREDS,
    Postprocessing.ADVANTAGES,
    Postprocessing.VALUE_TARGETS,
)


def _named(seen: list[tuple[Tensor, ...]]) -> dict[str, float]:
    """Means over the minibatches of what ``ppo_loss`` measures, and of the gradient's norm."""
    means = torch.stack([torch.stack(figures) for figures in seen]).mean(0).tolist()
    names = (
        "total_loss",
        POLICY_LOSS_KEY,
        VF_LOSS_KEY,
        ENTROPY_KEY,
        "clipped",
        "gradient_norm",
    )
    return dict(zip(names, means, strict=True))


def _explained(targets: Tensor, values: Tensor) -> float:
    """Share of the variance of the value targets that the values had foreseen."""
    return float(1.0 - (targets - values).var() / targets.var().clamp_min(1e-8))
