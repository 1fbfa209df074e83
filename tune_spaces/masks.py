"""Gradient masks (placeholder until read)."""

from __future__ import annotations

from tune_spaces.space import LogUniform, Space


class Masks(Space):
    """Gradient masks by expert usage: threshold, momentum, phases."""

    base = "configs/digits_growth.toml"
    lane = "replay"
    parameters = {"training.optimizer.lr": LogUniform(1e-4, 1e-2)}  # noqa: RUF012
