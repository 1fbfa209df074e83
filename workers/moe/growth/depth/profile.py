"""The profile schedule: experts over depth as given, or as a diagnostic of a run measured."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.contract import InputError
from workers.moe.growth.depth.base import Schedule


class Profile(Schedule):
    """Experts follow a weight D_l of each layer, given or measured.

    ``N_l = min + (max - min) (D_l - min D) / (max D - min D)`` (DynaMoE, arXiv 2603.01697, equation
    25, rounded); equal weights give all layers the largest number. Instead of weights, ``experts``
    may list the layers' numbers as they are where the model has the largest of them; with more or
    fewer they are scaled.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Schedule.Config):
        """Weights, numbers, or where they were measured: one of the three."""

        kind: str = "profile"
        weights: tuple[float, ...] = ()
        """D_l of each layer, the first one first."""
        experts: tuple[int, ...] = ()
        """Experts of each layer in proportion."""
        measured: str | None = None
        """File that ``growstage show RUN --json`` wrote. It is read where the config is: the run
        keeps the weights found, and needs the file no more."""
        diagnostic: str = "superposition"
        """Whose figures in that file are the weights: the last stage's, mean over lanes."""

        def __post_init__(self) -> None:
            Schedule.Config.__post_init__(self)
            if self.measured is not None and not self.weights:
                object.__setattr__(self, "weights", read(Path(self.measured), self.diagnostic))
            if self.weights and self.experts:
                raise ValueError("give weights (or measured) or experts, not both")
            if self.experts and min(self.experts) < 1:
                raise ValueError(f"experts must be at least 1 in each layer, got {self.experts}")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.experts = config.experts
        self.shares = _shares(config.weights)

    def share(self, index: int, layers: int) -> float:
        return self.shares[index]

    def count(self, index: int, layers: int, experts: int) -> int:
        if not self.experts:
            return Schedule.count(self, index, layers, experts)
        return max(1, int(experts * self.experts[index] / max(self.experts) + 0.5))

    def check(self, layers: int) -> None:
        given = len(self.experts or self.shares)
        if layers != given:
            raise InputError(
                f"schedule profile: {given} layers were given and the model has {layers} routed "
                "ones; give one weight (or number of experts) for each of them, the first one first"
            )


def read(file: Path, diagnostic: str) -> tuple[float, ...]:
    """A layer diagnostic's figures in the report of a run, the first layer first.

    Of each lane's last stage, mean over its tasks and over lanes. Raises ValueError where there
    are none, or lanes have other layers.
    """
    try:
        lanes: Any = json.loads(file.read_text())["lanes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"measured: {file} is no report ({error}); write one: growstage show RUN --json"
        ) from error
    sums: dict[str, list[float]] = {}
    for stage in [lane["stages"][-1] for lane in lanes if lane["stages"]]:
        for figures in (*stage["figures"].values(), stage["model_figures"]):
            for layer, value in _layers(figures, diagnostic).items():
                sums.setdefault(layer, []).append(value)
    if not sums or len({len(values) for values in sums.values()}) > 1:
        raise ValueError(
            f"measured: {file} has no figures of diagnostic {diagnostic!r} for one set of layers; "
            "name it in training.diagnostics of that run, whose lanes must have the same layers"
        )
    return tuple(sum(values) / len(values) for _, values in sorted(sums.items(), key=_depth))


def _layers(figures: dict[str, float], diagnostic: str) -> dict[str, float]:
    """Layer -> figure, of a diagnostic's entries ``<name>/<layer>``."""
    parts = {name: name.split("/") for name in figures}
    return {
        found[1]: figures[name]
        for name, found in parts.items()
        if found[0] == diagnostic and len(found) == 2
    }


def _depth(item: tuple[str, Any]) -> list[tuple[int, str]]:
    """Orders names of layers by the numbers in them."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"\.", item[0])]


def _shares(weights: Sequence[float]) -> list[float]:
    """Weights mapped to 0..1; all 1 where they are equal."""
    low, high = (min(weights), max(weights)) if weights else (0.0, 0.0)
    return [(weight - low) / (high - low) if high > low else 1.0 for weight in weights]
