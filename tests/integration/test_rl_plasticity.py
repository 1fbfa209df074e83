"""Units made new, parameters drawn anew and averaged in lanes that act."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from tests.integration.test_rl_lane import NARROW, TOY, grow, lane, stage
from workers.contract import LaneSpec
from workers.edits import Cause, RecycleDormant, Reset
from workers.methods import METHODS

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def spec_of(kind: str, **settings: Any) -> LaneSpec:
    spec = lane(TOY, NARROW)
    config = METHODS[kind].Config(**settings)  # type: ignore[attr-defined]
    return replace(spec, method=kind, settings={**spec.settings, "method": asdict(config)})


def fields(revision: int) -> dict[str, Any]:
    cause = Cause(policy="p", trigger="t")
    return {"id": f"e{revision}", "stage": "s", "after_interval": 1, "revision": revision,
            "seed": revision, "cause": cause}  # fmt: skip


def test_units_of_actors_and_critics_are_made_new_and_models_stay_alike(trainer, tmp_path):
    spec = spec_of("continual_backprop", replacement=0.2, maturity=2)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    trainer.run_interval(1)
    (renewed,) = trainer._open_algorithm.ask(lambda learner: [learner._method.renewed])
    assert renewed > 0
    trainer.apply(grow(spec, 2))
    told = trainer.apply(RecycleDormant(**fields(2), tau=0.5))
    assert all(name.startswith("recycled/") for name in told.figures)
    before = trainer._open_algorithm.export()
    trainer.apply(Reset(**fields(3), parts=("actor",)))
    after = trainer._open_algorithm.export()
    changed = {name for name in before.model if not before.model[name].equal(after.model[name])}
    assert changed == {"actor.weight", "actor.bias"}, "what was learnt is gone"
    assert not any(name.startswith("actor.") for name in after.optimizer)
    report = trainer.run_interval(2, 3)  # refused where runners and learner hold other models
    assert report.revision == 3
    ref, saved = trainer.save(str(tmp_path / "c"), 1), trainer._open_algorithm.export()
    trainer.close()
    trainer.open(spec, ref)
    kept = trainer._open_algorithm.export()
    assert set(kept.method) == set(saved.method)
    assert all(kept.method[name].equal(value) for name, value in saved.method.items())
