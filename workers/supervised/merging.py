"""How a lane's first model is made of models that were trained before: built, checked, filled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from workers.checkpoint import read
from workers.contract import InputError, Merged, Parent, derive_seed
from workers.merges import MERGES, Merge, Scene
from workers.models import MODELS
from workers.moe.growth import surgery
from workers.moe.seeding import seeded
from workers.parsing import checked
from workers.supervised.starting import check_reader, released


def merge_into(model: nn.Module, merged: Merged, stream: Any, seed: int) -> None:
    """Set the parameters of a lane's untrained model from its parents.

    Raises InputError where a checkpoint is damaged or does not fit.
    """
    parents = [_read(parent, stream) for parent in merged.parents]
    merge = _merge(merged)
    merge.check(model, parents)
    scene = Scene(
        stream=stream,
        domains=tuple(parent.domains for parent in merged.parents),
        seed=derive_seed(seed, "merge"),
    )
    with seeded(scene.seed):
        merge.fill(model, parents, scene)


def check(config: Any, merged: Merged, stream: Any, made: Callable[[Parent], Any]) -> None:
    """Refuse (InputError) parents that a model of ``config`` cannot be made of, none of which need
    be trained yet; ``made`` gives their shapes where they are known."""
    with torch.device("meta"):
        cls: Any = MODELS.get(config.kind)
        model = cls(config, stream.input_shape, stream.outputs, seed=0)
        parents = [made(parent) for parent in merged.parents]
    _merge(merged).check(model, parents)


def untrained(parent: Parent, stream: Any) -> nn.Module:
    """A parent as it is built, before anything is trained.

    Raises InputError where its settings do not fit the stream.
    """
    cls, config = checked(MODELS, parent.model)
    try:
        model: nn.Module = cls(config, stream.input_shape, stream.outputs, seed=0)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{parent.name}: cannot be built for this lane's stream ({error}); merge models of "
            "streams with equal inputs and outputs"
        ) from error
    return model


def shaped(parent: Parent, stream: Any) -> nn.Module:
    """A parent whose checkpoint stands, in its shape; its values are to be loaded."""
    assert parent.checkpoint is not None
    model = untrained(parent, stream)
    surgery.ensure_arch(model, released(read(parent.checkpoint).state["arch"]))
    return model


def _read(parent: Parent, stream: Any) -> nn.Module:
    assert parent.checkpoint is not None, f"{parent.name} is not trained yet"
    saved = read(parent.checkpoint)
    check_reader(stream, saved)
    model = untrained(parent, stream)
    surgery.ensure_arch(model, released(saved.state["arch"]))
    model.load_state_dict(saved.tensors["model"])
    return model.eval()


def _merge(merged: Merged) -> Merge:
    cls, config = checked(MERGES, merged.way)
    found: Merge = cls(config)
    return found
