"""Self-normalised resets: the threshold, the unit's own past, what cannot be silent."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from orchestrator.config.file import ConfigError, check
from tests.unit.workers.methods.steps import DENSE, build, classifier, context


def stepped(method: Any, model: Any, optimizer: Any, x: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    model.train()(x).sum().backward()
    method.after_step(context(model, optimizer))


def silencing(share: float, rejection: float) -> tuple[Any, Any, Any, torch.Tensor]:
    """One unit of the first layer fires for this share of 8 samples, the others for all."""
    model = classifier(**DENSE)
    method = build("self_normalized_resets", rejection=rejection)
    method.watch(model)
    layer = model.head.layers[0]
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 0] = 1.0
        layer.bias.fill_(1.0)
        layer.bias[0] = 0.0
    x = torch.zeros(8, 6)
    x[: int(8 * share), 0] = 1.0
    return method, model, torch.optim.SGD(model.parameters(), lr=0.1), x


@pytest.mark.parametrize("share", [0.125, 0.5])
@pytest.mark.parametrize("rejection", [0.2, 0.001])
def test_a_unit_is_reset_at_the_first_silence_that_is_improbable(
    share: float, rejection: float
) -> None:
    method, model, optimizer, x = silencing(share, rejection)
    for _ in range(3):
        stepped(method, model, optimizer, x)
    kept = method.kept["head.layers.0"]
    assert (kept["fired"][0], kept["asked"][0], kept["silent"][0]) == (24 * share, 24.0, 0.0)
    # geometric: P(A > a) = (1 - q)^a
    longest = math.log(rejection) / math.log(1.0 - share)
    quiet = torch.zeros(8, 6)
    before = model.head.layers[0].weight.detach().clone()
    steps = 0
    while torch.equal(model.head.layers[0].weight, before):
        stepped(method, model, optimizer, quiet)
        steps += 1
        assert steps < 100
    assert steps == math.ceil(longest / 8)
    assert method.renewed == 1
    assert torch.equal(model.head.layers[0].weight[1:], before[1:])
    assert not model.head.layers[1].weight[:, 0].any()
    assert [float(kept[name][0]) for name in method.figures] == [0.0] * 3


def test_a_unit_that_never_fired_is_judged_by_its_layer() -> None:
    method, model, optimizer, x = silencing(0.0, 0.01)
    stepped(method, model, optimizer, x)
    assert method.renewed == 1, "the others fire for every sample: one silent one is improbable"


def test_a_layer_in_which_nothing_ever_fired_has_no_past_to_go_by() -> None:
    method, model, optimizer, x = silencing(0.0, 0.5)
    with torch.no_grad():
        model.head.layers[0].bias.fill_(-1.0)
    for _ in range(5):
        stepped(method, model, optimizer, x)
    assert not method.kept["head.layers.0"]["fired"].any()
    rows = model.head.layers[0].weight.detach()
    assert rows[0, 0] == 1.0


def lane(method: Any, **more: Any) -> dict[str, Any]:
    return {
        "name": "test",
        "stream": {"kind": "split", "dataset": "digits"},
        "model": {"head": {"kind": "mlp", "hidden": [16]}},
        "training": {"steps": 4, "intervals": 2},
        "lanes": [{"method": method}],
        **more,
    }


ALWAYS = {"head": {"kind": "mlp", "hidden": [16], "activation": "crelu"}}
GELU = {
    "head": {
        "kind": "moe",
        "hidden": [16],
        "activation": "crelu",
        "layer": {"expert": {"kind": "bottleneck", "activation": "gelu"}},
    }
}


@pytest.mark.parametrize("model", [ALWAYS, GELU], ids=["crelu", "gelu"])
def test_units_that_are_never_silent_are_refused_when_planned(model: Any) -> None:
    with pytest.raises(ConfigError, match="ever exactly silent"):
        check(lane("self_normalized_resets", model=model), "test")


def test_models_without_units_are_refused_when_planned() -> None:
    none = {"head": {"kind": "expanding_mlp", "hidden": [16]}}
    for method in ("self_normalized_resets", "continual_backprop"):
        with pytest.raises(ConfigError, match="tells no units"):
            check(lane(method, model=none), "test")
        check(lane(method), "test")


def test_a_rejection_outside_of_probabilities_is_refused() -> None:
    with pytest.raises(AssertionError, match="rejection must be between 0 and 1"):
        build("self_normalized_resets", rejection=1.0)
