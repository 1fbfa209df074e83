"""ActorCritic: a dense encoder, a core, hidden layers of choice, a dense actor and critic.

Knows no environment, no cluster and no learning algorithm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import ops
from workers.compact_layout import Compact
from workers.contract import InputError, derive_seed
from workers.models.acting import ActingModel
from workers.models.base import check_experts
from workers.models.cores import CORES, Past
from workers.moe.layers import LAYERS
from workers.moe.seeding import seeded
from workers.moe.walk import join
from workers.tables import choice, construct
from workers.units.hidden import Hidden

FILTERS = 32
ORTHOGONAL = math.sqrt(2)
"""Gain of the orthogonal draw of encoders of vectors and of plain hidden layers."""
Dense = TypeVar("Dense", nn.Linear, nn.Conv2d)


class ActorCritic(ActingModel):
    """Policy and value: a dense encoder, a core if wanted, mixture layers, last layers dense.

    The parameters depend on (config, observation_shape, actions, seed) only, not on the form in
    which observations come: ``layout`` says how a short one is read. Encoders, gains of the
    orthogonal draws and last layers follow the Craftax baselines (arXiv 2402.16801); the hidden
    layers between are mixtures (DynamicMoE, arXiv 2511.18987). Where episodes are asked for as
    sequences, ``past`` says what went before them; without it every observation is the first of
    an episode.
    """

    not_acting = ("critic",)
    reads_compact = True

    value_mean: Tensor
    value_spread: Tensor

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of an actor-critic."""

        kind: str = "actor_critic"
        experts: int = 1
        """Experts of each hidden layer at the start (the granularity g)."""
        max_experts: int | None = None
        """Final number of experts, which sets their width; None = those at the start."""
        encoder: int = 64
        """Width of the dense encoder of vectors; images go through three convolutions."""
        core: Any = choice(CORES, "none")
        """What is carried from step to step between encoder and hidden layers; gru makes the
        policy recurrent (PPO-RNN of the Craftax baselines)."""
        hidden: tuple[int, ...] = (64, 64)
        """Outputs of the hidden layers, each followed by tanh."""
        layer: Any = choice(LAYERS, "moe")
        """What the hidden layers are: mixtures of experts, or "linear", which do not grow."""
        separate: bool = False
        """The critic has an encoder and hidden layers of its own, as in the Craftax baselines;
        with a recurrent core only hidden layers, as in theirs."""
        normalise_values: bool = False
        """The critic learns values in units of their running mean and spread (PopArt,
        arXiv 1809.04474)."""

        def __post_init__(self) -> None:
            check_experts(self.experts, self.max_experts)
            if self.encoder < 1 or not self.hidden or min(self.hidden) < 1:
                raise ValueError(
                    "encoder and each entry of hidden must be at least 1, and hidden not empty; "
                    f"got {self.encoder} and {self.hidden}"
                )

    @classmethod
    def remembers(cls, config: Any) -> bool:
        """Whether it has a recurrent core."""
        return config.core.kind != "none"

    def __init__(
        self,
        config: Config,
        observation_shape: tuple[int, ...],
        actions: int,
        seed: int,
        layout: Compact | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config, observation_shape, layout, derive_seed(seed, "encoder"))
        outputs = self.encoder.outputs
        self.core = construct(CORES, config.core, outputs, derive_seed(seed, "core"))
        self.state_size = self.core.state_size
        self.layers = _hidden(config, self.core.outputs, seed)
        with seeded(derive_seed(seed, "heads")):
            self.actor = _orthogonal(nn.Linear(config.hidden[-1], actions), 0.01)
            head = _orthogonal(nn.Linear(config.hidden[-1], 1), 1.0)
        self.critic: nn.Module = head
        if config.separate:
            apart = derive_seed(seed, "critic", "encoder")
            self.critic = Critic(
                nn.Identity()
                if self.recurrent
                else _encoder(config, observation_shape, layout, apart),
                _hidden(config, self.core.outputs, derive_seed(seed, "critic")),
                head,
            )
        if config.normalise_values:
            self.register_buffer("value_mean", torch.zeros(()))
            self.register_buffer("value_spread", torch.ones(()))

    def step(self, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, actions] of one more step of B episodes, and the core's state [B, S] then."""
        if not self.recurrent:
            return self(observations), state
        nowhere = torch.zeros(len(state), 1, dtype=torch.bool, device=state.device)
        seen = self.encoder(observations).unsqueeze(1)
        perceived, after = self.core(seen, Past(state, nowhere))
        return self.logits(_through(self.layers, perceived.squeeze(1))), after

    def perceive(self, observations: Tensor, past: Past | None = None) -> Tensor:
        """What the hidden layers read: [B, *observation_shape] float, or the short form int16
        [B, width] of the layout -> [B, D]; with ``past`` [B, T, ...] -> [B, T, D]."""
        if not self.recurrent:
            y: Tensor = self.encoder(observations)
            return y
        first = past is None
        if past is None:
            state = self.initial_state(len(observations))
            begins = torch.ones(len(state), 1, dtype=torch.bool, device=state.device)
            observations, past = observations.unsqueeze(1), Past(state, begins)
        seen = self.encoder(observations.flatten(0, 1)).unflatten(0, observations.shape[:2])
        y = self.core(seen, past)[0]
        return y.squeeze(1) if first else y

    def embed(self, observations: Tensor, past: Past | None = None) -> Tensor:
        """Observations as ``perceive`` takes them -> features [..., hidden[-1]] of the actor, and
        of the critic unless that is separate."""
        return _through(self.layers, self.perceive(observations, past))

    def logits(self, features: Tensor) -> Tensor:
        """Features [..., F] -> unnormalised log probabilities of the actions [..., actions]."""
        y: Tensor = self.actor(features)
        return y

    def answer(self, observations: Tensor, past: Past | None = None) -> tuple[Tensor, Tensor]:
        """Logits [..., actions], and values [...] as the critic learns them: normalised, where
        the config says so."""
        perceived = self.perceive(observations, past)
        features = _through(self.layers, perceived)
        if self.config.separate:
            y = self.critic(perceived if self.recurrent else observations)
        else:
            y = self.critic(features)
        return self.logits(features), y.squeeze(-1)

    def value(
        self, observations: Tensor, features: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        """Expected discounted return [...]; ``features`` of the same observations save an embed."""
        if self.config.separate:
            own = self.perceive(observations, past) if self.recurrent else observations
            y: Tensor = self.critic(own)
        else:
            y = self.critic(self.embed(observations, past) if features is None else features)
        scaled = y.squeeze(-1)
        return scaled * self.value_spread + self.value_mean if self._normalises else scaled

    def scale(self, returns: Tensor) -> Tensor:
        """Returns in the units in which the critic learns."""
        return (returns - self.value_mean) / self.value_spread if self._normalises else returns

    @torch.no_grad()
    def follow(self, mean: Tensor, square: Tensor, rate: float) -> None:
        """Move the scale of values towards returns of this mean and mean square.

        No value changes by it: the critic's last layer makes up for it (unless it is frozen,
        then the scale stays).
        """
        head = self.critic.head if isinstance(self.critic, Critic) else self.critic
        assert isinstance(head, nn.Linear)
        if not self._normalises or not head.weight.requires_grad:
            return
        old_mean, old_spread = self.value_mean.clone(), self.value_spread.clone()
        square = torch.lerp(old_spread**2 + old_mean**2, square, rate)
        self.value_mean.lerp_(mean, rate)
        self.value_spread.copy_((square - self.value_mean**2).clamp_min(1e-6).sqrt())
        head.weight.mul_(old_spread / self.value_spread)
        shifted = head.bias * old_spread + old_mean - self.value_mean
        head.bias.copy_(shifted / self.value_spread)

    def forward(self, observations: Tensor, past: Past | None = None) -> Tensor:
        """Logits [..., actions] of observations as ``perceive`` takes them."""
        return self.logits(self.embed(observations, past))

    def hidden_units(self) -> dict[str, Hidden]:
        """Outputs of the encoder and of the hidden layers; a critic of its own tells its own."""
        heads = (self.actor,) if self.config.separate else (self.actor, self.critic)
        return _told(None if self.recurrent else self.encoder, self.layers, heads)

    @property
    def _normalises(self) -> bool:
        return self.config.normalise_values


class Critic(nn.Module):
    """A critic that shares nothing with the actor."""

    def __init__(self, encoder: nn.Module, layers: nn.ModuleList, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.layers, self.head = encoder, layers, head

    def forward(self, observations: Tensor) -> Tensor:
        """Observations as ``ActorCritic.perceive`` takes them -> [..., 1]."""
        y: Tensor = self.head(_through(self.layers, self.encoder(observations)))
        return y

    def hidden_units(self) -> dict[str, Hidden]:
        """Outputs of the encoder and of the hidden layers."""
        return _told(self.encoder, self.layers, (self.head,))


class VectorEncoder(nn.Module):
    """One dense layer with tanh on a flattened observation.

    Observations in the short form of ``layout`` give the same result as the long ones they stand
    for: the product with a vector of zeros and ones is a sum of rows.
    """

    usual: Tensor
    derived: Tensor

    def __init__(
        self, observation_shape: tuple[int, ...], outputs: int, layout: Compact | None = None
    ) -> None:
        super().__init__()
        self.outputs, self.layout = outputs, layout
        self.linear = _orthogonal(nn.Linear(math.prod(observation_shape), outputs), ORTHOGONAL)
        if layout is None:
            return
        assert layout.dense_width == math.prod(observation_shape)
        # One row of memory per input; shape, name and values of the parameter stay as they are.
        self.linear.weight = nn.Parameter(self.linear.weight.detach().t().contiguous().t())
        derived = torch.tensor(layout.derived, dtype=torch.long).reshape(-1, 2)
        self.register_buffer("derived", derived, persistent=False)
        usual = torch.tensor(layout.usual, dtype=torch.long)
        self.register_buffer("usual", usual, persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        """[B, ...] float or [B, width] int16 -> [B, outputs]."""
        if observations.dtype == torch.int16:
            assert self.layout is not None, "short observations need the layout they are made by"
            y = ops.row_sum(
                self.linear.weight.t(),
                self.linear.bias,
                observations,
                self.usual,
                self.derived,
                self.layout.slots,
            )
        else:
            y = self.linear(observations.flatten(1))
        return y.tanh()

    @property
    def given(self) -> Hidden:
        """The units that it gives, with nothing yet that reads them."""
        return Hidden(
            made_by=self.linear, read_by=(), activation="tanh", gain=ORTHOGONAL, seen_in=self
        )


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
        """[B, height, width, channels], float in 0..1 or uint8 in 0..255 -> [B, outputs]."""
        if observations.dtype == torch.uint8:
            observations = observations.to(next(self.parameters()).dtype) / 255.0
        y: Tensor = self.stages(observations.movedim(-1, 1)).flatten(1)
        return y

    def hidden_units(self) -> dict[str, Hidden]:
        """Filters of each convolution but the last, before the maximum is taken."""
        convolutions = list(self.stages)[::3]
        return {
            f"stages.{3 * place}": Hidden(made_by=one, read_by=(other,), gain=2.0)
            for place, (one, other) in enumerate(pairwise(convolutions))
        }

    @property
    def given(self) -> Hidden:
        """The filters that it gives, with nothing yet that reads them."""
        return Hidden(made_by=self.stages[-3], read_by=(), gain=2.0)


def _encoder(
    config: ActorCritic.Config, shape: tuple[int, ...], layout: Compact | None, seed: int
) -> VectorEncoder | ImageEncoder:
    with seeded(seed):
        if len(shape) == 3:
            return ImageEncoder(shape, config.encoder)
        return VectorEncoder(shape, config.encoder, layout)


def _hidden(config: ActorCritic.Config, inputs: int, seed: int) -> nn.ModuleList:
    layers: list[nn.Module] = []
    for index, sizes in enumerate(pairwise([inputs, *config.hidden])):
        own = derive_seed(seed, "layer", index)
        layer = construct(LAYERS, config.layer, *sizes, config.experts, config.max_experts, own)
        layer.draw_orthogonal(ORTHOGONAL)
        layers.append(layer)
    join(layers)
    return nn.ModuleList(layers)


def _told(
    encoder: nn.Module | None, layers: nn.ModuleList, heads: tuple[nn.Module, ...]
) -> dict[str, Hidden]:
    """Units of an encoder and of hidden layers; ``heads``: all that reads the last of these."""
    given: Hidden | None = getattr(encoder, "given", None)
    found = {} if given is None else {"encoder": replace(given, read_by=(layers[0],))}
    for place, layer in enumerate(layers):
        read_by = (layers[place + 1],) if place + 1 < len(layers) else heads
        found[f"layers.{place}"] = Hidden(
            made_by=layer, read_by=read_by, activation="tanh", gain=ORTHOGONAL
        )
    return found


def _through(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x).tanh()
    return x


def _orthogonal(layer: Dense, gain: float) -> Dense:
    """The layer with an orthogonal weight of this gain and no bias."""
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
