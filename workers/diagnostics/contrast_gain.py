"""Diagnostic: what experts that were not chosen could add. Imports no torch at import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from workers.diagnostics.base import Diagnostic, Figures, Probe, Scope


class ContrastGain(Diagnostic):
    """Score gained by contrast with the second expert alone: how non-redundant experts are.

    Score of ``z = (1 + b) z_strong - b z_weak`` (``workers.inference.self_contrast``) less that of
    the plain answers, on the probe.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """The contrast's reach and strength."""

        kind: str = "contrast_gain"
        a: float = 0.1
        """Probability, as a share of the largest, from which an output is contrasted."""
        b: float = 0.5
        """How strongly the weak answer is taken off."""

        def __post_init__(self) -> None:
            if not 0 < self.a <= 1 or self.b < 0:
                raise ValueError(
                    f"a must be above 0 and at most 1, b not negative, got {self.a} and {self.b}"
                )

    unit = "score, -1..1"
    source = "SCMoE (arXiv 2405.14507)"
    scope: ClassVar[Scope] = "task"
    cheap = False

    config: Config

    def figures(self, probe: Probe) -> Figures:
        from workers.inference.self_contrast import contrasted, of_rank
        from workers.inference.steering import steerable, steered

        layers, targets = steerable(probe.model), probe.targets
        if probe.score is None or targets is None or not layers:
            return {}
        if targets.is_floating_point():
            return {}  # answers that are values have no probabilities
        strong = probe.model(probe.inputs)
        with steered(layers, dict.fromkeys(layers, of_rank(2))):
            weak = probe.model(probe.inputs)
        sharpened = contrasted(strong, weak, self.config.a, self.config.b)
        return {"": probe.scored(sharpened) - probe.scored(strong)}
