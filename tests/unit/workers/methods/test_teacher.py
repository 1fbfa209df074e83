"""A frozen copy of a model: it answers as the model did, whatever grows since, and travels."""

from __future__ import annotations

import torch

from tests.unit.workers.supervised.loop import ROUTED, grow, opened
from workers.methods.teacher import Teacher


def test_it_answers_as_the_model_did_before_it_learnt_and_grew() -> None:
    trainer = opened(model=ROUTED)
    assert trainer.stage is not None
    x = trainer.stage.scored.x[:16]
    trainer.model.eval()
    with torch.no_grad():
        before = trainer.model(x)
    teacher = Teacher.of(trainer.model)
    trainer.model.train()
    trainer.run_interval(1)
    trainer.apply(grow(5, 1))
    trainer.run_interval(2, 1)
    assert torch.equal(teacher(x), before)
    assert not teacher(x).requires_grad
    state = {name: tensor.clone() for name, tensor in teacher.state().items()}
    experts = trainer.model.head.layers[0].live
    again = Teacher.restored(trainer.model, state)
    assert torch.equal(again(x), before)
    assert trainer.model.head.layers[0].live == experts == 5, "the model itself stays as it is"
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state().items())
