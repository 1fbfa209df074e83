"""PPO's learner with a model that grows in place and keeps its optimizer state by name.

RLlib's learner holds the parameters it trains in several registers; growth updates them all, and
increments the weights' sequence number so that runners accept the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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

from workers.adam import MemoryOrderAdam
from workers.contract import (
    EditReport,
    Json,
    ModelShape,
    StageSpec,
    derive_seed,
)
from workers.edits import Edit
from workers.machine import leave_memory_unfilled
from workers.methods import METHODS
from workers.methods.base import Method, MethodContext
from workers.models.acting import ActingModel
from workers.moe.growth import surgery
from workers.moe.growth.optimizer_state import load_named_state, named_state
from workers.moe.routed import StepContext
from workers.moe.stepping import drop_gradients, stepping
from workers.moe.tallies import Counts, take_counts, take_gate_weights, take_sums
from workers.parsing import checked
from workers.rl.building import frozen_names, set_frozen
from workers.rl.loss import ClippedStep, LossWeights, RunningMeans, divergence, ppo_loss
from workers.rl.module import past_of
from workers.rl.rollout import standardised

Figures = tuple[dict[str, list[float]], Counts, dict[str, dict[str, list[float]]], dict[str, float]]
"""Gate weights by layer, counts by domain, sums of selectors by layer, auxiliary losses by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """Inputs of one update besides its rollouts."""

    lr: float
    """Learning rate of all of its steps."""
    progress: float
    """Share of the stage that is done before it, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerState:
    """State of a learner for a checkpoint; tensors are copies on the CPU."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    method: dict[str, Tensor]
    """What the continual-learning method keeps (``Method.state``)."""
    architecture: Json
    frozen: tuple[str, ...]
    """Names of parameters with ``requires_grad = False``."""
    kl_coefficient: float
    lr: float
    revision: int
    """Number of the last edit that the model has taken; 0 = none."""


