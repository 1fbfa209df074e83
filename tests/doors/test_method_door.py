"""The door of methods: one that projects gradients, one that resets units, one that answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.doors.lane import run_killed, run_lane
from workers.methods import Method
from workers.methods.of_units import OfUnits

HERE = "tests.doors.test_method_door"


class Projection(Method):
    """Averaged gradient episodic memory (arXiv 1812.00420): gradients that would raise the loss
    on remembered samples are projected onto those that do not."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        samples: int = 20

    def __init__(self, config, seed, objective=None):
        super().__init__(config, seed, objective)
        self.x, self.y = torch.empty(0), torch.empty(0, dtype=torch.int64)
        self.projected = torch.zeros((), dtype=torch.int64)

    def after_backward(self, context):
        if not len(self.y):
            return
        named = [(n, p) for n, p in context.model.named_parameters() if p.grad is not None]
        context.model.eval()
        loss = self.objective.loss(context.model(self.x), self.y)
        context.model.train()
        kept = torch.autograd.grad(loss, [p for _, p in named])
        product = sum((p.grad * g).sum() for (_, p), g in zip(named, kept, strict=True))
        if product < 0:
            scale = product / sum(g.square().sum() for g in kept)
            for (_, parameter), g in zip(named, kept, strict=True):
                parameter.grad -= scale * g
            self.projected += 1

    def end_stage(self, context):
        generator = torch.Generator().manual_seed(context.seed)
        train = context.data.train
        drawn = torch.randperm(len(train), generator=generator)[: self.config.samples]
        self.x = torch.cat([self.x, train.x[drawn]]) if len(self.y) else train.x[drawn]
        self.y = torch.cat([self.y, train.y[drawn]])

    def state(self):
        return {"x": self.x.clone(), "y": self.y.clone(), "projected": self.projected.clone()}

    def load_state(self, state, model):
        self.x, self.y = state["x"].clone(), state["y"].clone()
        self.projected = state["projected"].clone()


class Resets(Method):
    """Every few steps the parameter entries of smallest magnitude are drawn anew, new tensors
    being spared until they are old enough; its ages follow the model through edits. A hook counts
    the samples that were learnt from."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        every: int = 5

    works_with = frozenset({"supervised", "rl"})

    def __init__(self, config, seed, objective=None):
        super().__init__(config, seed, objective)
        self.ages: dict[str, int] = {}
        self.edits = 0
        self.hook = None
        self.passed = torch.zeros(())  # of this worker, since the step began
        self.samples = torch.zeros(())  # of all workers, since the lane began

    def watch(self, model):
        if self.hook is not None:
            self.hook.remove()
        self.hook = model.register_forward_hook(self._count)

    def _count(self, model, inputs, output):
        if model.training and torch.is_grad_enabled():
            self.passed += len(output)

    def after_step(self, context):
        self.samples += context.total(self.passed)
        self.passed.zero_()
        parameters = dict(context.model.named_parameters())
        for name in parameters:
            self.ages[name] = self.ages.get(name, 0) + 1
        if self.ages[next(iter(parameters))] % self.config.every:
            return
        generator = torch.Generator().manual_seed(context.seed + sum(self.ages.values()))
        with torch.no_grad():
            for name, parameter in parameters.items():
                if parameter.dim() == 2 and self.ages[name] > self.config.every:
                    row = int(parameter.abs().sum(1).argmin())
                    drawn = torch.randn(parameter.shape[1], generator=generator)
                    parameter[row] = 0.01 * drawn
                    for kept in context.optimizer.state[parameter].values():
                        if kept.dim():
                            kept[row] = 0.0

    def edited(self, context, report):
        self.edits += 1
        for name, _ in context.model.named_parameters():
            self.ages.setdefault(name, 0)
        for name in context.change.narrowed:
            self.ages[name] = 0

    def state(self):
        ages = {f"age/{name}": torch.tensor(age) for name, age in self.ages.items()}
        return {"edits": torch.tensor(self.edits), "samples": self.samples.clone()} | ages

    def load_state(self, state, model):
        known = dict(model.named_parameters())
        ages = {n[4:]: int(age) for n, age in state.items() if n.startswith("age/")}
        assert set(ages) <= set(known), "the model has the shape of the checkpoint already"
        self.ages, self.edits = ages, int(state["edits"])
        self.samples = state["samples"].clone()


class Averaged(Method):
    """Learns as finetune does, and answers with the running mean of its weights."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        decay: float = 0.9

    answers = True

    def __init__(self, config, seed, objective=None):
        super().__init__(config, seed, objective)
        self.means: dict[str, torch.Tensor] = {}

    def after_step(self, context):
        known = dict(context.model.named_parameters())
        self.means = {
            name: self.means.get(name, parameter.detach().clone()).lerp(
                parameter.detach(), 1 - self.config.decay
            )
            for name, parameter in known.items()
        }

    def answer(self, model, x, task):
        return torch.func.functional_call(model, self.means, (x,))

    def state(self):
        return {name: mean.clone() for name, mean in self.means.items()}

    def load_state(self, state, model):
        self.means = {name: mean.clone() for name, mean in state.items()}


