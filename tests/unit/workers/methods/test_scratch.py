"""From scratch: a model drawn anew at each stage but the first, on all data or the stage's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orchestrator.config.file import ConfigError
from tests.fakes import tiny
from tests.methods import build, numbered
from tests.unit.workers.supervised.loop import stages
from workers.contract import derive_seed
from workers.supervised.building import build_model
from workers.supervised.trainer import SupervisedTrainer


def test_the_data_are_all_or_the_stage_s_own() -> None:
    past = [numbered(0, 3), numbered(3, 3)]
    assert build("scratch").training_data(numbered(6, 2), past).y.tolist() == list(range(8))
    own = build("scratch", data="own")
    assert own.training_data(numbered(6, 2), past).y.tolist() == [6, 7]


def trained(kind: str, index: int) -> SupervisedTrainer:
    """A trainer that has just started the stage ``index`` after it trained those before."""
    config = tiny(lanes=[{"method": kind}])
    trainer = SupervisedTrainer()
    trainer.open(config.lanes[0].spec(), None)
    for stage in stages(config)[:index]:
        trainer.start(stage)
        trainer.run_interval(1)
        trainer.run_interval(2)
    trainer.start(stages(config)[index])
    return trainer


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_stages_begin_with_another_untrained_model_and_optimizer() -> None:
    trainer = trained("scratch", 1)
    lane = trainer.lane
    first = weights(build_model(lane, trainer.stream))
    assert not trainer.optimizer.state
    assert trainer.stage is not None
    drawn = derive_seed(trainer.stage.spec.seed, "afresh")
    expected = build_model(type(lane)(**{**_fields(lane), "seed": drawn}), trainer.stream)
    assert torch.equal(weights(trainer.model), weights(expected))
    assert not torch.equal(weights(trainer.model), first), "other draws than at the start"
    before = [id(p) for p in trainer.model.parameters()]
    trainer.run_interval(1)
    assert [id(p) for p in trainer.model.parameters()] == before
    assert all(p in trainer.optimizer.state for p in trainer.model.parameters())


def _fields(spec: Any) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}


def test_the_first_stage_is_the_plain_one() -> None:
    plain, scratch = trained("finetune", 0), trained("scratch", 0)
    for trainer in (plain, scratch):
        trainer.run_interval(1)
    assert torch.equal(weights(plain.model), weights(scratch.model))


@pytest.mark.parametrize("method", ["scratch", "gdumb"])
def test_edits_are_refused_where_the_model_is_forgotten(method: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(policies={"growth": "periodic"}, lanes=[{"method": method}])
    (problem,) = caught.value.problems
    assert problem.path.endswith("policies.growth")
    assert f"method {method!r} draws the model anew at each stage" in problem.found
