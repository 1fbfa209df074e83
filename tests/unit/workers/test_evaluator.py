"""What an evaluation of a supervised lane tells beside its scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from orchestrator.config.file import RunConfig, check
from tests.fakes import tiny
from tests.tokens import TinyTokens, text_lane, write_texts
from workers.contract import CheckpointRef, EvaluationReport
from workers.diagnostics import DIAGNOSTICS, Diagnostic, Figures, Probe
from workers.diagnostics.observing import DRIFT_SAMPLES, PROBE_SAMPLES
from workers.streams import places
from workers.supervised.evaluator import SupervisedEvaluator
from workers.supervised.objectives import LanguageModelling
from workers.supervised.trainer import SupervisedTrainer

ROUTED = {
    "model": {
        "experts": 3,
        "head": {
            "kind": "moe",
            "hidden": [16, 16],
            "layer": {"selector": "topk"},
        },
    }
}
SWITCH = {"kind": "topk", "k": 1, "weights": "full"}
SEQUENTIAL = {
    "stream": {
        "kind": "domains",
        "base": [],
        "domains": [{"name": "upright"}, {"name": "dark", "invert": True}],
        "order": "sequential",
        "train_samples": 40,
        "test_samples": 100,
    },
}


def untrained(config: RunConfig, folder: Path) -> CheckpointRef:
    trainer = SupervisedTrainer()
    trainer.open(config.lanes[0].spec(), None)
    return trainer.save(str(folder / "untrained"), 1)


def evaluated(config: RunConfig, folder: Path) -> EvaluationReport:
    lane = config.lanes[0]
    return SupervisedEvaluator().evaluate(lane.spec(), untrained(config, folder), lane.tasks())


def names(figures: Figures) -> set[str]:
    return {name.split("/")[0] for name in figures}


def test_a_stream_of_single_domain_tasks_is_measured_as_well(tmp_path: Path) -> None:
    config = tiny(**ROUTED)
    report = evaluated(config, tmp_path)
    cheap = {scope: set() for scope in ("task", "layer", "model")}
    for name, cls in DIAGNOSTICS.items():
        if cls.cheap:
            cheap[cls.scope].add(name)
    assert list(report.figures) == [task.name for task in config.lanes[0].tasks()]
    for figures in report.figures.values():
        assert cheap["task"] | cheap["layer"] <= names(figures)
    several = {"specialisation", "domain_overlap", "expert_degradation", "expert_underfitting"}
    assert names(report.model_figures) == cheap["model"] - several, "one domain only"
    assert report.model_figures["weight_distance/all"] == 0.0, "untrained"
    gates = report.gate_weights["classes 0,1"]["head.layers.0"]
    assert sum(gates) == pytest.approx(1.0)


def test_domains_trained_one_after_another_show_how_specialised_experts_are(
    tmp_path: Path,
) -> None:
    head = {**ROUTED["model"]["head"], "layer": {"selector": SWITCH}}
    model = {**ROUTED["model"], "head": head}
    report = evaluated(tiny(**SEQUENTIAL, model=model), tmp_path)
    told = [report.model_figures[f"specialisation/head.layers.{n}"] for n in (0, 1)]
    assert all(0.01 < value <= 1 for value in told), told


def test_drift_is_told_on_samples_of_every_domain(tmp_path: Path) -> None:
    """The samples of a joint task come domain by domain."""
    stream = {**SEQUENTIAL["stream"], "order": "joint"}
    config = tiny(**ROUTED, stream=stream)
    lane = config.lanes[0]
    evaluator = SupervisedEvaluator()
    ref = untrained(config, tmp_path)
    (probe,) = evaluator.evaluate(lane.spec(), ref, lane.tasks()).probes.values()
    assert [len(rows) for rows in probe.values()] == [DRIFT_SAMPLES, DRIFT_SAMPLES]
    (known,) = evaluator.lanes.values()
    ((_, drawn, _),) = known.draws.values()
    test = known.stream.held_out(lane.tasks()[0])["test"]
    assert test.domain[drawn].bincount().tolist() == [DRIFT_SAMPLES // 2] * 2
    labels = test.y[drawn]
    assert len(labels.unique()) == 10
    again = SupervisedEvaluator().evaluate(lane.spec(), ref, lane.tasks())
    assert again.probes["joint"] == probe, "the same samples over the whole lane"


def test_figures_are_taken_on_samples_of_every_domain_and_class(tmp_path: Path) -> None:
    """A test part larger than a probe, its samples domain by domain."""
    stream = {**SEQUENTIAL["stream"], "order": "joint", "test_samples": 250}
    config = tiny(**ROUTED, stream=stream)
    lane, evaluator = config.lanes[0], SupervisedEvaluator()
    evaluator.evaluate(lane.spec(), untrained(config, tmp_path), lane.tasks())
    (known,) = evaluator.lanes.values()
    ((drawn, _, _),) = known.draws.values()
    test = known.stream.held_out(lane.tasks()[0])["test"]
    assert len(test) > len(drawn) == PROBE_SAMPLES
    assert test.domain[drawn].bincount().tolist() == [PROBE_SAMPLES // 2] * 2
    assert min(test.y[drawn].bincount(minlength=10).tolist()) > 0.08 * PROBE_SAMPLES


def test_a_large_test_part_is_measured_on_a_probe_and_scored_as_a_whole(tmp_path: Path) -> None:
    stream = {"kind": "permuted", "dataset": "digits", "tasks": 2}
    wide = {**ROUTED, "stream": stream}
    whole = evaluated(tiny(**wide), tmp_path / "a")
    parts = evaluated(tiny(**wide, training={"eval_batch": 50}), tmp_path / "b")
    assert parts.scores == whole.scores
    for name, figures in whole.figures.items():
        assert parts.figures[name] == pytest.approx(figures, rel=1e-4)


def test_gradients_are_taken_where_a_diagnostic_asks_for_them(tmp_path: Path) -> None:
    report = evaluated(tiny(**ROUTED, training={"diagnostics": ["gradient_norms"]}), tmp_path)
    found = report.model_figures
    assert set(found) == {f"gradient_norms/{part}" for part in ("min", "mean", "max", "zero_ratio")}
    assert 0 <= found["gradient_norms/min"] <= found["gradient_norms/mean"]
    assert found["gradient_norms/mean"] <= found["gradient_norms/max"]


class Parity(Diagnostic):
    """Share of a task's probe whose answer is an even class."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """Settings."""

        kind: str = "parity"
        scale: float = 1.0

    unit: ClassVar[str] = "share, 0..1"
    source: ClassVar[str] = "this test"
    scope = "task"

    def figures(self, probe: Probe) -> Figures:
        even = (probe.outputs.argmax(-1) % 2 == 0).double().mean()
        return {"": self.config.scale * float(even)}


