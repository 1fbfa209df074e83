"""The segment router: whole segments of a sequence go to the same experts.

Seg-MoE (arXiv 2601.21641). Letters: T tokens of B sequences of S, D inputs, N segments of w tokens,
E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from workers.contract import InputError, LaneSettings
from workers.moe.routers.base import Router, RouterContext
from workers.moe.routers.linear import LinearRouter
from workers.tables import Problem


class SegmentRouter(LinearRouter):
    """r(segment) = W flatten(x[s w : (s+1) w]) + b, one score for w tokens (arXiv 2601.21641).

    A last segment that is not full is filled up with zeros. A token must not depend on later ones
    of its sequence where the model predicts those: with ``causal`` a segment is scored by the
    tokens of the segment before it, the first one by the biases alone.
    """

    aim = Router.aim
    start_from = Router.start_from
    as_linear = Router.as_linear

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the segment router."""

        kind: str = "segment"
        window: int = 4
        """w: tokens of a segment."""
        causal: bool = True
        """Score a segment by the tokens before it, not by its own."""
        bias: bool = True
        """Whether each expert has a trained bias."""

        def __post_init__(self) -> None:
            if self.window < 1:
                raise ValueError(f"window must be at least 1, got {self.window}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be sequences, and no look at tokens that are to be predicted."""
            if lane.tokens and not self.causal:
                allowed = "a segment would see the tokens that it is to predict: set causal = true"
                return [Problem("causal", "got false with a language model", allowed)]
            if not lane.sequential:
                what = f"inputs of shape {lane.input_shape}, each routed by itself"
                allowed = "segments need sequences: use stream text, or router linear"
                return [Problem("kind", what, allowed)]
            return []

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__(LinearRouter.Config(bias=config.bias), inputs * config.window)
        self.config = config

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E], alike for the tokens of a segment."""
        if context.steps is None:
            raise InputError(
                "router segment: the layer reads single tokens, no sequences [B, S, D]; use it in "
                "a model whose layers read sequences (decoder), or router linear"
            )
        steps, window = context.steps, self.config.window
        x_BSD = x_TD.unflatten(0, (-1, steps))
        x_BSD = functional.pad(x_BSD, (0, 0, 0, -steps % window))
        x_BNF = x_BSD.unflatten(1, (-1, window)).flatten(2)
        if self.config.causal:
            x_BNF = functional.pad(x_BNF, (0, 0, 1, 0))[:, :-1]
        logits_BNE = super().forward(x_BNF.flatten(0, 1), context).unflatten(0, x_BNF.shape[:2])
        return logits_BNE.repeat_interleave(window, 1)[:, :steps].flatten(0, 1)
