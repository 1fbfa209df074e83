"""Branch-train-mix: specialists become the experts of one mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workers.contract import InputError
from workers.merges.base import Merge, Scene
from workers.merges.matching import Source, give, match
from workers.merges.upcycle import take_rest


class BranchTrainMix(Merge):
    """Feed-forwards of specialists are the experts, the rest is their mean (arXiv 2408.08274).

    Specialists are trained apart from one seed, on a domain each; expert e of a layer is what
    stands there in the e-th of them, and a mixture among them brings all its experts. Routers are
    drawn anew and trained by the lane. Attention is averaged too: the source's mixtures of
    attention experts have no place in the models here.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Merge.Config):
        """Settings of branch_train_mix (none)."""

        kind: str = "branch_train_mix"

    def check(self, model: nn.Module, parents: Sequence[nn.Module]) -> None:
        for layer, name, sources in self._experts(model, parents):
            for number, source in enumerate(sources):
                give(layer.expert(number), source, name, fill=False)

    @torch.no_grad()
    def fill(self, model: nn.Module, parents: Sequence[nn.Module], scene: Scene) -> None:
        take_rest(model, [match(model, parent) for parent in parents])
        for layer, name, sources in self._experts(model, parents):
            for number, source in enumerate(sources):
                give(layer.expert(number), source, name)

    def _experts(
        self, model: nn.Module, parents: Sequence[nn.Module]
    ) -> list[tuple[Any, str, list[Source]]]:
        """Each routed layer, its name, and what its experts are made of."""
        matches = [match(model, parent) for parent in parents]
        if not matches[0].layers:
            raise InputError(
                "the model has no routed layer to fill with experts; use head moe with layer moe"
            )
        found: list[tuple[Any, str, list[Source]]] = []
        for name in matches[0].layers:
            layer: Any = model.get_submodule(name)
            sources = [source for one in matches for source in one.layers[name]]
            if len(sources) != layer.live:
                raise InputError(
                    f"{name}: {layer.live} experts, but the {len(parents)} trained models bring "
                    f"{len(sources)}; set model.experts to that"
                )
            found.append((layer, name, sources))
        return found
