"""Every space fits its base file; a trial's settings reach the config and come back as TOML."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import file as configuration
from orchestrator.config.plan import plan
from orchestrator.config.toml import to_toml
from tests.commands import ROOT
from tests.streams import OPTIONS, split_digits
from tune_spaces import SPACES
from tune_spaces.search import Plan, load, save
from tune_spaces.space import Choice, Domain, Integer
from tune_spaces.stream_file import single_lane, trial_config, with_settings
from tune_spaces.sweep import make_plan
from workers.contract import InputError
from workers.models import MODELS
from workers.moe.growth.growable import shape as shape_of
from workers.tables import construct, first_line


def ends(domain: Domain) -> list[Any]:
    if isinstance(domain, Choice):
        return list(domain.values)
    return [domain.low, domain.high]


GROWTH = "policies.growth"


def made(name: str) -> Plan:
    return make_plan(name, None, None, **OPTIONS)


@pytest.mark.parametrize("name", SPACES)
def test_every_corner_of_a_space_is_a_config_that_plans(name: str) -> None:
    space = made(name)
    keys, domains = zip(*space.parameters().items(), strict=True)
    shapes = set()
    for values in itertools.islice(itertools.product(*map(ends, domains)), 0, None, 3):
        settings = dict(zip(keys, values, strict=True))
        config = trial_config(space.raw, settings)
        assert len(config.lanes) == 1
        assert plan(config)[0].stages
        again = tomllib.loads(to_toml(with_settings(space.raw, settings)))
        assert configuration.check(again, "best.toml").digest == config.digest
        shapes.add(config.digest)
    assert len(shapes) > 1
    assert first_line(SPACES[name])


def test_growth_trials_build_the_same_model_and_differ_only_from_the_first_growth_on() -> None:
    space = made("growth")
    every = [
        trial_config(
            space.raw, {f"{GROWTH}.add": add, f"{GROWTH}.every": 2, f"{GROWTH}.optimizer": kind}
        )
        for add in (1, 2)
        for kind in ("keep", "reset")
    ]
    assert len({config.lanes[0].spec().built_from for config in every}) == 1
    assert len({config.digest for config in every}) == 4


def test_the_base_itself_is_the_first_trial(tmp_path: Path) -> None:
    """Where the space allows what it says; keys that the file leaves out have their defaults."""
    base = tmp_path / "base.toml"
    base.write_text(f"{split_digits('base')}[policies.growth]\nkind = 'periodic'\nevery = 3\n")
    space = make_plan("growth", base, None, **OPTIONS)
    settings = space.base()
    assert settings is not None
    assert (settings[f"{GROWTH}.every"], settings[f"{GROWTH}.add"]) == (3, 1)
    assert trial_config(space.raw, settings).digest == trial_config(space.raw, {}).digest
    base.write_text(f"{split_digits('base')}[policies.growth]\nkind = 'periodic'\nadd = 5\n")
    assert make_plan("growth", base, None, **OPTIONS).base() is None


def test_no_trial_is_stopped_before_it_grew(capsys: pytest.CaptureFixture[str]) -> None:
    """Growth every third stage: stage 4 is the first that a grown model learns."""
    assert made("growth").growth_takes() == 4
    assert "some trials grow in stage 4 only" in capsys.readouterr().err
    chosen = make_plan("growth", None, None, **OPTIONS | {"grace": None})
    assert chosen.grace == 4
    assert capsys.readouterr().err == ""
    assert make_plan("masks", None, None, **OPTIONS | {"grace": None}).grace == 2
    make_plan("growth", None, None, **OPTIONS | {"scheduler": "none"})
    assert capsys.readouterr().err == ""


def test_a_lane_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    path = ROOT / "configs" / "digits_growth.toml"
    with pytest.raises(InputError, match="--lane"):
        single_lane(path, None, "growth")
    with pytest.raises(InputError, match="finetune, replay"):
        single_lane(path, "joint", "growth")
    raw = single_lane(path, "replay", "growth")
    assert raw["method"] == {"kind": "replay", "buffer": 200}
    assert raw["lanes"] == [{"name": "replay"}]


def test_a_section_of_another_kind_starts_afresh() -> None:
    raw = {"policies": {"growth": "periodic"}, "method": {"kind": "replay", "buffer": 5}}
    laid = with_settings(raw, {"method.kind": "finetune", f"{GROWTH}.add": 2})
    growth = {"kind": "periodic", "add": 2}
    assert laid == {"policies": {"growth": growth}, "method": {"kind": "finetune"}}
    assert raw["method"]["buffer"] == 5
    named = with_settings({"model": {"head": "moe"}}, {"model.head.top_k": 1})
    assert named == {"model": {"head": {"kind": "moe", "top_k": 1}}}


def test_wrong_space_base_and_settings_are_told() -> None:
    with pytest.raises(InputError, match=r"unknown name 'river'.*growth"):
        made("river")
    with pytest.raises(InputError, match="cannot be read"):
        make_plan("growth", Path("/nowhere.toml"), None, **OPTIONS)
    with pytest.raises(InputError, match=r"growth\.add"):
        trial_config(made("growth").raw, {f"{GROWTH}.add": 0})


def test_a_plan_is_kept_once_and_read_back(tmp_path: Path) -> None:
    kept = made("growth")
    save(kept, tmp_path / "sweep")
    assert load(tmp_path / "sweep") == kept
    with pytest.raises(InputError, match="--resume"):
        save(kept, tmp_path / "sweep")
    with pytest.raises(InputError, match="folder of a sweep"):
        load(tmp_path)


def test_integers_include_both_ends() -> None:
    from tune_spaces.search import _mutation

    assert _mutation(Integer(1, 3)) == [1, 2, 3]


def test_keys_that_toml_takes_in_quotes_alone_come_back() -> None:
    raw = {"näme": 1, "resources": {"custom": {"größe": 1.0, "a b": 2.0, "tpu-v4": 3.0}, "é": 0}}
    text = to_toml(raw)
    assert tomllib.loads(text) == raw
    assert "tpu-v4 = " in text


def test_the_form_of_a_schedule_moves_capacity_over_depth() -> None:
    """Where every layer costs its own dense layer, DynaMoE's claim is not tested."""
    space, share = made("schedule"), {}
    for form in ("constant", "ascending", "descending", "pyramid_up", "pyramid_down"):
        settings = {"model.experts": 8, "model.head.schedule": form}
        (lane,) = trial_config(space.raw, settings).lanes
        stream = lane.stream()
        model = construct(MODELS, lane.sections["model"], stream.input_shape, stream.outputs, 0)
        sizes = [layer.parameters for layer in shape_of(model).layers.values()]
        share[form] = [size / sum(sizes) for size in sizes]
    first, last = share["ascending"], share["descending"]
    middle, outer = share["pyramid_up"], share["pyramid_down"]
    assert first[0] < share["constant"][0] < last[0]
    assert last[-1] < share["constant"][-1] < first[-1]
    assert outer[1] < share["constant"][1] < middle[1]
