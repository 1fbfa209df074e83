"""Decoder: a small causal transformer whose feed-forward layers are layers of choice.

Pre-norm blocks with RMSNorm (arXiv 1910.07467), rotary positions (arXiv 2104.09864) and grouped
queries (arXiv 2305.13245) through torch's scaled dot-product attention. Knows no text. Letters:
B windows, S tokens of a window, D width, H heads, C numbers of a head, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import InputError, LaneSettings, derive_seed
from workers.models.base import Model, check_experts
from workers.moe.experts import GatedExpert
from workers.moe.growth.schedules import SCHEDULES, places
from workers.moe.layers import LAYERS, MoELayer, active
from workers.moe.seeding import seeded
from workers.moe.selectors import TopK
from workers.moe.walk import join
from workers.tables import Problem, choice, construct

SPREAD = 0.02
"""Standard deviation of initial embeddings and attention weights."""


def _mixture() -> MoELayer.Config:
    return MoELayer.Config(selector=TopK.Config(), expert=GatedExpert.Config(width=128))


class Decoder(Model):
    """A causal language model: tokens int64 [B, S] -> logits [B, S, V] of the token after each.

    Embedding and output map share their weights unless told otherwise. The parameters depend on
    (config, input_shape, outputs, seed) only.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"tokens"})
    has_blocks = True
    blocks: nn.ModuleList

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Sizes of the transformer, and what its feed-forward layers are."""

        kind: str = "decoder"
        experts: int = 1
        """Experts of the largest feed-forward layer at the start."""
        max_experts: int | None = None
        """Final number of experts, which sets widths that the config leaves open."""
        width: int = 128
        """D: numbers of a token between blocks."""
        depth: int = 4
        """Blocks."""
        heads: int = 4
        """Query heads; must divide the width into an even number."""
        kv_heads: int | None = None
        """Key and value heads, each shared by as many queries; None = one for each query."""
        layer: Any = field(default_factory=_mixture, metadata={"table": LAYERS})
        """Feed-forward layer of each block: the two best of its gated experts (width 128) unless
        given. Without a width, its experts together cost one map D -> D."""
        schedule: Any = choice(SCHEDULES, "constant")
        """Experts per layer over depth."""
        rotary_base: float = 10_000.0
        """Base of the rotary positions' wavelengths."""
        tied: bool = True
        """The output map is the embedding."""

        def __post_init__(self) -> None:
            check_experts(self.experts, self.max_experts)
            for name in ("width", "depth", "heads"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
            if self.width % (2 * self.heads):
                raise ValueError(
                    f"width {self.width} with {self.heads} heads: a head needs an even number of "
                    "them; make width a multiple of 2 x heads"
                )
            if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
                raise ValueError(f"kv_heads must divide heads = {self.heads}, got {self.kv_heads}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """A window of tokens, one number each."""
            if len(lane.input_shape) == 1:
                return []
            what = f"inputs of shape {lane.input_shape}"
            return [Problem("kind", what, "a decoder reads windows of tokens: use stream text")]

    def __init__(
        self, config: Config, input_shape: tuple[int, ...], outputs: int, seed: int
    ) -> None:
        super().__init__()
        self.config = config
        schedule, maps = construct(SCHEDULES, config.schedule), [(config.width,) * 2] * config.depth
        standing = places(schedule, maps, partial(active, config.layer))
        self.blocks = nn.ModuleList(
            Block(config, place, derive_seed(seed, "block", index))
            for index, place in enumerate(standing)
        )
        join(self.blocks)
        self.norm = nn.RMSNorm(config.width)
        with seeded(derive_seed(seed, "embedding")):
            self.embedding = nn.Embedding(outputs, config.width)
            nn.init.normal_(self.embedding.weight, std=SPREAD)
            self.output = None if config.tied else _map(config.width, outputs, SPREAD)
        (window,) = input_shape
        size = config.width // config.heads
        cosine_SC, sine_SC = rotary(window, size, config.rotary_base)
        self.register_buffer("cosine", cosine_SC, persistent=False)
        self.register_buffer("sine", sine_SC, persistent=False)

    cosine: Tensor
    sine: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Tokens int64 [B, S] -> logits [B, S, V]; S at most the stream's window."""
        if x.shape[1] > len(self.cosine):
            raise InputError(
                f"{x.shape[1]} tokens, the decoder was built for windows of {len(self.cosine)}"
            )
        y_BSD = self.embedding(x)
        turn = [part[: x.shape[1]].to(y_BSD.dtype) for part in (self.cosine, self.sine)]
        for block in self.blocks:
            y_BSD = block(y_BSD, *turn)
        y_BSD = self.norm(y_BSD)
        if self.output is not None:
            logits: Tensor = self.output(y_BSD)
            return logits
        return functional.linear(y_BSD, self.embedding.weight)


class Block(nn.Module):
    """x + attention(norm(x)), then x + layer(norm(x))."""

    def __init__(self, config: Decoder.Config, place: Any, seed: int) -> None:
        super().__init__()
        width = config.width
        with seeded(derive_seed(seed, "attention")):
            self.attention = Attention(config)
        self.attention_norm, self.norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.layer = construct(
            LAYERS,
            config.layer,
            width,
            width,
            config.experts,
            config.max_experts,
            derive_seed(seed, "layer"),
            place=place,
        )

    def forward(self, x_BSD: Tensor, cosine_SC: Tensor, sine_SC: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), cosine_SC, sine_SC)
        y: Tensor = x_BSD + self.layer(self.norm(x_BSD))
        return y


class Attention(nn.Module):
    """Causal attention with rotary positions; queries share keys and values in groups."""

    def __init__(self, config: Decoder.Config) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.kv_heads = config.kv_heads or config.heads
        self.size = width // self.heads
        self.queries = _map(width, width, SPREAD)
        self.keys = _map(width, self.kv_heads * self.size, SPREAD)
        self.values = _map(width, self.kv_heads * self.size, SPREAD)
        self.output = _map(width, width, SPREAD / math.sqrt(2 * config.depth))

    def forward(self, x_BSD: Tensor, cosine_SC: Tensor, sine_SC: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        query_BHSC = turned(self._heads(self.queries(x_BSD)), cosine_SC, sine_SC)
        key_BHSC = turned(self._heads(self.keys(x_BSD)), cosine_SC, sine_SC)
        y_BHSC = functional.scaled_dot_product_attention(
            query_BHSC,
            key_BHSC,
            self._heads(self.values(x_BSD)),
            is_causal=True,
            enable_gqa=self.kv_heads != self.heads,
        )
        y: Tensor = self.output(y_BHSC.transpose(1, 2).flatten(2))
        return y

    def _heads(self, x_BSD: Tensor) -> Tensor:
        return x_BSD.unflatten(2, (-1, self.size)).transpose(1, 2)


def rotary(window: int, size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine [S, C] of the angles by which a head's numbers are turned at each position.

    Pair i (numbers i and i + C/2) at position s turns by ``s base^(-2i/C)`` (arXiv 2104.09864).
    """
    rate_C = base ** -(torch.arange(0, size, 2, dtype=torch.float32) / size)
    angle_SC = torch.outer(torch.arange(window, dtype=torch.float32), rate_C).repeat(1, 2)
    return angle_SC.cos(), angle_SC.sin()


def turned(x_BHSC: Tensor, cosine_SC: Tensor, sine_SC: Tensor) -> Tensor:
    """Every head's numbers turned by the angles of their positions."""
    low, high = x_BHSC.chunk(2, -1)
    return x_BHSC * cosine_SC + torch.cat([-high, low], -1) * sine_SC


def _map(inputs: int, outputs: int, spread: float) -> nn.Linear:
    made = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(made.weight, std=spread)
    return made
