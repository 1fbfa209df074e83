"""Expert-specialised fine-tuning: the most relevant experts train, everything else is frozen.

ESFT (arXiv 2407.01906): the experts are chosen once, before a stage's first step, from a sample of
each domain's training data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.contract import InputError, StageSpec, derive_seed
from workers.methods.base import Method
from workers.moe.domains import specialise
from workers.moe.domains.masks import Mask
from workers.moe.routed import observing, routed_layers
from workers.streams import TaskData


class _Esft(Method):
    """Base of both scores."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """Settings of the choice of experts."""

        share: float = 0.2
        """p: experts are taken, best first, until they hold this share of the score."""
        samples: int = 1024
        """Training samples of each domain that are looked at."""
        from_stage: int = 1
        """First stage (from 0) that is fine-tuned so; earlier ones train everything."""

        def __post_init__(self) -> None:
            if not 0.0 < self.share <= 1.0 or self.samples < 1 or self.from_stage < 0:
                raise ValueError(
                    "share must be above 0 and at most 1, samples at least 1 and from_stage not "
                    f"negative, got {self.share}, {self.samples} and {self.from_stage}"
                )

    config: _Esft.Config
    specialises = True

    def score(self, gates_TE: Tensor) -> Tensor:
        """Relevance of each expert [E], summing to 1, from gate weights."""
        raise NotImplementedError

    def begin_stage(
        self, model: nn.Module, stage: StageSpec, current: TaskData, domains: tuple[str, ...]
    ) -> dict[str, str]:
        if stage.index < self.config.from_stage:
            return {}
        banks = routed_layers(model)
        if not banks:
            raise InputError(
                f"method {self.config.kind} chooses experts, and the model has none; use head moe"
            )
        chosen: dict[str, set[int]] = {name: set() for name in banks}
        generator = torch.Generator().manual_seed(derive_seed(stage.seed, "esft"))
        for part in _by_domain(current, len(stage.task.domains)):
            drawn = torch.randperm(len(part), generator=generator)[: self.config.samples]
            for name, gates_TE in _gates(model, part[drawn.sort().values]).items():
                chosen[name] |= set(cumulative(self.score(gates_TE), self.config.share))
        for name, bank in banks.items():
            row = tuple(int(expert in chosen[name]) for expert in range(bank.live))
            bank.masking.set(Mask(version=0, domains=domains, rows=(row,) * len(domains)))
            bank.phase = ("experts",)
        specialise.enforce(model)
        return {f"experts.{name}": str(sorted(experts)) for name, experts in chosen.items()}


class EsftToken(_Esft):
    """Fine-tune only the experts that most tokens of the domain choose (ESFT-token)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(_Esft.Config):
        """Settings of the choice of experts."""

        kind: str = "esft_token"

    def score(self, gates_TE: Tensor) -> Tensor:
        """Share of the choices that fall on each expert; the first choice where all run."""
        chosen_TE = gates_TE > 0
        if bool(chosen_TE.all()):
            chosen_TE = nn.functional.one_hot(gates_TE.argmax(1), gates_TE.shape[1]).bool()
        counts_E = chosen_TE.double().sum(0)
        return counts_E / counts_E.sum()


class EsftGate(_Esft):
    """Fine-tune only the experts with the largest mean gate weight on the domain (ESFT-gate)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(_Esft.Config):
        """Settings of the choice of experts."""

        kind: str = "esft_gate"
        share: float = 0.1

    def score(self, gates_TE: Tensor) -> Tensor:
        """Mean gate weight of each expert."""
        mean_E = gates_TE.double().mean(0)
        return mean_E / mean_E.sum()


def cumulative(score_E: Tensor, share: float) -> list[int]:
    """Best experts, of equal ones the lower first, until their scores reach ``share``."""
    order = torch.sort(score_E, descending=True, stable=True)
    before_E = order.values.cumsum(0) - order.values
    kept = int((before_E < share - 1e-12).sum())
    return sorted(order.indices[: max(1, kept)].tolist())


def _by_domain(current: TaskData, domains: int) -> Sequence[Tensor]:
    """Training inputs of each domain of the task."""
    if current.train_domain is None:
        return [current.train_x]
    return [current.train_x[current.train_domain == place] for place in range(domains)]


@torch.no_grad()
def _gates(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Layer -> gate weights [T, E] on inputs, in evaluation mode."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    with observing(model) as seen:
        model(x.to(device))
    model.train(training)
    return {name: torch.cat([r.weights for r in parts]) for name, parts in seen.items()}
