"""A trained model back in the form of transformers, grown or not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import InputError
from workers.models.huggingface import loading
from workers.models.huggingface.convention import Mixture, mixtures
from workers.models.huggingface.experts import stacked_again
from workers.models.huggingface.layer import StockLayer
from workers.moe.routers.linear import LinearRouter


def export(lm: Any, layers: dict[str, StockLayer], folder: Path) -> None:
    """Write a folder that ``AutoModelForCausalLM.from_pretrained`` loads to the same logits.

    ``layers``: the routed layers by name of the block they stand in. Raises InputError, with
    nothing written, where the family has no place for what the layers have become.
    """
    counts = {name: layer.live for name, layer in layers.items()}
    if len(set(counts.values())) > 1:
        raise InputError(
            f"export: the layers have different numbers of experts ({counts}), and a model of type "
            f"{lm.config.model_type!r} has one number for all; export a stage in which they are "
            "alike"
        )
    for name, layer in layers.items():
        _check_router(name, layer)
    config = copy.deepcopy(lm.config)
    text = config.get_text_config()
    for name in loading.COUNTS:
        if name in text.to_dict():
            setattr(text, name, next(iter(counts.values())))
    with torch.device("meta"):
        empty: Any = loading.stock_model("", config, seed=0)
    state = _state(lm, layers, mixtures(empty, config.model_type), set(empty.state_dict()))
    empty.load_state_dict(state, assign=True)
    empty.tie_weights()
    empty.save_pretrained(folder)


def _check_router(name: str, layer: StockLayer) -> None:
    if not isinstance(layer.router, LinearRouter):
        raise InputError(
            f"export: the router of {name} is {layer.router.config.kind!r}, for which the model's "  # type: ignore[union-attr]
            "family has no place; export a lane with router linear"
        )
    if layer.router.offset.any():
        raise InputError(
            f"export: the router of {name} shifts logits of copied experts, and the model's family "
            "has no biases to hold that; grow with initialiser random, or export an earlier stage"
        )


def _state(
    lm: nn.Module, layers: dict[str, StockLayer], stock: list[Mixture], wanted: set[str]
) -> dict[str, Tensor]:
    """The stock model's state: what is the library's as it is, mixtures stacked again."""
    own = lm.state_dict()
    state = {name: own[name] for name in wanted if name in own}
    for mixture in stock:
        layer = layers[mixture.name]
        experts = [layer.expert(number) for number in layer.births]
        for name in mixture.stacked:
            state[f"{mixture.name}.experts.{name}"] = stacked_again(experts, name)
        router = f"{mixture.name}.{mixture.router_name}"
        linear: Any = layer.router
        state[f"{router}.weight"] = torch.stack(list(linear.rows.values())).detach()
        if linear.biased:
            state[f"{router}.bias"] = torch.stack(list(linear.biases.values())).detach()
        for name, value in layer.selector.router.state_dict().items():
            state[f"{router}.{name}"] = value
    return state
