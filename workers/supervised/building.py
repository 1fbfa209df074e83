"""The parts of a supervised lane as its settings say: stream, training, model, device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

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


def build_model(lane: LaneSpec, stream: Any) -> nn.Module:
    """The untrained model of a lane: depends on settings and the lane's seed only."""
    cls, config = checked(MODELS, lane.settings["model"])
    model: nn.Module = cls(
        config, stream.input_shape, stream.outputs, derive_seed(lane.seed, "model")
    )
    return model


def pick_device() -> torch.device:
    """The GPU the cluster gave this worker, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
