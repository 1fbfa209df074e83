"""Percentile routing by batch: mean number of experts, the running threshold, steps in parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.workers.supervised.loop import opened
from workers.moe.routed import routed_layers
from workers.moe.selectors import PercentileBatch


def _logits(tokens: int, experts: int, seed: int = 0) -> Tensor:
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))


def _selector(**settings: float) -> PercentileBatch:
    return PercentileBatch(PercentileBatch.Config(**settings))


@pytest.mark.parametrize(("experts", "mean"), [(8, 2.4), (6, 1.8), (3, 0.9)])
def test_mean_before_every_token_gets_its_best(experts: int, mean: float) -> None:
    logits_TE = _logits(4000, experts)
    selection = _selector(noise=0.0).select(logits_TE, None, True)
    least = logits_TE.quantile(0.7)
    above_TE = logits_TE >= least
    assert float(above_TE.sum(1).double().mean()) == pytest.approx(mean, abs=1e-3)
    best_TE = logits_TE == logits_TE.amax(1, keepdim=True)
    assert torch.equal(selection.chosen_TE, above_TE | best_TE)
    k_T = selection.chosen_TE.sum(1)
    assert int(k_T.min()) == 1 < int(k_T.max())
    assert float(k_T.double().mean()) == pytest.approx(_selector().active(experts), abs=0.05)
    scaled_TE = (logits_TE / 0.5).masked_fill(~selection.chosen_TE, float("-inf"))
    torch.testing.assert_close(selection.weights_TE, torch.softmax(scaled_TE, 1))


def test_the_running_threshold_moves_once_a_step() -> None:
    """Two parts a step: the mean of their percentiles, bias-corrected, known to evaluation."""
    selector = _selector(decay=0.9, noise=0.0)
    running, mass = 0.0, 0.0
    for step in range(4):
        parts = [_logits(30, 5, seed=10 * step + part) + step for part in range(2)]
        selector.step_begins()
        for logits_TE in parts:
            selector.select(logits_TE, None, True)
        own = sum(float(part.quantile(0.7)) for part in parts) / 2
        running, mass = 0.9 * running + 0.1 * own, 0.9 * mass + 0.1
        logits_TE = _logits(200, 5, seed=99)
        above_TE = logits_TE >= running / mass
        best_TE = logits_TE == logits_TE.amax(1, keepdim=True)
        before = {name: value.clone() for name, value in selector.state_dict().items()}
        found = selector.select(logits_TE, None, False)
        assert torch.equal(found.chosen_TE, above_TE | best_TE)
        assert all(
            torch.equal(value, before[name]) for name, value in selector.state_dict().items()
        )


def test_in_evaluation_no_token_sees_another() -> None:
    selector = _selector()
    selector.step_begins()
    selector.select(_logits(50, 6), None, True)
    logits_TE = _logits(40, 6, seed=1)
    whole_TE = selector.select(logits_TE, None, False).chosen_TE
    alone_TE = [selector.select(row_1E, None, False).chosen_TE for row_1E in logits_TE.split(1)]
    assert torch.equal(whole_TE, torch.cat(alone_TE))


def test_the_percentile_is_of_allowed_experts() -> None:
    logits_TE = torch.tensor([[100.0, 1.0, 2.0], [3.0, 4.0, 200.0]])
    allowed_TE = torch.tensor([[False, True, True], [True, True, False]])
    selector = _selector(level=0.5, noise=0.0)
    found_TE = selector.select(logits_TE, allowed_TE, True).chosen_TE
    assert found_TE.tolist() == [[False, False, True], [True, True, False]]
    assert float(selector.step_sum) == 2.5


SETTINGS: dict[str, Any] = {
    "model": {
        "experts": 3,
        "max_experts": 6,
        "head": {"kind": "moe", "hidden": [24], "layer": {"selector": "percentile_batch"}},
    },
    "training": {"steps": 4, "intervals": 1, "batch": 24},
}


def _training(**more: Any) -> dict[str, Any]:
    return {**SETTINGS, "training": {**SETTINGS["training"], **more}}


def test_parts_of_a_step_move_it_once() -> None:
    trainer = opened(**_training(accumulate=3))
    trainer.run_interval(1, 0)
    (layer,) = routed_layers(trainer.model).values()
    assert float(layer.selector.step_parts) == 3.0
    assert float(layer.selector.mass) == pytest.approx(1 - 0.99**3), "three steps of four"


@pytest.mark.parametrize("wrong", [{"level": -0.1}, {"decay": 1.0}, {"temperature": 0.0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        PercentileBatch.Config(**wrong)
