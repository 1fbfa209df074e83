"""Expert choice: each expert takes the tokens that score it highest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.contract import LaneSettings
from workers.moe.selection import Selection, exact
from workers.moe.selectors.base import Selector, largest
from workers.moe.selectors.capacity import places
from workers.tables import Problem


class ExpertChoice(Selector):
    """Each expert takes its ``n k / E`` best tokens of a forward, weighted by their softmax.

    ``p = softmax(g / T)`` over experts; expert e runs for the tokens with the largest p_e, any
    number of experts for a token, none included, with weight p_e (arXiv 2202.09368, equation 1).
    The load is even by construction. Whether a token is taken depends on all others of the
    forward, in evaluation too; lanes in which it must not are refused. Workers that train one
    lane, and the parts of a step, choose among their own tokens.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        """Settings of expert choice."""

        kind: str = "expert_choice"
        k: float = 2.0
        """Experts that a token passes on average (the paper's capacity factor)."""
        temperature: float = 1.0
        """Logits are divided by it before the softmax."""

        def __post_init__(self) -> None:
            if self.k <= 0 or self.temperature <= 0:
                raise ValueError(
                    f"k and temperature must be above 0, got {self.k} and {self.temperature}"
                )

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Refused where a token's answer must not depend on the others."""
            if not lane.answers_alone:
                return []
            found = "experts choose among all tokens of a batch, those that come later included"
            allowed = (
                "a model that acts or predicts next tokens must not see them: use a selector that "
                "chooses for each token, such as topk"
            )
            return [Problem("kind", found, allowed)]

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.k, self.temperature = config.k, config.temperature

    def active(self, experts: int) -> float:
        """k, or all while there are fewer, up to the rounding of tokens."""
        return min(self.k, experts)

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """See ``Selector.select``; an expert that too few tokens are allowed to use takes those."""
        all_TE = self.probabilities(exact(logits_TE), allowed_TE)
        tokens, experts = all_TE.shape
        taken = min(tokens, places(self.k, tokens, experts))
        ranked_TE = all_TE.detach()
        if allowed_TE is not None:
            ranked_TE = ranked_TE.masked_fill(~allowed_TE, -1.0)
        chosen_TE = largest(ranked_TE.t(), taken).t() if tokens else ranked_TE > 0
        if allowed_TE is not None:
            chosen_TE = chosen_TE & allowed_TE
        weights_TE = torch.where(chosen_TE, all_TE, 0.0)
        return Selection(chosen_TE, weights_TE, probabilities_TE=all_TE)
