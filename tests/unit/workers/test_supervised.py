"""The supervised loop in-process: deterministic, resumable at any interval, growing."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from orchestrator.config.run import RunConfig
from tests.commands import ROOT
from tests.fakes import tiny
from tests.unit.workers.supervised.loop import grow, opened, stages
from workers import checkpoint
from workers.contract import CheckpointRef, DivergedError, InputError, StageSpec
from workers.edits import Cause, Grow
from workers.methods import Method
from workers.moe.routed import IDLE, routed_layers
from workers.streams.data import concatenated
from workers.supervised.data_parallel import Replicas
from workers.supervised.evaluator import SupervisedEvaluator
from workers.supervised.signals import SIGNALS
from workers.supervised.trainer import SupervisedTrainer

GROWING = {
    "policies": {"growth": {"kind": "periodic"}},
    "training": {"epochs": 3, "intervals": 3, "clip": 1.0, "warmup": 0.2},
    "lanes": [{"method": {"kind": "replay", "buffer": 60, "batch": 16}}],
}


def numbered(edit: Any, trainer: SupervisedTrainer) -> Any:
    """The edit as the next one of the trainer's lane."""
    return replace(edit, revision=trainer.revision + 1)


def grown(stage: StageSpec) -> Grow:
    cause = Cause(policy="test", trigger="test")
    return Grow(
        id=f"{stage.id}-0",
        stage=stage.id,
        after_interval=0,
        revision=1,
        experts=2,
        seed=7,
        cause=cause,
    )


def train(
    config: RunConfig, folder: Path, restart_after: tuple[int, int] | None = None
) -> list[CheckpointRef]:
    """Two stages with a growth between; optionally a fresh trainer after (stage, interval)."""
    lane = config.lanes[0].spec()
    trainer = SupervisedTrainer()
    trainer.open(lane, None)
    refs, seq = [trainer.save(str(folder / "initial"), 1)], 1
    for stage in stages(config)[:2]:
        trainer.start(stage)
        if stage.index == 1:
            trainer.apply(grown(stage))
        for n in range(1, stage.intervals + 1):
            trainer.run_interval(n, revision=stage.index)
            seq += 1
            if restart_after == (stage.index, n) and n < stage.intervals:
                ref = trainer.save(str(folder / "middle"), seq)
                trainer = SupervisedTrainer()
                assert trainer.open(lane, ref).seq == seq
        refs.append(trainer.save(str(folder / stage.id), seq))
    return refs


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return digests(train(tiny(**GROWING), tmp_path_factory.mktemp("straight")))


def digests(refs: list[CheckpointRef]) -> list[str]:
    return [ref.digest for ref in refs]


def test_same_config_same_bits(straight: list[str], tmp_path: Path) -> None:
    assert digests(train(tiny(**GROWING), tmp_path)) == straight


@pytest.mark.parametrize("moment", [(0, 1), (0, 2), (1, 1), (1, 2)])
def test_restart_in_mid_stage_gives_the_same_bits(
    straight: list[str], tmp_path: Path, moment: tuple[int, int]
) -> None:
    assert digests(train(tiny(**GROWING), tmp_path, moment)) == straight


def test_seed_and_settings_matter(straight: list[str], tmp_path: Path) -> None:
    other = tiny(**{**GROWING, "seed": 1})
    assert digests(train(other, tmp_path))[0] != straight[0]


def test_evaluator_scores_what_was_learnt(tmp_path: Path) -> None:
    wide = {"head": {"kind": "moe", "hidden": [64]}}  # learns from every seed
    config = tiny(training={"epochs": 20, "intervals": 2}, model=wide)
    refs = train(config, tmp_path)
    lane = config.lanes[0]
    report = SupervisedEvaluator().evaluate(lane.spec(), refs[-1], lane.tasks())
    assert len(report.scores) == 5
    assert report.scores[1] > 0.9, "the task just learnt"
    assert max(report.scores[2:]) == 0.0, "tasks not seen"


def test_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    ref = train(tiny(**GROWING), tmp_path)[-1]
    with pytest.raises(InputError, match="other settings"):
        SupervisedTrainer().open(tiny().lanes[0].spec(), ref)
    alien = checkpoint.write(
        str(tmp_path / "alien"), {"model": {}}, {"trainer": "rl"}, seq=0, stage=None
    )
    with pytest.raises(InputError, match="trainer 'rl'"):
        SupervisedTrainer().open(tiny().lanes[0].spec(), alien)


