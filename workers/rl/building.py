"""What training and evaluation both build from a lane's settings, and how actions are drawn.

Knows torch but neither Ray nor RLlib.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from workers.compact_layout import Compact
from workers.contract import InputError, Json
from workers.models import MODELS, capability_problem
from workers.models.acting import ActingModel
from workers.parsing import checked
from workers.rl import ENVIRONMENT_STREAMS
from workers.rl.streams import EnvironmentStream


def build_stream(settings: Json, seed: int) -> EnvironmentStream:
    """The stream behind a lane's ``stream`` section."""
    cls, config = checked(ENVIRONMENT_STREAMS, settings)
    stream: EnvironmentStream = cls(config, seed)
    return stream


def build_model(
    settings: Json,
    observation_shape: tuple[int, ...],
    actions: int,
    seed: int,
    layout: Compact | None = None,
) -> ActingModel:
    """The untrained model behind a lane's ``model`` section.

    Raises InputError where it cannot act.
    """
    problem = capability_problem(settings["kind"], "acts", "model.kind")
    if problem is not None:
        raise InputError(str(problem))
    cls, config = checked(MODELS, settings)
    model: ActingModel = cls(config, observation_shape, actions, seed, layout)
    return model


def frozen_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that are not trained."""
    return tuple(name for name, p in module.named_parameters() if not p.requires_grad)


def set_frozen(module: nn.Module, names: Collection[str]) -> None:
    """Train all parameters but these; a frozen one has no gradient, so that nothing moves it."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in names)
        if name in names:
            parameter.grad = None


def sample_actions(logits_NA: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Actions drawn from the logits (Gumbel-max), and their log probabilities: [N], [N]."""
    logits_NA = logits_NA.cpu()
    uniform_NA = torch.rand(logits_NA.shape, generator=generator).clamp_(1e-10, 1.0 - 1e-7)
    actions_N = (logits_NA - torch.log(-torch.log(uniform_NA))).argmax(-1)
    chances_NA = torch.log_softmax(logits_NA, -1)
    return actions_N, chances_NA.gather(-1, actions_N[:, None]).squeeze(-1)
