"""What routers do where: gate weights by floor of the game, and step by step in one episode.

Figures after DynamicMoE (arXiv 2511.18987): when an agent enters another floor, weight should
move to another expert. Knows no algorithm and draws nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workers.diagnostics import Gates
from workers.diagnostics.observing import by_sample, observe
from workers.models.acting import ActingModel
from workers.rl.building import sample_actions
from workers.rl.dlpack import as_tensor
from workers.rl.environments.base import BatchedEnvironment


class FloorGates:
    """Gate weights summed up by layer and floor."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], NDArray[np.float64]] = {}
        self._counts: dict[int, int] = defaultdict(int)

    def add(
        self,
        routed: Mapping[str, Gates],
        floors: NDArray[np.int64],
        counted: NDArray[np.bool_],
    ) -> None:
        """Count what the routers did in one step of N environments.

        ``floors`` [N]: where each one is; ``counted`` [N]: whether its step counts.
        """
        for floor in np.unique(floors[counted]):
            self._counts[int(floor)] += int((counted & (floors == floor)).sum())
        for layer, gates in routed.items():
            weights_NE = by_sample(gates, len(floors)).double().cpu().numpy()
            for floor in np.unique(floors[counted]):
                added = weights_NE[counted & (floors == floor)].sum(0)
                place = layer, int(floor)
                self._sums[place] = self._sums.get(place, np.zeros(1)) + added

    def total(self) -> dict[str, list[float]]:
        """Layer -> mean gate weight of each expert over all floors."""
        steps = sum(self._counts.values())
        sums: dict[str, NDArray[np.float64]] = {}
        for (layer, _), added in self._sums.items():
            sums[layer] = sums.get(layer, np.zeros(1)) + added
        return {layer: (added / steps).tolist() for layer, added in sums.items()}

    def by_floor(self) -> dict[str, float]:
        """``gate/<layer>/floor<f>/<expert>`` -> mean weight there; ``steps/floor<f>``."""
        figures = {f"steps/floor{floor}": float(n) for floor, n in sorted(self._counts.items())}
        for (layer, floor), sums in sorted(self._sums.items()):
            for expert, weight in enumerate(sums / self._counts[floor]):
                figures[f"gate/{layer}/floor{floor}/{expert}"] = float(weight)
        return figures


Watch = Callable[[int, int, Callable[[], Any]], None]
"""Told (step, most steps, what draws the environment as it is: uint8 [H, W, 3] or None)."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One episode: floor [T] and gate weights [T][experts] of each layer, step by step."""

    floors: list[int]
    gates: dict[str, list[list[float]]]


@torch.inference_mode()
def trace(
    model: ActingModel,
    engine: BatchedEnvironment,
    *,
    max_steps: int,
    seed: int,
    watch: Watch | None = None,
) -> Trace:
    """Floor and gate weights at each step of one episode, that of environment 0 of ``engine``.

    ``engine`` [N environments] is reset first; actions are drawn by ``seed``. Ends with the episode
    or after ``max_steps`` steps. ``watch`` is told of every step before it is taken.
    """
    generator = torch.Generator().manual_seed(seed)
    observations, floors = engine.reset(), []
    state = model.initial_state(engine.num_envs)
    gates: dict[str, list[list[float]]] = defaultdict(list)
    with observe(model) as take:
        for step in range(max_steps):
            floors.append(int(engine.floors()[0]))
            if watch is not None:
                watch(step, max_steps, engine.picture)
            logits, state = model.step(as_tensor(observations).to(state.device), state)
            for layer, routed in take().items():
                gates[layer].append(by_sample(routed, engine.num_envs)[0].tolist())
            actions, _ = sample_actions(logits, generator)
            observations, _, terminated, truncated = engine.step(actions.numpy())
            done = terminated | truncated
            if done[0]:
                break
            if done.any():
                ended = np.flatnonzero(done)
                observations = engine.renew(ended)
                state[ended] = 0.0
    return Trace(floors, dict(gates))
