"""ActorCritic: a dense encoder, mixture-of-experts layers, a dense actor and a dense critic.

Knows no environment, no cluster and no learning algorithm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from torch import Tensor, nn

from workers.contract import InputError, derive_seed
from workers.moe.layer import MoELayer
from workers.moe.seeding import seeded

FILTERS = 32
Dense = TypeVar("Dense", nn.Linear, nn.Conv2d)


class ActorCritic(nn.Module):
    """Policy and value of one observation: encoder and experts are shared, last layers dense.

    The parameters depend on (config, observation_shape, actions, seed) only. Encoders, gains of
    the orthogonal draws and last layers follow the Craftax baselines (arXiv 2402.16801); the
    hidden layers between are mixtures (DynamicMoE, arXiv 2511.18987).
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MoELayer.Config):
        """Settings of an actor-critic; how its layers route is set here as well."""

        kind: str = "actor_critic"
        experts: int = 1
        """Experts of each hidden layer at the start (the granularity g)."""
        max_experts: int | None = None
        """Final number of experts, which sets their width; None = those at the start."""
        encoder: int = 64
        """Width of the dense encoder of vectors; images go through three convolutions."""
        hidden: tuple[int, ...] = (64, 64)
        """Outputs of the mixture-of-experts layers, each followed by tanh."""

        def __post_init__(self) -> None:
            # super() has no cell to look in here: a dataclass with slots is a second class.
            MoELayer.Config.__post_init__(self)
            if self.experts < 1:
                raise ValueError(f"experts must be at least 1, got {self.experts}")
            if self.max_experts is not None and self.max_experts < self.experts:
                raise ValueError(
                    f"max_experts must be at least experts ({self.experts}), got {self.max_experts}"
                )
            if self.encoder < 1 or not self.hidden or min(self.hidden) < 1:
                raise ValueError(
                    "encoder and each entry of hidden must be at least 1, and hidden not empty; "
                    f"got {self.encoder} and {self.hidden}"
                )

    def __init__(
        self, config: Config, observation_shape: tuple[int, ...], actions: int, seed: int
    ) -> None:
        super().__init__()
        self.config = config
        encoder_type = ImageEncoder if len(observation_shape) == 3 else VectorEncoder
        with seeded(derive_seed(seed, "encoder")):
            self.encoder = encoder_type(observation_shape, config.encoder)
        sizes = [self.encoder.outputs, *config.hidden]
        self.layers = nn.ModuleList(
            MoELayer(
                config,
                inputs,
                outputs,
                config.experts,
                config.max_experts,
                derive_seed(seed, "layer", index),
            )
            for index, (inputs, outputs) in enumerate(pairwise(sizes))
        )
        with seeded(derive_seed(seed, "heads")):
            self.actor = _orthogonal(nn.Linear(sizes[-1], actions), 0.01)
            self.critic = _orthogonal(nn.Linear(sizes[-1], 1), 1.0)

    def embed(self, observations: Tensor) -> Tensor:
        """[B, *observation_shape] float -> features [B, hidden[-1]] of both heads."""
        x: Tensor = self.encoder(observations)
        for layer in self.layers:
            x = layer(x).tanh()
        return x

    def logits(self, features: Tensor) -> Tensor:
        """Features [B, F] -> unnormalised log probabilities of the actions [B, actions]."""
        y: Tensor = self.actor(features)
        return y

    def value(self, features: Tensor) -> Tensor:
        """Features [B, F] -> expected discounted return [B]."""
        y: Tensor = self.critic(features).squeeze(-1)
        return y

    def forward(self, observations: Tensor) -> Tensor:
        """Logits [B, actions] of observations [B, *observation_shape]."""
        return self.logits(self.embed(observations))


class VectorEncoder(nn.Module):
    """One dense layer with tanh on a flattened observation."""

    def __init__(self, observation_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.linear = _orthogonal(nn.Linear(math.prod(observation_shape), outputs), math.sqrt(2))

    def forward(self, observations: Tensor) -> Tensor:
        """[B, ...] -> [B, outputs]."""
        y: Tensor = self.linear(observations.flatten(1))
        return y.tanh()


class ImageEncoder(nn.Module):
    """Three times: 5 x 5 convolution with 32 filters, ReLU, 3 x 3 maximum with stride 3."""

    def __init__(self, observation_shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        height, breadth, channels = observation_shape
        sides = [side // 27 for side in (height, breadth)]
        if min(sides) < 1:
            raise InputError(
                f"images of {height} x {breadth} pixels are too small for the actor-critic's "
                "encoder: both sides must have at least 27; use a symbolic environment"
            )
        stages: list[nn.Module] = []
        for inputs in (channels, FILTERS, FILTERS):
            convolution = _orthogonal(nn.Conv2d(inputs, FILTERS, 5, padding=2), 2.0)
            stages += [convolution, nn.ReLU(), nn.MaxPool2d(3)]
        self.stages = nn.Sequential(*stages)
        self.outputs = FILTERS * math.prod(sides)

    def forward(self, observations: Tensor) -> Tensor:
        """[B, height, width, channels] in 0..1 -> [B, outputs]."""
        y: Tensor = self.stages(observations.movedim(-1, 1)).flatten(1)
        return y


def _orthogonal(layer: Dense, gain: float) -> Dense:
    """The layer with an orthogonal weight of this gain and no bias."""
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
