"""The parts of a supervised lane as its settings say: stream, training, model, optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workers import trainers
from workers.contract import LaneSpec, derive_seed
from workers.methods import METHODS
from workers.models import MODELS
from workers.parsing import checked
from workers.supervised.optimizers import OPTIMIZERS
from workers.supervised.precision import MasterWeights, lower
from workers.tables import construct


def build_stream(lane: LaneSpec) -> Any:
    """The lane's stream; loads no data yet."""
    cls, config = checked(trainers.streams(), lane.settings["stream"])
    return cls(config, lane.seed)


def training_config(lane: LaneSpec) -> Any:
    """The checked ``[training]`` section."""
    return checked(trainers.trainings(), lane.settings["training"])[1]


def build_method(lane: LaneSpec, stream: Any) -> Any:
    """The lane's method, which has seen nothing yet."""
    cls, config = checked(METHODS, lane.settings["method"])
    return cls(config, derive_seed(lane.seed, "method"), stream.objective)


def build_model(lane: LaneSpec, stream: Any) -> Any:
    """The untrained model of a lane: depends on settings and the lane's seed only."""
    cls, config = checked(MODELS, lane.settings["model"])
    model = cls(config, stream.input_shape, stream.outputs, derive_seed(lane.seed, "model"))
    if training_config(lane).precision == "bfloat16":
        lower(model)
    return model


def build_optimizer(training: Any, model: nn.Module) -> torch.optim.Optimizer:
    """A fresh optimizer for the model, with master weights where it is lowered."""
    made: torch.optim.Optimizer = construct(OPTIMIZERS, training.optimizer).build(model)
    return MasterWeights(made) if training.precision == "bfloat16" else made
