"""How much each expert does to what the model computes: the score by which experts are pruned."""

from __future__ import annotations

from dataclasses import dataclass

from workers.contract import Json
from workers.diagnostics.base import Diagnostic, Figures, Probe


class OutputAware(Diagnostic):
    """Output-aware importance of experts: how large their answers are where the layer does much.

    ``s_e = sum_t g_e(t) ||E_e(x_t)|| max(0, 1 - cos(h_t, h'_t))`` (EASY-EP, arXiv 2504.06792),
    g the gate weight (0 where not chosen), h and h' the hidden state before and after the layer's
    block: the innermost module around this routed layer alone that gives as many features as it
    takes (a residual layer, a block of a decoder, its attention included). Where there is none it
    is the layer itself, if it gives as many as it takes; else the factor is 1, as the layer
    replaces the state.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """Settings of the sample."""

        kind: str = "output_aware"
        samples: int = 25
        """Training samples of each domain that are looked at at the start of a stage."""

        def __post_init__(self) -> None:
            if self.samples < 1:
                raise ValueError(f"samples must be at least 1, got {self.samples}")

    unit = "length of outputs, from 0"
    source = "EASY-EP (arXiv 2504.06792), output-aware importance"
    scope = "task"
    cheap = False

    config: Config

    @property
    def samples(self) -> int:
        return self.config.samples

    def told(self, probe: Probe) -> Json:
        """``{layer: {domain: [score of each expert by id, 0 where it was removed]}}``."""
        from workers.diagnostics.expert_outputs import contributions

        return contributions(probe)

    def figures(self, probe: Probe) -> Figures:
        """``<layer>/<expert>``: over all domains of the task."""
        return {
            f"{layer}/{expert}": sum(values)
            for layer, domains in self.told(probe).items()
            for expert, values in enumerate(zip(*domains.values(), strict=True))
        }
