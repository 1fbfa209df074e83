"""Growth where gradients grow: there is something new to learn."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.policies.base import View
from orchestrator.policies.deviation import deviation
from orchestrator.policies.growing import Evidence, Triggered
from orchestrator.policies.signals import seen
from workers.contract import Json

NORM, COHERENCE = "gradient_norm", "gradient_coherence"


class GradientDrift(Triggered):
    """Grows where the gradient is much larger than it was, and points one way if that is asked.

    Evidence where ``z(ln |g|) > z`` against the exponential mean and variance of the intervals
    before and, with ``coherence``, the mean cosine between the interval's gradients is above it:
    noise makes gradients larger too, but lets them point anywhere. Of few steps that cosine is
    noise itself, so it is not asked for by default. Remembers mean, variance and count.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Triggered.Config):
        """How much larger, and how much alike."""

        kind: str = "gradient_drift"
        z: float = 3.0
        """Standard deviations of the logarithm of the gradient's norm."""
        coherence: float | None = None
        """Least mean cosine between gradients of the interval, -1 to 1; None = any."""
        decay: float = 0.9
        """How slowly mean and variance follow, 0 to below 1."""
        warmup: int = 8
        """Intervals before it says anything; after each growth as well."""

        def __post_init__(self) -> None:
            Triggered.Config.__post_init__(self)
            if not 0.0 <= self.decay < 1.0 or self.z <= 0.0 or self.warmup < 2:
                raise ValueError(
                    "decay must be from 0 to below 1, z above 0 and warmup at least 2, got "
                    f"{self.decay}, {self.z} and {self.warmup}"
                )

        @property
        def watched(self) -> tuple[str, ...]:
            return (NORM,) if self.coherence is None else (NORM, COHERENCE)

    config: Config

    def look(self, view: View, memory: Json) -> tuple[Evidence | None, Json]:
        norm, alike = seen(view, NORM), seen(view, COHERENCE)
        if norm is None or norm <= 0.0:
            return None, memory
        z, told = deviation(math.log(norm), memory, self.config.decay)
        if told[2] <= self.config.warmup or z <= self.config.z:
            return None, told
        figures = {"z": z, NORM: norm}
        if self.config.coherence is not None:
            if alike is None or alike <= self.config.coherence:
                return None, told
            figures[COHERENCE] = alike
        return Evidence("gradients drift", figures), told