class GrowableLearner(PPOTorchLearner):
    """PPO on an ``ActingModel``: edits, state by name, minibatches by index, hooks of a method.

    ``learner_config_dict`` holds ``clip_values``, ``normalise_each_minibatch``, ``value_rate``,
    and the lane's ``method`` (its section of the settings) and ``seed``.
    """

    _module: Any

    def build(self) -> None:
        """Build the model as RLlib does, then the lane's method and counters."""
        super().build()
        leave_memory_unfilled()
        options = cast(Any, self.config).learner_config_dict
        cls, config = checked(METHODS, options["method"])
        self._method: Method = cls(config, derive_seed(options["seed"], "method"))
        self._method.watch(self._net)
        self._stage: StageSpec | None = None
        self._domains: tuple[str, ...] = ()
        self._losses = RunningMeans()
        self.revision = 0
        """Number of the last edit that the model has taken; 0 = none."""

    def configure_optimizers_for_module(self, module_id: Any, config: Any = None) -> None:
        """Adam over the model's own parameter names (Adam's epsilon as in PPO baselines)."""
        named = list(self._net.named_parameters())
        self.register_optimizer(
            module_id=module_id,
            optimizer=MemoryOrderAdam(named, lr=config.lr, eps=1e-5, fused=True),
            params=[parameter for _, parameter in named],
            lr_or_lr_schedule=config.lr,
        )

    # ------------------------------------------------------------ growth

    def apply_edit(self, edit: Edit, probe: NDArray[np.float32]) -> EditReport:
        """Change the model as the edit says.

        ``probe`` [B, *observation_shape]: observations on which the change is measured. Raises
        DivergedError where an edit before it is missing, or this one is in already.
        """
        edit.check_next(self.revision)
        seen = torch.tensor(probe, device=self._device)
        report, change = surgery.follow(self._net, self._optimizer, edit, seen)
        self._register_parameters()
        self._weights_seq_no += 1
        self.revision = edit.revision
        self._method.watch(self._net)
        self._method.edited(replace(self._context(), change=change), report)
        return report

    def _register_parameters(self) -> None:
        """Update RLlib's parameter registers, and the DDP wrapper, to the model's parameters."""
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
        """A copy of the whole state."""
        return LearnerState(
            model={k: _kept(v) for k, v in self._net.state_dict().items()},
            optimizer={
                name: _kept(tensor)
                for name, tensor in named_state(self._net, self._optimizer).items()
            },
            method={name: _kept(tensor) for name, tensor in self._method.state().items()},
            architecture=surgery.arch(self._net),
            frozen=frozen_names(self._net),
            kl_coefficient=float(self._kl_coefficient),
            lr=float(self._get_optimizer_lr(self._optimizer)),
            revision=self.revision,
        )

    def restore(self, state: LearnerState) -> None:
        """Load an exported state, whatever architecture the model has now."""
        surgery.ensure_arch(self._net, state.architecture)
        self._net.load_state_dict(state.model)
        set_frozen(self._net, state.frozen)
        load_named_state(self._net, self._optimizer, state.optimizer)
        self._register_parameters()
        self._kl_coefficient.data.fill_(state.kl_coefficient)
        self._set_optimizer_lr(self._optimizer, state.lr)
        self._method.load_state(state.method, self._net)
        self._method.watch(self._net)
        self.revision = state.revision
        self._weights_seq_no += 1

    def reseed(self, seed: int) -> None:
        """Seed the order of minibatches."""
        torch.manual_seed(seed)

    def shape(self) -> ModelShape:
        """Present shape of the model."""
        return surgery.shape(self._net)

    def fingerprint(self) -> str:
        """Present digest of the whole model."""
        return surgery.fingerprint(self._net)

    def acting_fingerprint(self) -> str:
        """Present digest of the model without its ``not_acting`` parts, as runners hold it."""
        return surgery.fingerprint(self._net, without=self._net.not_acting)

    # ------------------------------------------------------------ the stage and its figures

    def begin_stage(self, stage: StageSpec, domains: tuple[str, ...]) -> None:
        """Set the stage, and all ``domains`` of the stream; counts begin anew."""
        self._stage, self._domains = stage, domains
        self.take_figures()

    def take_figures(self) -> Figures:
        """Since the last call: mean gate weights by layer, the counts of samples by domain and the
        sums of selectors, in all learners together, and the means of this learner's auxiliary
        losses by name.

        A sample counts once in each epoch. To be called in all learners at once.
        """
        gates = take_gate_weights(self._net, self._total)
        counts, sums = take_counts(self._net, self._total), take_sums(self._net, self._total)
        return gates, counts, sums, self._losses.take()

    def _total(self, counts: Tensor) -> Tensor:
        """Sum over all learners (all-reduce)."""
        if not self.distributed:
            return counts
        summed = counts.to(self._device, copy=True)
        torch.distributed.all_reduce(summed)
        return summed

    def _anywhere(self, flags_E: Tensor) -> Tensor:
        """Logical or over all learners."""
        return self._total(flags_E.long()) > 0

    # ------------------------------------------------------------ training

    def update(  # type: ignore[override]
        self,
        *,
        training_data: Any = None,
        episodes: Any = None,
        made_with: UpdateSettings,
        num_epochs: int,
        minibatch_size: int,
        timesteps: dict[str, Any] | None = None,
        **_: Any,
    ) -> Any:
        """All epochs over one batch, without the per-minibatch overhead of RLlib's own loop."""
        self.before_gradient_based_update(timesteps=timesteps or {})
        training_data = training_data or TrainingData(episodes=episodes)
        training_data.solve_refs()
        batch = self._make_batch_if_necessary(training_data=training_data)
        columns = dict(batch.policy_batches[DEFAULT_MODULE_ID])
        self._set_optimizer_lr(self._optimizer, made_with.lr)
        self._weights_seq_no += 1
        metrics = self._learn(columns, num_epochs, minibatch_size, made_with.progress)
        self.metrics.log_dict(metrics, key=DEFAULT_MODULE_ID, window=1)
        steps = (ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME)
        self.metrics.log_value(steps, len(batch), reduce="lifetime_sum")
        self.after_gradient_based_update(timesteps=timesteps or {})
        return self.metrics.reduce()

    def _learn(
        self, columns: dict[str, Tensor], epochs: int, size: int, progress: float
    ) -> dict[str, float]:
        net, optimizer, config = self._net, self._optimizer, cast(Any, self.config)
        options = config.learner_config_dict
        targets = columns[Postprocessing.VALUE_TARGETS]
        explained = _explained(targets, columns[Columns.VF_PREDS])
        net.follow(*self._moments(targets), options["value_rate"])
        columns[Postprocessing.VALUE_TARGETS] = net.scale(targets)
        columns[Columns.VF_PREDS] = net.scale(columns[Columns.VF_PREDS])
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
        step, normalise = self._step(config.grad_clip), options["normalise_each_minibatch"]
        layers, context = net.routed, self._step_context(progress)
        seen, part = [], columns
        for part in _minibatches(columns, epochs, size):
            if normalise:
                advantages = standardised(part[Postprocessing.ADVANTAGES])
                part[Postprocessing.ADVANTAGES] = advantages
            with stepping(layers, context(len(part[Columns.OBS]))):
                seen.append(self._minibatch(part, weights, step))
        with stepping(layers, context(len(part[Columns.OBS]))):
            moved = self._divergence(part)
        return {
            **_named(seen),
            "skipped": step.skipped(),
            "lr": float(self._get_optimizer_lr(optimizer)),
            LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY: explained,
            LEARNER_RESULTS_KL_KEY: moved,
        }

    def _minibatch(
        self, part: dict[str, Tensor], weights: LossWeights, step: ClippedStep
    ) -> tuple[Tensor, ...]:
        """Loss, backward pass and optimizer step; returns the figures of ``_named``."""
        answer = self._module[DEFAULT_MODULE_ID]._forward_train(part)
        loss, figures = ppo_loss(answer, _steps(part), weights)
        auxiliary = self._net.auxiliary_losses()
        if auxiliary:
            self._losses.add(auxiliary)
            loss = loss + torch.stack(list(auxiliary.values())).sum()
        return (*figures, step(loss))

    def _step(self, limit: float) -> ClippedStep:
        """The optimizer step with gradient masking and the method's hooks."""
        layers, method = self._net.routed, self._method
        anywhere = self._anywhere if self.distributed else None

        def after_backward() -> None:
            drop_gradients(layers, anywhere)
            method.after_backward(self._context())

        return ClippedStep(
            self._optimizer,
            [p for p in self._net.parameters() if p.requires_grad],
            limit,
            after_backward,
            lambda: method.after_step(self._context()),
        )

    def _step_context(self, progress: float) -> Callable[[int], StepContext]:
        """Number of samples -> the context of their forward pass."""
        if self._stage is None or len(self._domains) < 2:
            return lambda samples: StepContext(progress)
        place = self._domains.index(self._stage.task.domain)
        index = torch.tensor([place], device=self._device)
        return lambda samples: StepContext(progress, self._domains, index.expand(samples))

    def _context(self) -> MethodContext:
        assert self._stage is not None, "a stage begins before its intervals and edits"
        return MethodContext(
            model=self._net,
            optimizer=self._optimizer,
            stage=self._stage,
            data=None,
            domains=self._domains,
            device=cast(torch.device, self._device),
            objective=None,
            seed=derive_seed(self._stage.seed, "method"),
            total=self._total,
        )

    def _moments(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and mean square of the value targets of all learners (all-reduce)."""
        moments = torch.stack([targets.mean(), (targets**2).mean()])
        if self.distributed:
            torch.distributed.all_reduce(moments)
            moments /= torch.distributed.get_world_size()
        return moments[0], moments[1]

    @torch.no_grad()
    def _divergence(self, part: dict[str, Tensor]) -> float:
        """KL(acting policy || new policy), nats, mean over a minibatch."""
        new_BA = self._net(part[Columns.OBS], past_of(part)).flatten(0, -2)
        return float(divergence(_steps(part)[Columns.ACTION_DIST_INPUTS], new_BA))

    @property
    def _net(self) -> ActingModel:
        net: ActingModel = self._module[DEFAULT_MODULE_ID].unwrapped().net
        return net

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.get_optimizer(DEFAULT_MODULE_ID)

    @property
    def _kl_coefficient(self) -> Tensor:
        coefficient: Any = self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID]
        assert isinstance(coefficient, Tensor)
        return coefficient


def _kept(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU, as checkpoints need it."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _minibatches(columns: dict[str, Tensor], epochs: int, size: int) -> Iterator[dict[str, Tensor]]:
    """Random minibatches of ``size`` steps; of whole sequences for a recurrent model."""
    total = len(columns[Columns.ACTIONS])
    size = size * total // columns[Columns.ACTIONS].numel()
    for _ in range(epochs):
        order = torch.randperm(total)
        for start in range(0, total - size + 1, size):
            chosen = order[start : start + size].to(columns[Columns.ACTIONS].device)
            yield {name: column.index_select(0, chosen) for name, column in columns.items()}


def _steps(part: dict[str, Tensor]) -> dict[str, Tensor]:
    """Columns of the loss [B, ...]; sequences [N, T, ...] are flattened."""
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
    """Means over minibatches of the figures of ``ppo_loss`` and of the gradient norm, by name."""
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
    """1 - Var(target - value) / Var(target)."""
    return float(1.0 - (targets - values).var() / targets.var().clamp_min(1e-8))
