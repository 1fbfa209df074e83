"""The parts of a supervised lane as its settings say: stream, training, model."""

from __future__ import annotations

from typing import Any

from workers import trainers
from workers.contract import LaneSpec, derive_seed
from workers.models import MODELS
from workers.parsing import checked


def build_stream(lane: LaneSpec) -> Any:
    """The lane's stream; loads no data yet."""
    cls, config = checked(trainers.streams(), lane.settings["stream"])
    return cls(config, lane.seed)


def training_config(lane: LaneSpec) -> Any:
    """The checked ``[training]`` section."""
    return checked(trainers.trainings(), lane.settings["training"])[1]


def build_model(lane: LaneSpec, stream: Any) -> Any:
    """The untrained model of a lane: depends on settings and the lane's seed only."""
    cls, config = checked(MODELS, lane.settings["model"])
    return cls(config, stream.input_shape, stream.outputs, derive_seed(lane.seed, "model"))
