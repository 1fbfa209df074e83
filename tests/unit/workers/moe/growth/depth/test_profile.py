"""Experts over depth as given or measured."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from workers.contract import InputError
from workers.moe.growth.depth.profile import Profile
from workers.moe.growth.schedules import SCHEDULES, places
from workers.parsing import checked


def counts(number: int, layers: int = 4, **settings: Any) -> list[int]:
    schedule = Profile(Profile.Config(**settings))
    return [place.count(number) for place in places(schedule, [(8, 8)] * layers)]


def test_experts_follow_the_weights_between_least_and_largest() -> None:
    weights = (0.4, 1.0, 0.1, 0.7)
    wanted = [round(1 + 7 * (d - 0.1) / 0.9) for d in weights]
    assert counts(8, weights=weights) == wanted == [3, 8, 1, 6]
    assert counts(8, weights=weights, minimum=2) == [4, 8, 2, 6]
    assert counts(5, weights=(2.0,) * 4) == [5] * 4


def test_numbers_are_as_given_at_the_largest_of_them_and_scaled_elsewhere() -> None:
    assert counts(8, experts=(8, 4, 2, 1)) == [8, 4, 2, 1]
    assert counts(16, experts=(8, 4, 2, 1)) == [16, 8, 4, 2]
    assert counts(1, experts=(8, 4, 2, 1)) == [1, 1, 1, 1]


@pytest.mark.parametrize("settings", [{"weights": (3, 1, 2, 5)}, {"experts": (3, 1, 2, 5)}])
def test_growth_never_loses_an_expert(settings: Any) -> None:
    grown = [counts(experts, **settings) for experts in range(1, 30)]
    for of_layer in zip(*grown, strict=True):
        assert list(of_layer) == sorted(of_layer)


def test_other_numbers_of_layers_are_refused() -> None:
    with pytest.raises(InputError, match="4 layers were given and the model has 3"):
        counts(8, layers=3, weights=(1, 2, 3, 4))
    with pytest.raises(InputError, match="0 layers were given"):
        counts(8)
    with pytest.raises(ValueError, match="not both"):
        Profile.Config(weights=(1.0,), experts=(1,))


def report(*lanes: dict[str, dict[str, float]]) -> dict[str, Any]:
    stage = {"model_figures": {}, "figures": {}}
    return {"lanes": [{"stages": [stage, {**stage, "figures": figures}]} for figures in lanes]}


def test_measured_weights_are_in_the_config_and_need_the_file_no_more(tmp_path: Path) -> None:
    one = {"digits": {"sp/head.layers.10": 1.0, "sp/head.layers.2": 4.0, "loss": 3.0}}
    other = {"digits": {"sp/head.layers.10": 3.0, "sp/head.layers.2": 6.0, "sp/a/b": 9.0}}
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report(one, other)))
    config = Profile.Config(measured=str(file), diagnostic="sp")
    assert config.weights == (5.0, 2.0), "layer 2 comes before layer 10"
    assert counts(8, layers=2, measured=str(file), diagnostic="sp") == [8, 1]
    file.unlink()
    assert checked(SCHEDULES, json.loads(json.dumps(asdict(config))))[1] == config


def test_a_file_that_tells_nothing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    with pytest.raises(ValueError, match="is no report"):
        Profile.Config(measured=str(file))
    file.write_text(json.dumps(report({"digits": {"loss": 1.0}})))
    with pytest.raises(ValueError, match="has no figures of diagnostic 'sp'"):
        Profile.Config(measured=str(file), diagnostic="sp")
