"""What a lane takes of another run's model: weights and shape, nothing that was frozen there."""

from __future__ import annotations

from pathlib import Path

import torch

from workers import checkpoint
from workers.contract import Start
from workers.edits import SetPhase
from workers.models.classifier import Classifier
from workers.moe.growth import surgery
from workers.supervised.starting import begin_with


def test_experts_that_a_phase_froze_train_again(tmp_path: Path) -> None:
    def model() -> Classifier:
        return Classifier(Classifier.Config(experts=3), (1, 4, 4), 3, seed=1)

    other = model()
    edit = SetPhase(
        id="e",
        stage="s",
        after_interval=0,
        cause="test",
        seed=5,
        revision=1,
        phase="routers",
        trains=("router",),
    )
    surgery.apply(other, None, edit, None)
    assert not any(p.requires_grad for p in other.head.layers[0].experts.parameters())  # type: ignore[union-attr, index]
    state = {"arch": surgery.arch(other)}
    tensors = {"model": other.state_dict()}
    ref = checkpoint.write(str(tmp_path / "other"), tensors, state, seq=0, stage=None)
    mine = model()
    begin_with(mine, Start(checkpoint=ref, optimizer=False, experts=3))
    assert all(parameter.requires_grad for parameter in mine.parameters())
    for name, value in mine.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
