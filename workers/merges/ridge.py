"""Training-free merge: specialists as experts, routers by ridge regression onto their domains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.contract import InputError
from workers.merges.base import Scene
from workers.merges.branch_train_mix import BranchTrainMix
from workers.merges.matching import check_linear

BATCH = 256
"""Samples passed through the model at once."""


@dataclass(slots=True)
class Sums:
    """X'X [D + 1, D + 1] and X'Y [D + 1, E] over tokens x with a 1 behind, Y the one-hot of the
    token's expert: sums, so that more tokens, or another worker's, are added up."""

    gram: Tensor | float = 0.0
    cross: Tensor | float = 0.0

    def add(self, x_TD: Tensor, expert: int, experts: int) -> None:
        """Count in tokens of an expert's domain, in float64."""
        x_TD = torch.cat([x_TD, x_TD.new_ones(len(x_TD), 1)], 1).double()
        y_TE = x_TD.new_zeros(len(x_TD), experts)
        y_TE[:, expert] = 1.0
        self.gram = self.gram + x_TD.t() @ x_TD
        self.cross = self.cross + x_TD.t() @ y_TE

    def rows(self, penalty: float) -> tuple[Tensor, Tensor]:
        """W = (X'X + penalty I)^-1 X'Y as rows [E, D] of norm 1, and biases [E] scaled alike."""
        assert isinstance(self.gram, Tensor), "no tokens were counted"
        eye = torch.eye(len(self.gram), dtype=torch.float64, device=self.gram.device)
        w_DE = torch.linalg.solve(self.gram + penalty * eye, self.cross)
        rows_ED, biases_E = w_DE[:-1].t(), w_DE[-1]
        norm_E = rows_ED.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
        return rows_ED / norm_E.unsqueeze(1), biases_E / norm_E


class Ridge(BranchTrainMix):
    """Branch-train-mix without training: W = (X'X + lam I)^-1 X'Y for each router (2603.29765).

    X are what the layer reads of the training samples, Y the one-hot of the expert whose model has
    learnt the sample's domain; columns of W have norm 1 and logits are divided by the temperature.
    Layers are fitted in order, so that each reads what it will read later. Needs a router that is a
    linear map (linear, adaptive) and one expert from each model.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(BranchTrainMix.Config):
        """Settings of the regression."""

        kind: str = "ridge"
        penalty: float = 1e-2
        """lam; above 0."""
        temperature: float = 0.1
        """Logits are divided by it; above 0."""
        samples: int | None = None
        """Training samples of each domain at most, the first ones; None = all."""

        def __post_init__(self) -> None:
            if self.penalty <= 0 or self.temperature <= 0:
                raise ValueError(
                    "penalty and temperature must be above 0, got "
                    f"{self.penalty} and {self.temperature}"
                )
            if self.samples is not None and self.samples < 1:
                raise ValueError(f"samples must be at least 1, got {self.samples}")

    def check(self, model: nn.Module, parents: Sequence[nn.Module]) -> None:
        super().check(model, parents)
        for layer, name, sources in self._experts(model, parents):
            if len(sources) != len(parents):
                raise InputError(
                    f"{name}: {len(parents)} models bring {len(sources)} experts, so their domains "
                    "do not tell experts apart; use merge branch_train_mix and train the router"
                )
            if len(layer.routers) > 1:
                raise InputError(
                    f"{name}: a chain of experts reads other tokens in each round; use layer moe"
                )
            check_linear(layer, name)

    @torch.no_grad()
    def fill(self, model: nn.Module, parents: Sequence[nn.Module], scene: Scene) -> None:
        super().fill(model, parents, scene)
        model.eval()
        for layer, _, _ in self._experts(model, parents):
            sums = Sums()
            with reading(layer) as read:
                for x, expert in self._samples(scene):
                    model(x)
                    x_TD = read.pop().reshape(-1, layer.inputs)
                    sums.add(x_TD, expert, len(parents))
            rows_ED, biases_E = sums.rows(self.config.penalty)
            like = next(layer.router.parameters())
            _, biased = layer.router.as_linear()
            scale = 1.0 / self.config.temperature
            biases = None if biased is None else (biases_E * scale).to(like)
            layer.router.start_from((rows_ED * scale).to(like), biases)
        model.train()

    def _samples(self, scene: Scene) -> Iterator[tuple[Tensor, int]]:
        """Batches of training inputs, each with the place of the model that learnt their domain."""
        found = set()
        for task in scene.stream.tasks():
            part = scene.stream.data(task).train
            domain = (
                torch.zeros(len(part), dtype=torch.long) if part.domain is None else part.domain
            )
            for place, name in enumerate(task.domains):
                experts = [e for e, names in enumerate(scene.domains) if name in names]
                index = torch.nonzero(domain == place).flatten()[: self.config.samples]
                for few in index.split(BATCH) if experts else ():
                    found.add(experts[0])
                    yield part.take(few).in_memory().x, experts[0]
        absent = [names for e, names in enumerate(scene.domains) if e not in found]
        if absent:
            raise InputError(
                f"merge ridge: the lane's stream has no samples of {' or '.join(absent[0])}, which "
                "one of the models has learnt; give a stream with every model's domain"
            )


@contextmanager
def reading(module: nn.Module) -> Iterator[list[Tensor]]:
    """What the module reads inside the block, newest last."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        handle.remove()