def test_more_intervals_than_steps_is_refused() -> None:
    """Before anything starts where the file gives steps, else once the data are known."""
    said = "2 gradient steps cannot be split into 3 intervals"
    with pytest.raises(InputError, match=f"training.steps: {said}"):
        tiny(training={"steps": 2, "intervals": 3})
    config = tiny(training={"epochs": 0.1, "batch": 10**9, "intervals": 3})
    trainer = SupervisedTrainer()
    trainer.open(config.lanes[0].spec(), None)
    with pytest.raises(InputError, match="1 gradient steps cannot be split into 3 intervals"):
        trainer.start(stages(config)[0])


@pytest.mark.parametrize("strict", [True, False])
def test_strict_ops_refuses_to_train_on_the_reference(strict: bool) -> None:
    """In a process of its own, where the compiled kernels are switched off."""
    program = (
        "from tests.fakes import tiny; from workers.supervised.trainer import SupervisedTrainer; "
        f"lane = tiny(strict_ops={strict}).lanes[0].spec(); "
        "print(SupervisedTrainer().open(lane, None).backend)"
    )
    env = {**os.environ, "GROWSTAGE_OPS": "off"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if strict:
        assert "InputError: strict_ops = true" in done.stderr
    else:
        assert done.stdout.strip() == "reference", done.stderr


class Doubling(Method):
    """Trains on every sample twice, and does not say that samples are not the task's own."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        kind: str = "doubling"

    def training_data(self, current, past):
        return concatenated([current.train, current.train])


def test_samples_whose_domain_is_unknown_are_refused() -> None:
    config = tiny(
        model={"head": {"kind": "moe", "hidden": [8]}},
        lanes=[{"method": {"kind": f"{__name__}:Doubling"}}],
        stream={"kind": "permuted", "dataset": "digits", "tasks": 2},
    )
    trainer = SupervisedTrainer()
    trainer.open(config.lanes[0].spec(), None)
    with pytest.raises(InputError, match="mixes = True"):
        trainer.start(stages(config)[0])


# ---------------------------------------------------------------- edits and revisions


def test_edits_are_applied_one_after_another_and_intervals_prove_them(tmp_path: Path) -> None:
    trainer = opened()
    with pytest.raises(DivergedError, match="makes revision 2, the model is at revision 0"):
        trainer.apply(grow(2, revision=2))
    trainer.apply(grow(2, revision=1))
    with pytest.raises(DivergedError, match="makes revision 1, the model is at revision 1"):
        trainer.apply(grow(2, revision=1))
    for other in (0, 2):
        with pytest.raises(DivergedError, match=f"at revision {other}, the model is at revision 1"):
            trainer.run_interval(1, other)
    assert trainer.run_interval(1, 1).revision == 1
    ref = trainer.save(str(tmp_path / "c"), 1)
    again = SupervisedTrainer()
    again.open(tiny().lanes[0].spec(), ref)
    assert again.revision == 1


# ---------------------------------------------------------------- the end of a stage


class Counting(Method):
    """Counts its hooks; what it has learnt at a stage's end is in its state."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        kind: str = f"{__name__}:Counting"

    def __init__(self, config, seed, objective=None):
        super().__init__(config, seed, objective)
        self.calls: list[str] = []
        self.learnt = torch.zeros(())

    def begin_stage(self, context):
        self.calls.append("begin")
        assert context.data is not None
        return {"note": "begun"}

    def after_backward(self, context):
        assert any(p.grad is not None for p in context.model.parameters())
        self.calls.append("backward")

    def after_step(self, context):
        self.calls.append("step")

    def edited(self, context, report):
        self.calls.append(f"edited {report.edit}")

    def end_stage(self, context):
        context.model.train()
        x = context.data.train.x[:7]  # another number than any batch, in training mode
        context.model(x).sum().backward()
        self.learnt = self.learnt + sum(
            p.grad.abs().sum() for p in context.model.parameters() if p.grad is not None
        )
        self.calls.append("end")

    def state(self):
        return {"learnt": self.learnt.clone()}

    def load_state(self, state, model):
        assert isinstance(model, nn.Module)
        self.learnt = state["learnt"].clone()


COUNTING = {
    "stream": {"kind": "domains", "train_samples": 60, "test_samples": 20, "base": []},
    "training": {"steps": 4, "intervals": 2, "batch": 16},
    "lanes": [{"method": f"{__name__}:Counting"}],
}


def test_hooks_are_called_in_order_and_the_stage_ends_with_its_last_interval(
    tmp_path: Path,
) -> None:
    trainer = opened(**COUNTING)
    calls = trainer.method.calls
    trainer.apply(grow(2, 1))
    trainer.run_interval(1, 1)
    assert calls == ["begin", "edited grow-1", *["backward", "step"] * 2]
    del calls[:]
    trainer.run_interval(2, 1)
    assert calls == [*["backward", "step"] * 2, "end"]
    trainer.apply(grow(3, 2))
    trainer.save(str(tmp_path / "c"), 1)
    trainer.save(str(tmp_path / "d"), 2)
    assert calls[-2:] == ["end", "edited grow-2"], "saving changes nothing"


def test_a_stage_whose_end_is_lost_ends_again_with_the_same_bits(tmp_path: Path) -> None:
    trainer = opened(**COUNTING)
    trainer.run_interval(1, 0)
    middle = trainer.save(str(tmp_path / "middle"), 1)
    trainer.run_interval(2, 0)
    straight = trainer.save(str(tmp_path / "a"), 2)
    again = SupervisedTrainer()
    again.open(tiny(**COUNTING).lanes[0].spec(), middle)
    again.run_interval(2, 0)
    assert again.method.calls.count("end") == 1
    assert again.save(str(tmp_path / "b"), 2).digest == straight.digest


def test_a_forward_outside_a_step_knows_no_domains() -> None:
    """It used to see the last batch's, and stopped or used wrong ones."""
    trainer = opened(**COUNTING)
    trainer.run_interval(1, 0)
    x = trainer.stage.part.x
    trainer.model.train()
    for samples in (7, 16, 32):
        assert trainer.model(x[:samples]).shape == (samples, 10)
    assert all(layer.record.step == IDLE for layer in routed_layers(trainer.model).values())
    counts = trainer.run_interval(2, 0).tokens
    assert sum(counts.values()) == 2 * 16, "only steps are counted"


OPTIMIZERS_THAT_DRIFT = [
    {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    {"kind": "adamw", "lr": 0.01, "weight_decay": 0.5},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS_THAT_DRIFT, ids=["sgd", "adamw"])
@pytest.mark.parametrize("cut", [False, True], ids=["unchosen", "cut off by grad_max_k"])
def test_experts_that_learn_nothing_stay_without_any_mask(
    optimizer: dict[str, Any], cut: bool
) -> None:
    """Momentum and weight decay used to move them."""
    layer: dict[str, Any] = {"selector": {"kind": "topk", "k": 2}}
    if cut:
        layer = {"selector": "dense", "grad_max_k": 1}
    trainer = opened(
        model={"experts": 4, "head": {"kind": "moe", "hidden": [32], "layer": layer}},
        training={"steps": 20, "intervals": 2, "batch": 8, "optimizer": optimizer},
    )
    (routed,) = routed_layers(trainer.model).values()
    trainer.run_interval(1, 0)  # momentum is under way
    with torch.no_grad():
        routed.router.biases["3"].fill_(-1e4)
    before = {name: p.clone() for name, p in routed.experts.named_parameters()}
    trainer.run_interval(2, 0)
    moved = {
        name.partition(".")[0]
        for name, p in routed.experts.named_parameters()
        if not torch.equal(p, before[name])
    }
    assert moved
    assert "3" not in moved


# ---------------------------------------------------------------- samples that stand for a stage


SORTED = {
    "stream": {"kind": "domains", "base": [], "validation": 0.0},
    "training": {"steps": 2, "intervals": 1, "probe": 60},
}


def test_probes_see_every_class_and_domain_of_a_sorted_stage() -> None:
    """They used to be the head of the data: the first domain only."""
    stage = opened(**SORTED).stage
    data = stage.data.train
    assert data.domain.tolist() == sorted(data.domain.tolist())
    for part, samples in ((stage.probe, 60), (stage.scored, 512)):
        assert len(part) == samples
        assert set(part.y.tolist()) == set(range(10))
        domains = torch.bincount(part.domain, minlength=3)
        assert int(domains.max() - domains.min()) <= 1


def test_training_accuracy_stands_for_the_whole_stage() -> None:
    """A model that answers class 9 is right on a tenth of a joint stage, sorted or not."""
    trainer = opened(**SORTED, lanes=[{"method": "joint"}])
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.zero_()
        output = [p for name, p in trainer.model.named_parameters() if p.shape == (10,)]
        for bias in output:
            bias[9] = 1.0
    share = float((trainer.stage.part.y == 9).double().mean())
    assert trainer._train_score(trainer.stage) == pytest.approx(share, abs=0.01)


def test_the_draw_leaves_the_order_of_batches_and_the_global_generator_alone() -> None:
    one, other = opened(**SORTED), opened(**{**SORTED, "training": {"steps": 2, "intervals": 1}})
    drawn = torch.rand(3)
    torch.manual_seed(one.stage.spec.seed)
    assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(one.stage.batches.next(), other.stage.batches.next())


def test_joint_over_cumulative_tasks_takes_every_sample_once() -> None:
    """Earlier chunks used to be added again to the task that holds them."""
    cumulative = {"kind": "chunks", "chunks": 4, "validation": 0.0}
    trainer = opened(2, stream=cumulative, lanes=[{"method": "joint"}])
    assert len(trainer.stage.part) == len(trainer.stage.data.train)
    apart = opened(2, stream={**cumulative, "cumulative": False}, lanes=[{"method": "joint"}])
    whole = [sorted(row.sum().item() for row in t.stage.part.x) for t in (trainer, apart)]
    assert whole[0] == whole[1]


class Marking:
    """An augmentation that shows what it was given."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = f"{__name__}:Marking"

    seen: list[int] = []  # noqa: RUF012

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        return x


def test_replayed_samples_are_augmented() -> None:
    """They used to be added after the augmentation."""
    config = tiny(
        training={"steps": 1, "intervals": 1, "batch": 8, "augment": f"{__name__}:Marking"},
        lanes=[{"method": {"kind": "replay", "buffer": 30, "batch": 4}}],
    )
    trainer = SupervisedTrainer()
    trainer.open(config.lanes[0].spec(), None)
    del Marking.seen[:]
    for stage in stages(config)[:2]:
        trainer.start(stage)
        trainer.run_interval(1, 0)
    assert Marking.seen == [8, 12]


class Adding(Method):
    """Adds a sample to each batch; says that it does so, or not."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        kind: str = f"{__name__}:Adding"

    def extend_batch(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return torch.cat([x, x[:1]]), torch.cat([y, y[:1]])


def test_a_method_that_adds_samples_must_say_so_where_domains_matter() -> None:
    trainer = opened(**SORTED, lanes=[{"method": f"{__name__}:Adding"}])
    with pytest.raises(InputError, match=r"extend_batch makes 65 samples of 64.*mixes = True"):
        trainer.run_interval(1, 0)


class Freeing(Method):
    """An edit frees what the method froze when the stage began."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        kind: str = f"{__name__}:Freeing"

    def begin_stage(self, context: Any) -> dict[str, str]:
        context.model.requires_grad_(False)
        return {}

    def edited(self, context: Any, report: Any) -> None:
        context.model.requires_grad_(True)


class Watched(Replicas):
    """Notes how many parameters are summed over workers."""

    def watch(self, model: nn.Module) -> None:
        self.summed = sum(p.requires_grad for p in model.parameters())


def test_what_a_method_frees_at_an_edit_is_summed_over_workers() -> None:
    config = tiny(lanes=[{"method": f"{__name__}:Freeing"}])
    trainer = SupervisedTrainer(Watched())
    trainer.open(config.lanes[0].spec(), None)
    stage = stages(config)[0]
    trainer.start(stage)
    assert trainer.replicas.summed == 0
    trainer.apply(grown(stage))
    assert trainer.replicas.summed == len(list(trainer.model.parameters()))


# ---------------------------------------------------------------- what an interval tells


def test_signals_and_losses_by_name() -> None:
    losses = [{"kind": "balance", "weight": 0.5}]
    trainer = opened(
        model={
            "experts": 3,
            "head": {"kind": "moe", "hidden": [16], "layer": {"losses": losses}},
        },
        training={"steps": 40, "intervals": 2},
    )
    first, second = trainer.run_interval(1, 0), trainer.run_interval(2, 0)
    assert set(first.signals) == set(SIGNALS)
    assert first.signals["loss_slope"] < 0 < first.signals["gradient_norm"]
    assert first.signals["train_score"] == first.metrics["train_accuracy"]
    assert second.metrics["loss"] < first.metrics["loss"]
    (name,) = [name for name in first.metrics if name.startswith("loss/")]
    assert 0.4 < first.metrics[name] < 1.5, "the balance loss is 1 where all are used alike"


def test_routing_flips_are_the_share_of_tokens_that_went_elsewhere() -> None:
    """Zero while routers are frozen, one when their rows are exchanged between two experts."""
    model = {"experts": 2, "head": {"kind": "moe", "hidden": [16]}}
    trainer = opened(model=model, training={"steps": 40, "intervals": 4})
    (layer,) = trainer.layers.values()
    for parameter in layer.router.parameters():
        parameter.requires_grad_(False)
    assert trainer.run_interval(1, 0).signals["routing_flips"] == 0.0
    rows = layer.router.rows
    trainer.stage.assigned = {name: 1 - e for name, e in trainer.stage.assigned.items()}
    assert trainer.run_interval(2, 0).signals["routing_flips"] == 1.0
    for parameter in rows.values():
        parameter.requires_grad_(True)
    before = trainer.stage.assigned["head.layers.0"].clone()
    told = trainer.run_interval(3, 0).signals["routing_flips"]
    after = trainer.stage.assigned["head.layers.0"]
    assert told == float((before != after).double().mean())


def test_a_model_without_routers_has_no_flips() -> None:
    trainer = opened(model={"head": {"kind": "mlp", "hidden": [8]}}, training={"steps": 8})
    assert trainer.run_interval(1, 0).signals["routing_flips"] == 0.0
