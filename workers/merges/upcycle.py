"""A dense model as a mixture: each feed-forward becomes the experts of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from workers.contract import InputError
from workers.merges.base import Merge, Scene
from workers.merges.matching import Match, Source, check_linear, give, match
from workers.moe.experts.feed_forward import FeedForward
from workers.moe.layers import MoELayer
from workers.moe.upcycles import UPCYCLES, Slices, Upcycle
from workers.tables import construct


class UpcycleDense(Merge):
    """Experts are copies or parts of one dense model's feed-forwards, all else is taken as it is.

    A dense feed-forward is what stands where the mixture has a routed layer: maps of a dense head
    (``workers.merges.matching``), or a routed layer of a single expert.
    """

    least = 1
    most = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Merge.Config):
        """How experts come from a feed-forward."""

        kind: str = "upcycle"
        way: Any = field(default_factory=Slices.Config, metadata={"table": UPCYCLES})
        """Copies or parts; its numbers of experts must be those of the model."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.way: Upcycle = construct(UPCYCLES, config.way)

    def check(self, model: nn.Module, parents: Sequence[nn.Module]) -> None:
        found = match(model, parents[0])
        if not found.layers:
            raise InputError(
                "the model has no routed layer to fill with experts; use head moe with layer moe"
            )
        for name in found.layers:
            layer, whole = self._parts(model, found, name)
            check_linear(layer, name)
            if self.way.cuts:
                width = self.way.width(whole.hidden)
                give(layer.expert(0), whole.part(torch.arange(width)), name, fill=False)
            else:
                give(layer.expert(0), whole, name, fill=False)

    @torch.no_grad()
    def fill(self, model: nn.Module, parents: Sequence[nn.Module], scene: Scene) -> None:
        found = match(model, parents[0])
        take_rest(model, [found])
        for name in found.layers:
            layer, whole = self._parts(model, found, name)
            for number, part in enumerate(self.way.parts(whole)):
                give(layer.expert(number), part, name)
            like = next(layer.parameters())
            for router in layer.routers:
                rows_ED = self.way.rows(layer.inputs).to(like)
                _, biases = router.as_linear()
                router.start_from(rows_ED, None if biases is None else torch.zeros_like(biases))

    def _parts(self, model: nn.Module, found: Match, name: str) -> tuple[MoELayer, FeedForward]:
        """The layer and the feed-forward that it is made of; InputError where they do not fit."""
        layer: Any = model.get_submodule(name)
        sources = found.layers[name]
        whole = _whole(sources, name)
        if self.way.cuts and len(whole.maps) != 2:
            raise InputError(
                f"{name}: {self.config.way.kind} cuts the hidden units between two maps, and "
                f"{len(whole.maps)} stand there; use experts bottleneck or gated, or way copies"
            )
        active = layer.selector.active(layer.live)
        if (layer.live, active) != (self.way.experts, self.way.k):
            raise InputError(
                f"{name}: {layer.live} experts of which a token runs through {active:g}, but "
                f"{self.config.way.kind} makes {self.way.experts} of which it runs through "
                f"{self.way.k}; set model.experts and the selector's k, or the way's numbers"
            )
        return layer, whole


def _whole(sources: list[Source], name: str) -> FeedForward:
    if len(sources) != 1:
        raise InputError(
            f"{name}: the trained model has {len(sources)} experts there; only a dense model is "
            "upcycled: use merge branch_train_mix for mixtures"
        )
    (source,) = sources
    whole = source if isinstance(source, FeedForward) else source.feed_forward()
    if whole is None:
        raise InputError(
            f"{name}: an expert {type(source).__name__} is not made of linear maps; a dense model "
            "to upcycle has linear, bottleneck, gated or mlp there"
        )
    return whole


def take_rest(model: nn.Module, matches: Sequence[Match]) -> None:
    """All that is no routed layer becomes the mean over the trained models; integers are the
    first one's."""
    own = model.state_dict()
    for name in matches[0].rest:
        values = [found.rest[name] for found in matches]
        if values[0].is_floating_point() and len(values) > 1:
            own[name].copy_(torch.stack([value.double() for value in values]).mean(0))
        else:
            own[name].copy_(values[0])
