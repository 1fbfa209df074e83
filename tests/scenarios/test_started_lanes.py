"""Lanes that begin with the model of another run: bits at the start, what is refused, resume."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.config.file import ConfigError, check, restore
from orchestrator.config.plan import as_json, plan
from orchestrator.core.events import CheckpointSaved, RunStarted, StageStarted
from tests.doors.lane import Outcome, run_killed, run_lane, run_lanes
from tests.journals import replace_in
from tests.tokens import text_lane, write_texts
from workers import checkpoint
from workers.contract import CheckpointRef, InputError, Json
from workers.moe.routed import routed_layers
from workers.streams import places
from workers.supervised.trainer import SupervisedTrainer

PHASES: Json = {
    "phases": {"kind": "three_phases", "stabilise_until": 0.5},
    "masks": {"kind": "fixed_masks", "experts": {"base": [0], "turned": [0, 1]}},
}


def raw(growth: Json | str | None = None, **changes: Any) -> Json:
    """A short lane of two tasks whose experts go from two to at most five."""
    return {
        "stream": {
            "kind": "domains",
            "order": "sequential",
            "train_samples": 96,
            "test_samples": 40,
            "domains": [{"name": "turned", "rotate": 90.0}],
        },
        "model": {
            "experts": 2,
            "max_experts": 5,
            "head": {"kind": "moe", "hidden": [64], "layer": {"kind": "moe", "selector": "topk"}},
        },
        "training": {"steps": 6, "intervals": 3, "batch": 16},
        "policies": {"growth": growth or {"kind": "periodic", "max_experts": 5}},
        "lanes": [{"name": "base"}],
        **changes,
    }


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A run of the lane base-s0, which grew to three experts."""
    folder = tmp_path_factory.mktemp("donor")
    return folder, run_lane(folder, raw())


def saved(found: Outcome, index: int) -> CheckpointRef:
    """The lane's final checkpoint of a stage; -1 = of the model that it began with."""
    (event,) = [
        record.event
        for record in found.records
        if isinstance(record.event, CheckpointSaved)
        and record.event.final
        and record.event.index == index
    ]
    return event.checkpoint


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    same = one.keys() == other.keys()
    return same and all(torch.equal(one[name], other[name]) for name in one)


Form = Callable[[Path, CheckpointRef], Any]
FORMS: dict[str, Form] = {
    "a stage of a run": lambda run, ref: {"run": str(run), "lane": "base-s0", "stage": 1},
    "a run's last stage": lambda run, ref: {"run": str(run), "lane": "base-s{seed}"},
    "a folder": lambda run, ref: ref.uri,
    "a folder, as a table": lambda run, ref: {"checkpoint": ref.uri},
}


@pytest.mark.parametrize("form", FORMS)
def test_it_begins_with_the_weights_bit_for_bit_and_its_shape(
    tmp_path: Path, donor: tuple[Path, Outcome], form: str
) -> None:
    run, known = donor
    start = FORMS[form](run, saved(known, 1))
    found = run_lane(tmp_path, raw(start=start))
    first, last = checkpoint.read(saved(found, -1)), checkpoint.read(saved(known, 1))
    assert equal(first.tensors["model"], last.tensors["model"])
    assert first.state["arch"] == last.state["arch"]
    assert first.state["revision"] == 0, "edits are numbered anew"
    assert not first.tensors["optimizer"]
    assert found.lane["initial"] == known.lane["matrix"][1]
    stages = found.lane["stages"]
    assert stages[0]["parent"] == known.lane["stages"][1]["id"]
    assert [edit["experts"] for stage in stages for edit in stage["edits"]] == [4]


def test_the_optimizer_goes_on_where_it_is_asked_to(
    tmp_path: Path, donor: tuple[Path, Outcome]
) -> None:
    run, known = donor
    start = {"run": str(run), "lane": "base-s0", "stage": 0}
    last = checkpoint.read(saved(known, 0))
    outcomes = [
        run_lane(tmp_path / str(taken), raw(start={**start, "optimizer": taken}))
        for taken in (True, False)
    ]
    first = [checkpoint.read(saved(found, -1)).tensors["optimizer"] for found in outcomes]
    assert last.tensors["optimizer"]
    assert equal(first[0], last.tensors["optimizer"])
    assert not first[1]
    assert outcomes[0].digests != outcomes[1].digests
    ids = [found.lane["stages"][0]["id"] for found in outcomes]
    assert ids[0] != ids[1], "a stage's id depends on what it began with"


