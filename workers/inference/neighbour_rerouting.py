"""Gate weights of a test token taken from training tokens near it that were answered rightly.

Letters: B samples, T tokens, M remembered tokens, J neighbours, D inputs of a layer, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workers.contract import InputError
from workers.inference.base import Forward, InferencePolicy, Subject, log_probabilities
from workers.inference.steering import steered, weighted
from workers.moe.routed import Routed, observing
from workers.moe.selection import exact
from workers.moe.stepping import telling

Weights = dict[str, list[Tensor]]
"""Layer -> gate weights [T, E] of each of its rounds."""

BATCH = 256
"""Reference samples that pass the model at once."""


class NeighbourRerouting(InferencePolicy):
    """Gate weights of the last layers from the nearest training tokens that were answered rightly.

    C3PO (arXiv 2504.07964). A token's key is its input at the first of the last ``layers`` routed
    layers; K is Gaussian in the distance of keys, its width the neighbours' mean distance in the
    memory. ``kernel``: ``w <- sum_j K(x, x_j) w_j / sum_j K(x, x_j)`` over the ``neighbours``
    nearest. ``gradient``: ``steps`` of ``w <- w - lr * grad_w sum_j K(x, x_j) L(f(x_j; w), y_j) /
    sum_j K``, w at least 0 and of the same sum, which needs one token for each sample. The memory
    is drawn from the training parts of the evaluated tasks.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(InferencePolicy.Config):
        """The memory and what is done with it."""

        kind: str = "neighbour_rerouting"
        form: Literal["kernel", "gradient"] = "kernel"
        """How gate weights follow the neighbours': as their weighted mean, or by steps down their
        losses."""
        memory: int = 256
        """Training samples of each task that are tried; those answered rightly are remembered."""
        neighbours: int = 3
        """Remembered samples that each one follows."""
        layers: int = 5
        """Routed layers that are rerouted, the last ones."""
        lr: float = 0.1
        """Of the form ``gradient``, in gate weights."""
        steps: int = 3
        """Of the form ``gradient``."""

        def __post_init__(self) -> None:
            least = min(self.memory, self.neighbours, self.layers, self.steps)
            if least < 1 or self.lr <= 0:
                raise ValueError(
                    "memory, neighbours, layers and steps must be at least 1 and lr above 0, got "
                    f"{self.memory}, {self.neighbours}, {self.layers}, {self.steps} and {self.lr}"
                )

    config: NeighbourRerouting.Config
    works_with = frozenset({"labels", "tokens"})

    def prepare(self, subject: Subject) -> None:
        super().prepare(subject)
        if self.config.form == "gradient" and not (subject.kind == "labels" and subject.logits):
            raise InputError(
                "policy 'neighbour_rerouting': the form 'gradient' answers for samples with "
                "labels; use form = 'kernel'"
            )
        assert subject.references is not None
        assert subject.right is not None
        names = list(subject.layers)[-self.config.layers :]
        self._layers = {name: subject.layers[name] for name in names}
        self._x, self._y, self._domain = subject.references(self.config.memory)
        with torch.inference_mode(), telling(subject.model, self._domain):
            seen = [
                self._seen(subject.model, x_B, subject.right, y_B)
                for x_B, y_B in zip(self._x.split(BATCH), self._y.split(BATCH), strict=True)
            ]
        solved_M = torch.cat([right for _, _, right in seen])
        if int(solved_M.sum()) < self.config.neighbours:
            raise InputError(
                f"policy 'neighbour_rerouting': {int(solved_M.sum())} of {len(solved_M)} "
                f"training tokens are answered rightly, too few for {self.config.neighbours} "
                "neighbours; give a larger memory"
            )
        self.keys_MD = torch.cat([keys for keys, _, _ in seen])[solved_M]
        self.weights: Weights = {
            name: [
                torch.cat(parts)[solved_M]
                for parts in zip(*(w[name] for _, w, _ in seen), strict=True)
            ]
            for name in names
        }
        self._remembered = len(self.keys_MD)
        if self.config.form == "gradient":
            kept = solved_M.cpu()
            self._x, self._y, self._domain = self._x[kept], self._y[kept], self._domain[kept]
        self.width = self._mean_distance()

    def answer(self, forward: Forward, x: Tensor) -> Tensor:
        keys_TD, own = self._watched(lambda: forward(x))
        near_TJ, kernel_TJ = self._neighbours(keys_TD)
        if self.config.form == "gradient":
            weights = self._descended(forward, own, near_TJ, kernel_TJ)
        else:
            weights = {
                name: [(kernel_TJ.unsqueeze(-1) * w_ME[near_TJ]).sum(1) for w_ME in rounds]
                for name, rounds in self.weights.items()
            }
        return self._rerouted(forward, x, weights)

    def figures(self) -> dict[str, float]:
        """Tokens that are remembered."""
        return {"remembered": float(self._remembered)}

    def _seen(
        self, model: Forward, x: Tensor, right: object, y: Tensor
    ) -> tuple[Tensor, Weights, Tensor]:
        """Keys, gate weights and whether the answer was right, token by token."""
        outputs: list[Tensor] = []
        keys_TD, weights = self._watched(lambda: outputs.append(model(x)))
        right_T = right(outputs[0], y).flatten()  # type: ignore[operator]
        if len(right_T) != len(keys_TD):
            raise InputError(
                f"policy 'neighbour_rerouting': {len(keys_TD)} tokens pass layer "
                f"{next(iter(self._layers))!r} for {len(right_T)} answers; it needs one for each"
            )
        return keys_TD, weights, right_T

    def _watched(self, run: object) -> tuple[Tensor, Weights]:
        """Inputs of the first of the layers, and gate weights of all, in one forward."""

        def keep(routed: Routed) -> tuple[Tensor, Tensor]:
            return exact(routed.x.detach()), exact(routed.weights.detach())

        with observing(self.subject.model, keep) as seen:
            run()  # type: ignore[operator]
        first = next(iter(self._layers))
        return seen[first][0][0], {name: [w for _, w in seen[name]] for name in self._layers}

    def _mean_distance(self) -> float:
        """Mean distance of a remembered token to its nearest others."""
        few_ND = self.keys_MD[:BATCH]
        nearest = torch.cdist(few_ND, self.keys_MD).topk(
            min(self.config.neighbours + 1, self._remembered), largest=False
        )
        return float(nearest.values[:, 1:].mean().clamp_min(1e-6)) if self._remembered > 1 else 1.0

    def _neighbours(self, keys_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Places in the memory [T, J], and the kernel's weights, of sum 1 [T, J]."""
        distance, near_TJ = torch.cdist(keys_TD, self.keys_MD).topk(
            self.config.neighbours, largest=False
        )
        return near_TJ, torch.softmax(-distance.square() / (2 * self.width**2), -1)

    def _descended(
        self, forward: Forward, own: Weights, near_BJ: Tensor, kernel_BJ: Tensor
    ) -> Weights:
        """The samples' own weights after steps that lessen their neighbours' losses."""
        near = near_BJ.flatten().cpu()
        device = kernel_BJ.device
        with torch.inference_mode(False):  # what is differentiated may hold no inference tensor
            known = telling(self.subject.model, self._domain[near])
        with torch.inference_mode(False), torch.enable_grad(), known:
            x, y = self._x[near].to(device), self._y[near].to(device)
            kernel = kernel_BJ.clone().flatten()
            weights = {n: [w.clone() for w in rounds] for n, rounds in own.items()}
            sums = {n: [w.sum(-1, keepdim=True) for w in rounds] for n, rounds in weights.items()}
            for _ in range(self.config.steps):
                leaves = [w.requires_grad_() for rounds in weights.values() for w in rounds]
                spread = {
                    n: [w.repeat_interleave(self.config.neighbours, 0) for w in rounds]
                    for n, rounds in weights.items()
                }
                log_p = log_probabilities(self._rerouted(forward, x, spread))
                loss = -(kernel * log_p.gather(1, y.unsqueeze(1)).squeeze(1)).sum()
                gradients = iter(torch.autograd.grad(loss, leaves))
                with torch.no_grad():
                    weights = {
                        n: [
                            _moved(w, next(gradients), self.config.lr, s)
                            for w, s in zip(rounds, sums[n], strict=True)
                        ]
                        for n, rounds in weights.items()
                    }
        return weights

    def _rerouted(self, forward: Forward, x: Tensor, weights: Mapping[str, list[Tensor]]) -> Tensor:
        rules = {n: tuple(weighted(w) for w in rounds) for n, rounds in weights.items()}
        with steered(self._layers, rules):
            return forward(x)


def _moved(w_TE: Tensor, gradient_TE: Tensor, lr: float, sum_T1: Tensor) -> Tensor:
    """One step, at least 0 and of the same sum; experts without weight stay without."""
    moved = (w_TE - lr * gradient_TE).clamp_min(0.0) * (w_TE > 0)
    total = moved.sum(-1, keepdim=True)
    return torch.where(total > 0, moved * (sum_T1 / total.clamp_min(1e-30)), w_TE).detach()
