"""The loss of proximal policy optimisation (arXiv 1707.06347) and the step that follows it.

Plain torch on one minibatch; knows neither RLlib's learner nor the model behind the logits.
Letters: B samples, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """What the parts of the loss weigh, and where ratios and values are clipped."""

    clip: float
    value: float
    clip_values: bool
    entropy: float
    kl: float


def ppo_loss(
    answer: Mapping[str, Tensor], batch: Mapping[str, Tensor], weights: LossWeights
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss, and without gradient: loss, policy loss, value loss, entropy, share clipped."""
    log_BA = torch.log_softmax(answer[Columns.ACTION_DIST_INPUTS], -1)
    log_B = log_BA.gather(1, batch[Columns.ACTIONS].unsqueeze(1)).squeeze(1)
    ratio_B = (log_B - batch[Columns.ACTION_LOGP]).exp()
    advantage_B = batch[Postprocessing.ADVANTAGES]
    low, high = 1.0 - weights.clip, 1.0 + weights.clip
    kept_B = torch.minimum(ratio_B * advantage_B, ratio_B.clamp(low, high) * advantage_B)
    policy = -kept_B.mean()
    entropy = -(log_BA.exp() * log_BA).sum() / len(log_BA)
    value = _value_loss(answer[Columns.VF_PREDS], batch, weights)
    loss = policy + weights.value * value - weights.entropy * entropy
    if weights.kl > 0.0:
        loss = loss + weights.kl * divergence(batch[Columns.ACTION_DIST_INPUTS], log_BA)
    with torch.no_grad():
        clipped = ((ratio_B - 1.0).abs() > weights.clip).float().mean()
    return loss, (loss.detach(), policy.detach(), value.detach(), entropy.detach(), clipped)


def _value_loss(value_B: Tensor, batch: Mapping[str, Tensor], weights: LossWeights) -> Tensor:
    target_B = batch[Postprocessing.VALUE_TARGETS]
    error_B = (value_B - target_B) ** 2
    if weights.clip_values:
        old_B = batch[Columns.VF_PREDS]
        near_B = old_B + (value_B - old_B).clamp(-weights.clip, weights.clip)
        error_B = torch.maximum(error_B, (near_B - target_B) ** 2)
    return error_B.mean()


def divergence(old_BA: Tensor, new_BA: Tensor) -> Tensor:
    """Mean of ``KL(old || new)`` of two sets of logits."""
    old_BA, new_BA = torch.log_softmax(old_BA, -1), torch.log_softmax(new_BA, -1)
    return (old_BA.exp() * (old_BA - new_BA)).sum() / len(old_BA)


def _nothing() -> None:
    """The hook of a step that has none."""


class ClippedStep:
    """One optimizer step with a bound on the global norm of the gradient.

    The factor is handed to the fused optimizer, so that no gradient is written twice; a step
    whose norm is not a number is left out and counted. ``after_backward`` may change or take away
    gradients before their norm is taken; ``after_step`` follows each optimizer step.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[Tensor],
        limit: float,
        after_backward: Callable[[], None] = _nothing,
        after_step: Callable[[], None] = _nothing,
    ) -> None:
        self.optimizer, self.parameters, self.limit = optimizer, parameters, limit
        self._after_backward, self._after_step = after_backward, after_step
        self._skipped = torch.zeros((), device=parameters[0].device)

    def __call__(self, loss: Tensor) -> Tensor:
        """Step down the loss; returns the norm of the gradient before it was bounded."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        self._after_backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            return loss.new_zeros(())
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        optimizer: torch.optim.Optimizer = self.optimizer
        # The two attributes are how torch's fused optimizers take what a gradient scaler found.
        optimizer.grad_scale = (norm / self.limit).clamp_min(1.0)  # type: ignore[attr-defined]
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        self._skipped += optimizer.found_inf  # type: ignore[attr-defined]
        optimizer.step()
        self._after_step()
        return norm.detach()

    def skipped(self) -> float:
        """Steps left out so far."""
        return float(self._skipped)


class RunningMeans:
    """Means of named scalars over steps; sums stay on their device until they are taken."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, named: Mapping[str, Tensor]) -> None:
        """Count one value of each."""
        for name, value in named.items():
            value = value.detach()
            known = self._sums.get(name)
            self._sums[name] = value if known is None else known + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Means since the last call."""
        found = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return found
