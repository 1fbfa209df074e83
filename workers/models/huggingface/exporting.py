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
    routers = {name: _linear(name, layer) for name, layer in layers.items()}
    config = copy.deepcopy(lm.config)
    text = config.get_text_config()
    for name in loading.COUNTS:
        if name in text.to_dict():
            setattr(text, name, next(iter(counts.values())))
    with torch.device("meta"):
        empty: Any = loading.stock_model("", config, seed=0)
    wanted = set(empty.state_dict())
    state = _state(lm, layers, routers, mixtures(empty, config.model_type), wanted)
    empty.load_state_dict(state, assign=True)
    empty.tie_weights()
    empty.generation_config = lm.generation_config
    empty.save_pretrained(folder)


def _linear(name: str, layer: StockLayer) -> tuple[Tensor, Tensor | None]:
    try:
        return layer.router.as_linear()
    except InputError as error:
        raise InputError(f"export, router of {name}: {error}") from error


def _state(
    lm: nn.Module,
    layers: dict[str, StockLayer],
    routers: dict[str, tuple[Tensor, Tensor | None]],
    stock: list[Mixture],
    wanted: set[str],
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
        rows_ED, biases_E = routers[mixture.name]
        state[f"{router}.weight"] = rows_ED.detach()
        if biases_E is not None:
            state[f"{router}.bias"] = biases_E.detach()
        for name, value in layer.selector.router.state_dict().items():
            state[f"{router}.{name}"] = value
    return state