def test_a_diagnostic_from_outside_is_reported_by_its_name(tmp_path: Path) -> None:
    own = f"{__name__}:Parity"
    entries: list[Any] = [own, {"kind": own, "scale": 2.0, "name": "twice"}]
    report = evaluated(tiny(training={"diagnostics": entries}), tmp_path)
    for figures in report.figures.values():
        assert figures["twice"] == 2 * figures["Parity"]
        assert set(figures) == {"loss", "Parity", "twice"}


def test_an_unknown_diagnostic_is_refused_with_its_place() -> None:
    raw = {"name": "x", "stream": {"kind": "split"}, "training": {"diagnostics": ["dormancy"]}}
    with pytest.raises(Exception, match=r"training.*diagnostics\.0.*unknown name 'dormancy'"):
        check({**raw, "lanes": [{"method": "finetune"}]}, "x")


def test_measuring_changes_nothing(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first = evaluated(tiny(**ROUTED, training={"diagnostics": ["all"]}), tmp_path / "a")
    torch.set_rng_state(before)
    second = evaluated(tiny(**ROUTED, training={"diagnostics": []}), tmp_path / "b")
    assert first.scores == second.scores
    assert first.probes == second.probes
    assert second.model_figures == {}


class Inputs(Diagnostic):
    """Sum of a task's probe inputs, as the model gets them."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """Settings."""

        kind: str = "inputs"

    unit: ClassVar[str] = "sum"
    source: ClassVar[str] = "this test"
    scope = "model"

    def figures(self, probe: Probe) -> Figures:
        assert isinstance(probe.inputs, torch.Tensor)
        assert probe.inputs.dtype == torch.float32
        return {"": float(probe.inputs.sum())}


def test_probes_of_samples_on_disk_are_what_the_model_gets(tmp_path: Path) -> None:
    """Small parts, which fit into a probe whole, used to be handed on as they lie on disk."""
    x, y = np.arange(40 * 5).reshape(40, 5).astype(np.uint8), np.arange(40) % 2
    for task in ("a", "b"):
        (tmp_path / "data" / task).mkdir(parents=True)
        for part in ("train", "test"):
            np.save(tmp_path / "data" / task / f"{part}_x.npy", x)
            np.save(tmp_path / "data" / task / f"{part}_y.npy", y)
    training = {"diagnostics": [f"{__name__}:Inputs", "gradient_norms"]}
    stream = {"kind": "arrays", "path": str(tmp_path / "data")}
    report = evaluated(tiny(stream=stream, training=training), tmp_path)
    assert report.model_figures["Inputs"] == 2 * x.sum()
    assert report.model_figures["gradient_norms/max"] > 0


@pytest.mark.parametrize(
    ("settings", "tested", "scored"),
    [
        ({}, 100, 500),
        ({}, 2000, 500),
        ({}, 10_000, 2500),
        ({"validation_scored": 40}, 10_000, 40),
    ],
)
def test_validation_costs_a_quarter_of_the_test_part(
    settings: dict[str, int], tested: int, scored: int
) -> None:
    training = tiny(training=settings).lanes[0].sections["training"]
    assert training.validated(tested) == scored


def test_a_large_validation_part_is_scored_on_a_sample_of_it(tmp_path: Path) -> None:
    stream = {"kind": "permuted", "dataset": "digits", "tasks": 1, "validation": 0.5}
    scores = {}
    for limit in (7, 10, 721, 2000):
        training = {"validation_scored": limit}
        report = evaluated(tiny(stream=stream, training=training), tmp_path / str(limit))
        (scores[limit],) = report.validation
    for limit in (7, 10):
        assert scores[limit] * limit == pytest.approx(round(scores[limit] * limit))
    assert scores[721] == scores[2000], "all of it"
    with pytest.raises(Exception, match="validation_scored must be positive"):
        tiny(training={"validation_scored": 0})


class Answers(Diagnostic):
    """Number of different targets in the probe of all tasks."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """Settings."""

        kind: str = "answers"

    unit: ClassVar[str] = "classes"
    source: ClassVar[str] = "this test"
    scope = "model"

    def figures(self, probe: Probe) -> Figures:
        assert probe.targets is not None
        return {"": float(len(probe.targets.unique()))}


def test_the_probe_of_all_tasks_stands_for_each_of_them(tmp_path: Path) -> None:
    """It used to be the head of each task's probe: of sorted data, its first classes."""
    for task in range(16):
        folder = tmp_path / "data" / f"{task:02d}"
        folder.mkdir(parents=True)
        for part in ("train", "test"):
            np.save(folder / f"{part}_x.npy", np.ones((400, 5)))
            np.save(folder / f"{part}_y.npy", np.arange(8).repeat(50))
    stream = {"kind": "arrays", "path": str(tmp_path / "data")}
    report = evaluated(
        tiny(stream=stream, training={"diagnostics": [f"{__name__}:Answers"]}), tmp_path
    )
    assert report.model_figures == {"Answers": 8.0}


# ---------------------------------------------------------------- tokens


class Watched(TinyTokens):
    """Keeps the number of windows of each forward."""

    seen: ClassVar[list[int]] = []

    def forward(self, x_BS: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x_BS))
        return super().forward(x_BS)


