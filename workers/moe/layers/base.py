"""The contract of layers: what stands between two widths of a model.

``LAYERS`` is filled by the package; it lies here so that a layer can hold another one.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from workers.tables import Problem, lookup

LAYERS: dict[str, type] = {}
"""Layers by name."""


class Layer(nn.Module):
    """A map [..., inputs] -> [..., outputs]; needs a nested Config and a forward.

    Built as ``cls(config, inputs, outputs, experts, max_experts, seed, place=place)``: experts at
    the start and in the end (None = those at the start), both the model's numbers, of which
    ``place`` (``growth.schedules.Place``) gives the layer its share. Parameters depend on these
    arguments only.
    """

    @classmethod
    def active(cls, config: Any, experts: int) -> float:
        """Experts of so many that a token runs through, on average, in a layer of this config."""
        return float(experts)

    def draw_orthogonal(self, gain: float) -> None:
        """Draw a plain linear map anew: orthogonal with this gain, no bias.

        For models whose linear maps start so; layers with draws of their own pay no heed.
        """


def active(config: Any, experts: int) -> float:
    """See ``Layer.active``; of the layer that the config stands for."""
    cls: Any = lookup(LAYERS, config.kind, "layer")
    assert not isinstance(cls, Problem), str(cls)
    found: float = cls.active(config, experts)
    return found
