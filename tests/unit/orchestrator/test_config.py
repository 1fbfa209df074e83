"""The door: merging, defaults, expansion over seeds, digests."""

from __future__ import annotations

from dataclasses import fields

import pytest

from orchestrator.config.file import ConfigError, check, override, restore
from orchestrator.config.sections import merge
from tests.fakes import TINY, tiny
from workers.contract import InputError
from workers.models import MODELS
from workers.models.classifier import Classifier


def test_lane_section_is_laid_over_the_default() -> None:
    config = tiny(lanes=[{"method": "finetune", "training": {"batch": 7}}])
    assert config.lanes[0].sections["training"].batch == 7
    assert config.lanes[0].sections["training"].intervals == 2


def test_other_kind_replaces_the_default() -> None:
    assert merge({"kind": "a", "x": 1}, {"kind": "b", "y": 2}, None) == {"kind": "b", "y": 2}
    assert merge({"kind": "a", "x": 1}, {"x": 3}, None) == {"kind": "a", "x": 3}
    assert merge({"kind": "a", "x": 1}, "b", None) == {"kind": "b"}
    nested = {"head": {"kind": "moe", "hidden": [1]}}
    assert merge(nested, {"head": {"kind": "mlp"}}, "classifier") == {
        "kind": "classifier",
        "head": {"kind": "mlp"},
    }


def test_one_lane_per_seed_with_its_own_name() -> None:
    config = tiny(lanes=[{"method": "replay", "seeds": [3, 5]}])
    assert [lane.name for lane in config.lanes] == ["replay-s3", "replay-s5"]
    assert [lane.seed for lane in config.lanes] == [3, 5]


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "..", ".", "", " ", "a\nINFO all is well", "\x1b[2J", "x" * 101]
)
def test_names_stay_in_their_folder_and_line(name: str) -> None:
    """``name = "../x"`` planned, and wrote its run and checkpoints beside the folder of runs."""
    for changes, where in (
        ({"name": name}, "name"),
        ({"lanes": [{"method": "finetune", "name": name}]}, r"lanes\.0\.name"),
        ({"policies": {name: {"kind": "periodic"}}}, "policies"),
    ):
        with pytest.raises(ConfigError, match=rf"{where}.*: got .*printable characters without /"):
            tiny(**changes)
    for name in ("Ünïcode näme", "mnist topk2", "a.b", "..x"):
        assert tiny(name=name).name == name


def test_same_name_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="two lanes are called 'finetune-s0'"):
        tiny(lanes=[{"method": "finetune"}, {"method": "finetune"}])


def test_final_experts_fill_the_model_and_the_policy() -> None:
    config = tiny(
        policies={"growth": {"kind": "periodic", "add": 2}}, model={"experts": 2, **TINY["model"]}
    )
    assert config.lanes[0].sections["model"].max_experts == 10
    assert config.lanes[0].policies["growth"].max_experts == 10
    assert tiny().lanes[0].sections["model"].max_experts == 1


def test_growth_by_steps_needs_a_limit() -> None:
    with pytest.raises(ConfigError, match="growth by steps needs"):
        tiny(policies={"growth": {"kind": "periodic", "unit": "steps", "every": 10}})


def test_trainer_and_kinds_must_fit() -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(stream={"kind": "craftax"})
    paths = {problem.path for problem in caught.value.problems}
    assert paths >= {"lanes.0.training.kind", "lanes.0.model.kind"}


def test_digest_depends_on_values_not_on_spelling() -> None:
    assert tiny().digest == tiny(training={"epochs": 1.0, "intervals": 2}).digest
    assert tiny().digest != tiny(training={"epochs": 2, "intervals": 2}).digest


def test_restore_gives_the_same_config() -> None:
    config = tiny(policies={"growth": "periodic"}, lanes=[{"method": "replay", "seeds": [0, 1]}])
    assert restore(config.plain()) == config


def test_restore_refuses_what_another_version_wrote() -> None:
    plain = tiny().plain()
    plain["lanes"][0]["training"]["momentum_of_old"] = 1
    with pytest.raises(ConfigError, match="momentum_of_old"):
        restore(plain)


def test_no_lanes() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        check({"name": "x"}, "x")


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("a.b=3", {"a": {"b": 3}}),
        ("a.b=text", {"a": {"b": "text"}}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("l.0.m=true", {"l": [{"m": True}]}),
    ],
)
def test_override(item: str, expected: dict[str, object]) -> None:
    raw: dict[str, object] = {"l": [{}]} if item.startswith("l.") else {}
    override(raw, item)
    assert raw == expected


@pytest.mark.parametrize("item", ["novalue", "=3", "a.b.c=1"])
def test_override_that_makes_no_sense(item: str) -> None:
    with pytest.raises(InputError, match="--set"):
        override({"a": 3}, item)


def test_rescaling_growth_sets_widths_from_the_present_experts() -> None:
    growth = {"kind": "periodic", "reading": "rescale"}
    config = tiny(policies={"growth": growth})
    assert config.lanes[0].sections["model"].max_experts is None
    assert config.lanes[0].policies["growth"].max_experts == 5
    with pytest.raises(ConfigError, match=r"leave model\.max_experts out"):
        tiny(policies={"growth": growth}, model={**TINY["model"], "max_experts": 5})


def test_a_lane_takes_policies_out_and_lays_its_keys_over_them() -> None:
    file = {"growth": {"kind": "periodic", "add": 2, "every": 3}, "phases": "three_phases"}
    lanes = [
        {"name": "a", "policies": {"growth": {"every": 1}, "phases": "none"}},
        {"name": "b", "policies": {"growth": {"kind": "periodic"}, "masks": "none"}},
        {"name": "c", "policies": {"growth": "none"}},
    ]
    config = tiny(policies=file, lanes=lanes, training={"intervals": 5})
    found = [{name: vars_of(x) for name, x in lane.policies.items()} for lane in config.lanes]
    assert list(found[0]) == ["growth"]
    assert (found[0]["growth"]["add"], found[0]["growth"]["every"]) == (2, 1)
    assert list(found[1]) == ["growth", "phases"], "in order of appearance"
    assert list(found[2]) == ["phases"]
    assert restore(config.plain()) == config
    with pytest.raises(ConfigError, match=r"policies: got 3; must be tables"):
        tiny(policies=3)
    with pytest.raises(ConfigError, match=r"policies\.x\.kind: unknown name 'fastest'"):
        tiny(policies={"x": "fastest"})


def vars_of(config: object) -> dict[str, object]:
    return {item.name: getattr(config, item.name) for item in fields(config)}  # type: ignore[arg-type]


def test_a_model_of_the_table_is_known_by_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of one's own in the table used to be refused: only 'classifier' would do."""

    class Mine(Classifier):
        """A classifier of one's own."""

    monkeypatch.setitem(MODELS, "mine", Mine)
    model = {**TINY["model"], "kind": "mine"}
    assert tiny(model=model).lanes[0].sections["model"].kind == "mine"
    monkeypatch.setattr(Mine, "capabilities", frozenset({"tokens"}))
    with pytest.raises(ConfigError, match="needs one for labels"):
        tiny(model=model)


@pytest.mark.parametrize(
    ("initialiser", "message"),
    [
        ("magic", "unknown name 'magic'; allowed: clone_noise"),
        ({"kind": "clone_noise", "scales": 2}, "initialiser.scales: unknown key"),
        ({"kind": "logit_offset", "offset": -1.0}, "offset must not be negative"),
    ],
)
def test_initialisers_are_checked_at_the_door(initialiser: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(policies={"growth": {"kind": "periodic", "initialiser": initialiser}})