class Idlest(OfUnits):
    """At each step the unit whose running mean activity is least is made new."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        decay: float = 0.5

    figures = ("activity",)

    def step(self, units, seen, learnt_U):
        activity_U = self.figure("activity").lerp(seen.mean, 1.0 - self.config.decay)
        self.set_figure("activity", torch.where(learnt_U, activity_U, self.figure("activity")))
        idlest = self.figure("activity").masked_fill(~learnt_U, torch.inf).argmin()
        return torch.arange(len(learnt_U)) == idlest


def config(method: str) -> dict[str, Any]:
    return {
        "stream": {"kind": "split", "dataset": "digits", "train_samples": 120},
        "model": {"head": {"kind": "moe", "hidden": [16]}},
        "training": {"epochs": 3, "intervals": 3, "batch": 20},
        "policies": {"growth": "periodic"},
        "lanes": [{"method": f"{HERE}:{method}"}],
    }


@pytest.mark.parametrize("method", ["Projection", "Resets", "Idlest", "Averaged"])
def test_a_method_goes_through_kills(tmp_path: Path, method: str) -> None:
    straight = run_lane(tmp_path / "straight", config(method))
    assert len(straight.edits) == 4
    assert run_killed(tmp_path / "killed", config(method)).essence == straight.essence


@pytest.mark.parametrize("method", ["Projection", "Resets"])
def test_hooks_change_what_is_learnt(tmp_path: Path, method: str) -> None:
    """By what is measured: a checkpoint's digest holds the method's own state too."""
    plain = run_lane(tmp_path / "plain", {**config(method), "lanes": [{"method": "finetune"}]})
    other = run_lane(tmp_path / method, config(method))
    losses = [
        [told["metrics"]["loss"] for told in outcome.intervals.values()]
        for outcome in (plain, other)
    ]
    assert losses[0][0] == losses[1][0], "nothing to remember, and no unit old enough, at first"
    assert losses[0][-1] != losses[1][-1]


def test_a_method_that_answers_is_what_evaluations_score(tmp_path: Path) -> None:
    """It trains alike, so only scores differ; diagnostics look at the same model."""
    settings = {"diagnostics": ["dormant_ratio"], **config("Averaged")["training"]}
    plain, other = (
        run_lane(tmp_path / name, {**config("Averaged"), "training": settings, "lanes": lanes})
        for name, lanes in (
            ("plain", [{"method": "finetune"}]),
            ("averaged", [{"method": {"kind": f"{HERE}:Averaged", "decay": 0.99}}]),
        )
    )
    assert list(plain.intervals.values()) == list(other.intervals.values())
    assert plain.matrix != other.matrix
    figures = [outcome.lane["stages"][-1]["figures"]["classes 8,9"] for outcome in (plain, other)]
    dormant = [{k: v for k, v in of.items() if "dormant" in k} for of in figures]
    assert dormant[0]
    assert dormant[0] == dormant[1]
    assert figures[0]["loss"] != figures[1]["loss"]
