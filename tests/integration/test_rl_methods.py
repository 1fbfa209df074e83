"""Hooks of a method in RL learners, auxiliary losses by name, and what is refused at plan time."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
import torch

from tests.integration.test_rl_lane import NARROW, TOY, grow, lane, stage
from workers.contract import EditReport, LaneSpec, derive_seed
from workers.methods import Method
from workers.methods.base import MethodContext
from workers.moe import LAYERS
from workers.parsing import checked
from workers.rl.trainer import RLTrainer

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

ADAM_STEPS = 4 * 4
"""Epochs x minibatches of one update."""


class Watchful(Method):
    """Lets the actor's bias have no gradient, and counts what it is told."""

    works_with = frozenset({"supervised", "rl"})

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        kind: str = "tests.integration.test_rl_methods:Watchful"

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self.told = torch.zeros(3, dtype=torch.int64)

    def after_backward(self, context: MethodContext) -> None:
        assert context.data is None
        assert context.stage.task.name in ("shift0", "shift1")
        assert context.domains == ("shift0", "shift1")
        assert context.seed == derive_seed(context.stage.seed, "method")
        assert context.model.actor.weight.grad is not None
        context.model.actor.bias.grad = None
        self.told[0] += 1

    def after_step(self, context: MethodContext) -> None:
        assert context.optimizer.state[context.model.actor.weight]["step"] > 0
        context.model.layers[0].router.get_parameter("rows.0").data.fill_(0.5)
        self.told[1] += 1

    def edited(self, context: MethodContext, report: EditReport) -> None:
        assert all(layer.experts == 2 for layer in report.after.layers.values())
        assert len(list(context.model.parameters())) > 0
        self.told[2] += 1

    def state(self) -> dict[str, torch.Tensor]:
        return {"told": self.told.clone()}

    def load_state(self, state: Any, model: Any = None) -> None:
        self.told = state["told"].clone()


def watched(**training: Any) -> LaneSpec:
    spec = lane(TOY, NARROW, **training)
    kind = Watchful.Config().kind
    return replace(
        spec, method=kind, settings={**spec.settings, "method": asdict(Watchful.Config())}
    )


def told(trainer: RLTrainer) -> list[list[int]]:
    return trainer._open_algorithm._each_learner(lambda learner: learner._method.told.tolist())


@pytest.mark.parametrize("learners", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_method_sees_every_step_and_edit_and_its_state_travels(trainer, tmp_path, learners):
    spec = watched(num_learners=learners)
    count = max(1, learners)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    before = trainer._open_algorithm.export().model
    trainer.run_interval(1)
    after = trainer._open_algorithm.export().model
    assert torch.equal(before["actor.bias"], after["actor.bias"])
    assert not torch.equal(before["actor.weight"], after["actor.weight"])
    assert after["layers.0.router.rows.0"].unique().tolist() == [0.5]
    assert told(trainer) == [[ADAM_STEPS, ADAM_STEPS, 0]] * count
    trainer.apply(grow(spec, 2))
    ref = trainer.save(str(tmp_path / "c"), 1)
    trainer.run_interval(2, 1)
    assert told(trainer) == [[2 * ADAM_STEPS, 2 * ADAM_STEPS, 1]] * count
    trainer.close()
    other = RLTrainer()
    other.open(spec, ref)
    assert told(other) == [[ADAM_STEPS, ADAM_STEPS, 1]] * count
    other.close()


def test_synaptic_intelligence_follows_an_agent_through_growth_and_a_restart(trainer, tmp_path):
    spec = lane(TOY, NARROW)
    method = {"kind": "si", "strength": 1.0, "damping": 0.1}
    spec = replace(spec, method="si", settings={**spec.settings, "method": method})
    trainer.open(spec, None)
    trainer.start(stage(spec))
    trainer.run_interval(1)
    trainer.apply(grow(spec, 2))
    trainer.run_interval(2, 1)
    ref = trainer.save(str(tmp_path / "c"), 1)
    trainer.close()
    other = RLTrainer()
    other.open(spec, ref)
    before = other._open_algorithm.export()
    assert not before.method["actor.weight/importance"].any()
    assert before.method["actor.weight/path"].any()
    other.start(stage(spec, 1))
    other.run_interval(1, 1)
    after = other._open_algorithm.export()
    other.close()
    known = {name.rpartition("/")[0] for name in after.method if name != "stage"}
    assert known <= set(after.model)
    assert any(".experts.1." in name for name in known), "born in the first stage"
    assert torch.equal(after.method["actor.weight/anchor"], before.model["actor.weight"])
    assert after.method["actor.weight/importance"].max() > 0


def test_auxiliary_losses_are_followed_and_told_by_name(trainer):
    losses = [{"kind": "balance", "weight": 0.5}]
    _, layer = checked(LAYERS, {"kind": "moe", "losses": losses})
    balanced = replace(NARROW, experts=2, layer=layer)
    spec = lane(TOY, balanced)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    report = trainer.run_interval(1)
    found = {name: value for name, value in report.metrics.items() if name.startswith("loss/")}
    assert sorted(found) == ["loss/balance/layers.0", "loss/balance/layers.1"]
    assert all(value >= 0.4 for value in found.values()), "weight 0.5 times at least about 1"
    assert "loss" in report.signals
