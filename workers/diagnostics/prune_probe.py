"""How much a model depends on each of its routed layers and on the width of its experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from workers.diagnostics.base import Diagnostic, Figures, Probe


class PruneProbe(Diagnostic):
    """Accuracy without training after each routed layer is dropped, and after experts are narrowed.

    ``drop/<layer>``: the layer answers its input, or 0 where it has another number of outputs;
    ``width/<share>``: all experts of kinds that can be narrowed keep that share of their hidden
    units, the strongest, their output maps refitted on the samples; ``whole``: nothing is done
    (depth and width pruning as a probe, arXiv 2512.02351). Classification only.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """Settings of the widths."""

        kind: str = "prune_probe"
        widths: tuple[float, ...] = (0.75, 0.5, 0.25)
        """Shares of the hidden units that are kept."""

        def __post_init__(self) -> None:
            if not all(0.0 < share < 1.0 for share in self.widths):
                raise ValueError(f"widths must be above 0 and below 1, got {self.widths}")

    unit = "accuracy, 0..1"
    source = "sparsity in unified multimodal models (arXiv 2512.02351), depth and width probe"
    scope = "task"
    cheap: ClassVar[bool] = False

    config: Config

    def figures(self, probe: Probe) -> Figures:
        if probe.targets is None or probe.targets.is_floating_point():
            return {}
        from workers.diagnostics.pruning import without_layers, without_width

        return without_layers(probe) | {
            f"width/{share:g}": accuracy
            for share in self.config.widths
            if (accuracy := without_width(probe, share)) is not None
        }