def test_the_optimizer_with_master_weights_goes_on_too(tmp_path: Path) -> None:
    training = {"steps": 6, "intervals": 3, "batch": 16, "precision": "bfloat16"}
    known = run_lane(tmp_path / "donor", raw(training=training))
    start = {"run": str(tmp_path / "donor"), "lane": "base-s0", "stage": 0, "optimizer": True}
    found = run_lane(tmp_path / "run", raw(training=training, start=start))
    first = checkpoint.read(saved(found, -1)).tensors["optimizer"]
    assert any(name.endswith("/master") for name in first)
    assert equal(first, checkpoint.read(saved(known, 0)).tensors["optimizer"])


def test_an_optimizer_that_begins_anew_cannot_be_taken(donor: tuple[Path, Outcome]) -> None:
    training = {"steps": 6, "intervals": 3, "fresh_optimizer": True}
    start = {"run": str(donor[0]), "lane": "base-s0", "optimizer": True}
    with pytest.raises(InputError, match=r"start\.optimizer: .*fresh_optimizer"):
        check({"name": "x", **raw(training=training, start=start)}, "x")


def test_another_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stream trains its own on its first text, of which the model knows nothing."""
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path / "data"))
    texts = write_texts(tmp_path / "texts")
    base = text_lane(texts, stream={"domains": ["cooking"]}, policies={})
    run_lane(tmp_path / "donor", base)
    start = {"run": str(tmp_path / "donor"), "lane": "finetune-s0"}
    with pytest.raises(InputError, match="another tokenizer"):
        check(
            {"name": "x", "start": start, **text_lane(texts, stream={"domains": ["sailing"]})}, "x"
        )
    same = text_lane(texts, stream={"domains": ["cooking", "sailing"]})
    assert check({"name": "x", "start": start, **same}, "x").lanes[0].start is not None


def test_kills_change_nothing(tmp_path: Path, donor: tuple[Path, Outcome]) -> None:
    run, _ = donor
    file = raw(start={"run": str(run), "lane": "base-s0", "stage": 0})
    whole = run_lane(tmp_path / "whole", file)
    killed = run_killed(tmp_path / "killed", file)
    assert killed.essence == whole.essence
    assert killed.lane["initial"] == whole.lane["initial"]


def test_masks_and_phases_of_the_other_run_are_not_taken(tmp_path: Path) -> None:
    file = raw("none", policies=PHASES)
    known = run_lane(tmp_path / "donor", file)
    layer = checkpoint.read(saved(known, 1)).state["arch"]["head.layers.0"]
    assert {"mask", "phase"} <= layer.keys()
    start = saved(known, 1).uri
    config = check({"name": "x", **raw("none", start=start, policies={})}, "x")
    trainer = SupervisedTrainer()
    trainer.open(config.lanes[0].spec(), None)
    (routed,) = routed_layers(trainer.model).values()
    assert routed.mask is None
    assert routed.phase is None
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_lanes_with_one_start_share_stages_and_each_may_have_its_own(
    tmp_path: Path, donor: tuple[Path, Outcome]
) -> None:
    run, known = donor
    start = {"run": str(run), "lane": "base-s0", "stage": 0}
    lanes = [
        {"name": "a"},
        {"name": "b", "method": "replay"},
        {"name": "untrained", "start": "none"},
        {"name": "grown", "start": {**start, "stage": 1}},
    ]
    found = run_lanes(tmp_path, raw(start=start, lanes=lanes))
    first = {name: lane.lane["stages"][0] for name, lane in found.items()}
    assert {name: stage["trained_by"] for name, stage in first.items()} == {
        "a-s0": None,
        "b-s0": "a-s0",
        "untrained-s0": None,
        "grown-s0": None,
    }
    assert first["untrained-s0"]["id"] == known.lane["stages"][0]["id"]
    assert found["b-s0"].lane["initial"] == found["a-s0"].lane["initial"]


def test_the_journal_and_the_plan_tell_the_start(
    tmp_path: Path, donor: tuple[Path, Outcome]
) -> None:
    run, known = donor
    ref = saved(known, 1)
    file = raw(start={"run": str(run), "lane": "base-s0"})
    found = run_lane(tmp_path, file)
    begun = found.records[0].event
    assert isinstance(begun, RunStarted)
    assert begun.plan.lanes[0].spec.start is not None
    assert begun.plan.lanes[0].spec.start.checkpoint == ref
    assert begun.plan.lanes[0].experts == 3
    config = restore(begun.config)
    assert config.digest == begun.config_digest
    assert found.lane["start"] == ref.uri
    told = as_json(config, plan(config))["lanes"][0]
    assert told["start"] == ref.uri
    assert told["stages"][0]["waits_for"] == f"model {ref.digest[:16]}"
    assert told["stages"][0]["parent"] == ref.stage
    assert [stage["experts"] for stage in told["stages"]] == [3, 4]
    started = [r.event.stage.id for r in found.records if isinstance(r.event, StageStarted)]
    assert started == [stage["id"] for stage in told["stages"]]


def damaged(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3] + b"abc")


REFUSED: dict[str, tuple[Any, Json, str]] = {
    "no folder": ("{tmp}/nothing", {}, "no state.json there"),
    "no run": ({"run": "{tmp}/nothing", "lane": "base-s0"}, {}, "no journal there"),
    "no lane": ({"run": "{run}", "lane": "other-s0"}, {}, "no lane 'other-s0'; allowed: base-s0"),
    "no stage": (
        {"run": "{run}", "lane": "base-s0", "stage": 7},
        {},
        "stage 7 is not complete; complete stages: 0, 1",
    ),
    "half a name": ({"run": "{run}"}, {}, "give either checkpoint, or run and lane"),
    "two names": (
        {"run": "{run}", "lane": "base-s0", "checkpoint": "x"},
        {},
        "give either checkpoint, or run and lane",
    ),
    "unknown key": ({"path": "x"}, {}, "unknown key"),
    "widths": (
        "{ref}",
        {"model": {**raw()["model"], "head": {"kind": "moe", "hidden": [32]}}},
        "a checkpoint of another architecture: head.layers.0.",
    ),
    "layers": (
        "{ref}",
        {"model": {"experts": 2, "max_experts": 5, "head": {"kind": "moe", "hidden": [64, 64]}}},
        "a checkpoint of another architecture: the saved architecture has the growable layers",
    ),
    "head": (
        "{ref}",
        {"model": {"head": "mlp"}, "policies": {}},
        "a checkpoint of another architecture",
    ),
    "inputs": (
        "{ref}",
        {"stream": {"kind": "domains", "size": 10}, "policies": {}},
        "a checkpoint of another architecture",
    ),
    "optimizer": (
        {"checkpoint": "{ref}", "optimizer": True},
        {"training": {"steps": 6, "intervals": 3, "optimizer": {"kind": "sgd", "lr": 0.1}}},
        "saved optimizer state does not fit",
    ),
    "other trainer": (
        "{ref}",
        {
            "stream": {"kind": "tests.unit.workers.rl.toy:ToyStream"},
            "training": {"kind": "ppo", "num_envs": 8, "rollout": 16, "steps_per_stage": 256},
            "model": "actor_critic",
            "policies": {},
        },
        "lanes of trainer rl begin with an untrained model",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_begun_with_is_one_clear_error(
    tmp_path: Path, donor: tuple[Path, Outcome], case: str
) -> None:
    run, known = donor
    start, changes, message = REFUSED[case]
    names = {"tmp": tmp_path, "run": run, "ref": saved(known, 1).uri}

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        return value.format(**names) if isinstance(value, str) else value

    with pytest.raises(ConfigError) as caught:
        check({"name": "x", **raw(start=filled(start)), **changes}, "x")
    (problem,) = caught.value.problems
    assert problem.path.startswith("start")
    assert message in str(problem)
    assert problem.allowed


def test_a_damaged_checkpoint_is_refused_before_and_while_it_is_used(
    tmp_path: Path, donor: tuple[Path, Outcome]
) -> None:
    run, _ = donor
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    replace_in(copy / "journal.jsonl", str(run), str(copy))
    file = raw(start={"run": str(copy), "lane": "base-s0", "stage": 0})
    config = check({"name": "x", **file}, "x")
    start = config.lanes[0].start
    assert start is not None
    damaged(Path(start.checkpoint.uri))
    with pytest.raises(ConfigError, match=r"start: .* contents hash to .* damaged or foreign"):
        check({"name": "x", **file}, "x")
    with pytest.raises(checkpoint.InputError, match="contents hash to"):
        SupervisedTrainer().open(config.lanes[0].spec(), None)