def token_lane(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> RunConfig:
    """Texts with 100 test windows each, and a model that is watched."""
    monkeypatch.setenv(places.ENVIRONMENT, str(folder / "data"))
    Watched.seen.clear()
    raw = text_lane(
        write_texts(folder / "texts", documents=90),
        stream={"test": 0.4, "test_tokens": 1600, **changes.pop("stream", {})},
        model={"kind": f"{__name__}:Watched", "max_experts": 5},
        **changes,
    )
    return check({"name": "tokens", **raw}, "tokens")


def test_outputs_of_tokens_are_never_kept_for_a_whole_part(tmp_path, monkeypatch) -> None:
    training = {
        "epochs": 2,
        "intervals": 3,
        "batch": 10,
        "diagnostics": ["effective_rank", "gradient_norms", "load_cv", "weight_norm"],
    }
    config = token_lane(tmp_path, monkeypatch, training=training)
    report = evaluated(config, tmp_path)
    most = LanguageModelling.eval_batch
    assert sum(Watched.seen) == 3 * (100 + 10 + LanguageModelling.most_kept) + 15
    assert max(Watched.seen) == most, "the objective's batch"
    assert all(0 < score < 1 for score in report.scores)
    for figures in report.figures.values():
        assert figures["effective_rank/layer"] > 1, "positions are samples"
        assert figures["load_cv/layer"] >= 0
    assert {"gradient_norms/max", "weight_norm/all"} <= set(report.model_figures)
    evaluated(token_lane(tmp_path / "b", monkeypatch, training={"eval_batch": 64}), tmp_path / "b")
    assert max(Watched.seen) == 64, "what training says"


def test_domains_of_a_mixture_are_scored_by_their_own_totals(tmp_path, monkeypatch) -> None:
    alone = evaluated(token_lane(tmp_path, monkeypatch), tmp_path)
    config = token_lane(tmp_path / "b", monkeypatch, stream={"order": "joint"})
    (mixed,) = evaluated(config, tmp_path / "b").figures.values()
    for name, figures in alone.figures.items():
        assert mixed[f"bits_per_byte/{name}"] == pytest.approx(figures["bits_per_byte"], rel=1e-6)
    total = [mixed[f"bits_per_byte/{name}"] for name in alone.figures]
    assert min(total) < mixed["bits_per_byte"] < max(total)
