"""How a lane begins with a model that another run has trained: what fits, and what is taken.

Weights and architecture are taken, grown layers included; masks and phases are not, which are the
other run's policies' doing, nor the method's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from workers.checkpoint import Checkpoint, read
from workers.contract import InputError, Json, ModelShape, Start
from workers.models import MODELS
from workers.moe.growth import optimizer_state, surgery
from workers.supervised.building import build_optimizer
from workers.tables import construct


def begin_with(model: nn.Module, start: Start) -> Checkpoint:
    """Give the model the weights and the shape of ``start``; returns the checkpoint they come from.

    Raises InputError where the folder is missing or damaged, or the architecture another one.
    """
    saved = read(start.checkpoint)
    surgery.ensure_arch(model, released(saved.state["arch"]))
    model.load_state_dict(saved.tensors["model"])
    return saved


def grown(config: Any, stream: Any, saved: Checkpoint) -> nn.Module:
    """The model of ``config`` in the shape that was saved, without memory for its weights.

    Raises InputError where its settings cannot build that.
    """
    try:
        with torch.device("meta"):
            model: nn.Module = construct(MODELS, config, stream.input_shape, stream.outputs, seed=0)
            surgery.ensure_arch(model, released(saved.state["arch"]))
    except (InputError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _another(f"{error}".partition(";")[0]) from error
    return model


def shape(config: Any, stream: Any, saved: Checkpoint) -> ModelShape:
    """Shape of the model that a lane would begin with; raises InputError as ``grown``."""
    return surgery.shape(grown(config, stream, saved))


def check_reader(stream: Any, saved: Checkpoint) -> None:
    """Refuse (InputError) a model that learnt from inputs made otherwise, by another tokenizer."""
    learnt, found = saved.state["reader"], stream.reader
    if learnt != found:
        raise InputError(
            f"the checkpoint's model read its inputs by {learnt or 'nothing'}, the stream makes "
            f"them by {found or 'nothing'}: another tokenizer, or one trained on other text; name "
            "the same texts in tokenizer.trained_on, or export the model and take its tokenizer"
        )


def check(config: Any, stream: Any, saved: Checkpoint, training: Any = None) -> None:
    """Refuse (InputError) weights that the model of ``config`` cannot hold, a tokenizer that they
    do not know, and a state that the optimizer of ``training``, where it is to be taken, does not
    keep."""
    model = grown(config, stream, saved)
    check_reader(stream, saved)
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in saved.tensors["model"].items()}
    wrong = [name for name in {**own, **there} if own.get(name) != there.get(name)]
    if wrong:
        name, more = wrong[0], len(wrong) - 1
        raise _another(
            f"{name} is {there.get(name, 'missing')} in it, {own.get(name, 'missing')} in the model"
            + (f", and {more} more differ" if more else "")
        )
    if training is not None:
        built = build_optimizer(training, model)
        named = saved.tensors.get("optimizer")
        if named is None:
            raise InputError(
                "the checkpoint is of a model alone, without optimizer state; leave optimizer out"
            )
        optimizer_state.check_named_state(dict(model.named_parameters()), built, named)


def _another(what: str) -> InputError:
    return InputError(
        f"a checkpoint of another architecture: {what}; give the [model] settings that it was made "
        "with, and a stream of as large inputs and as many outputs"
    )


def released(arch: Mapping[str, Json]) -> dict[str, Json]:
    """The architecture with nothing masked or frozen by a phase."""
    return {name: _free(part) for name, part in arch.items()}


def _free(part: Json) -> Json:
    kept = {key: value for key, value in part.items() if key not in ("mask", "phase")}
    if "phase" in part:
        kept["experts"] = [{**expert, "frozen": False} for expert in part["experts"]]
    return kept
