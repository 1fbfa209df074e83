"""Experts over depth: the form of the schedule and how many experts its largest layer has.

Every setting shapes the model from the start, so that trials have no stage in common.
"""

from __future__ import annotations

from tune_spaces.space import Choice, Integer, Space


class Schedule(Space):
    """Experts per layer over depth: form of the schedule and its largest layer."""

    base = "configs/digits_growth.toml"
    lane = "replay"
    fixed = {  # noqa: RUF012
        "policies.growth": "none",
        "model.head.kind": "moe",
        "model.head.hidden": (128, 128, 128),
    }
    parameters = {  # noqa: RUF012
        "model.experts": Integer(1, 8),
        "model.head.schedule": Choice(
            (
                "constant",
                "uniform",
                "ascending",
                "descending",
                "pyramid_up",
                "pyramid_down",
                "wave_down",
            )
        ),
    }
