"""Gradient masks in RL lanes: counts by task, masked experts that stay still, versions, phases."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from tests.integration.test_rl_lane import TOY, actor_part, grow, lane, runner_fingerprints, stage
from workers.contract import DivergedError, LaneSpec
from workers.edits import AdaptRouter, Cause, RefreshMask, SetPhase
from workers.models.actor_critic import ActorCritic
from workers.models.cores import GRU
from workers.rl.trainer import RLTrainer

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

DOMAINS = ("shift0", "shift1")
CAUSE = Cause(policy="test", trigger="test")
SHARED = ActorCritic.Config(experts=2, max_experts=4, encoder=16, hidden=(16,))
SEPARATE = replace(SHARED, separate=True, normalise_values=True)
EPOCHS = 4


def refresh(spec: LaneSpec, layers: list[str], version: int = 1) -> RefreshMask:
    """Each task trains the expert of its number, and any born after the mask; the second edit."""
    return RefreshMask(
        revision=2,
        id=f"mask-{version}",
        stage=stage(spec).id,
        after_interval=1,
        version=version,
        domains=DOMAINS,
        masks={layer: [[1, 0], [0, 1]] for layer in layers},
        seed=3,
        cause=CAUSE,
    )


def held(trainer: RLTrainer, expert: int) -> dict[str, torch.Tensor]:
    """Weights and optimizer state of one expert in all layers."""
    state = trainer._open_algorithm.export()
    found = {**state.model, **{f"adam/{name}": t for name, t in state.optimizer.items()}}
    return {name: t for name, t in found.items() if f".experts.{expert}." in name}


def same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    assert before
    return before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize(
    "learners", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]
)
def test_masked_experts_keep_bits_and_moments_with_growth_and_any_number_of_learners(
    trainer, learners, tmp_path
):
    spec = lane(TOY, SHARED if learners == 1 else SEPARATE, num_learners=learners, intervals=2)
    opened = trainer.open(spec, None)
    layers = list(opened.shape.layers)
    assert len(layers) == (1 if learners == 1 else 2)
    trainer.start(stage(spec))
    first = trainer.run_interval(1)
    assert (first.revision, first.tokens) == (0, {"shift0": EPOCHS * first.steps})
    assert first.counts == {n: {"shift0": [EPOCHS * first.steps] * 2} for n in layers}

    grown = trainer.apply(grow(spec, 3))
    masked = trainer.apply(refresh(spec, layers))
    assert masked.fingerprint != grown.fingerprint
    if learners == 0:  # RLlib gives up a learner process that has raised anything
        with pytest.raises(DivergedError, match="each once"):
            trainer.apply(refresh(spec, layers))
    assert runner_fingerprints(trainer) == {actor_part(trainer)}
    revisions = trainer._open_algorithm._each_learner(lambda learner: learner.revision)
    assert revisions == [2] * max(1, learners)
    with pytest.raises(DivergedError, match="revision 1 of the model, its learners are at 2"):
        trainer.run_interval(2, 1)

    before = [held(trainer, expert) for expert in range(3)]
    second = trainer.run_interval(2, 2)
    after = [held(trainer, expert) for expert in range(3)]
    assert [same(*pair) for pair in zip(before, after, strict=True)] == [False, True, False]
    assert (second.revision, second.steps) == (2, 256)
    assert {len(second.counts[layer]["shift0"]) for layer in layers} == {3}
    prints = trainer._open_algorithm._each_learner(lambda learner: learner.fingerprint())
    assert len(set(prints)) == 1
    assert len(prints) == max(1, learners)

    trainer.start(stage(spec, 1))
    other = trainer.run_interval(1, 2)
    assert set(other.tokens) == {"shift1"}
    last = [held(trainer, expert) for expert in range(3)]
    assert [same(*pair) for pair in zip(after, last, strict=True)] == [True, False, False]
    if learners == 2:
        return
    ref = trainer.save(str(tmp_path / "c"), 5)
    restored = RLTrainer()
    restored.open(spec, ref)
    with pytest.raises(DivergedError, match="its learners are at 2"):
        restored.run_interval(2, 3)
    assert restored.run_interval(2, 2).steps == 256
    assert same(last[0], held(restored, 0))
    restored.close()


def test_masks_hold_in_a_recurrent_lane(trainer):
    spec = lane(TOY, replace(SEPARATE, core=GRU.Config(size=12)), intervals=2)
    layers = list(trainer.open(spec, None).shape.layers)
    trainer.start(stage(spec))
    first = trainer.run_interval(1)
    assert first.tokens == {"shift0": EPOCHS * first.steps}
    assert first.counts == {n: {"shift0": [EPOCHS * first.steps] * 2} for n in layers}
    trainer.apply(grow(spec, 3))
    trainer.apply(refresh(spec, layers))
    before = [held(trainer, expert) for expert in range(3)]
    assert trainer.run_interval(2, 2).steps == 256
    after = [held(trainer, expert) for expert in range(3)]
    assert [same(*pair) for pair in zip(before, after, strict=True)] == [False, True, False]
    assert runner_fingerprints(trainer) == {actor_part(trainer)}


def test_a_runner_that_died_unseen_is_brought_up_before_the_next_interval(trainer):
    spec = lane(TOY, SHARED, num_env_runners=1, intervals=2)
    layers = list(trainer.open(spec, None).shape.layers)
    trainer.start(stage(spec, 1))
    trainer.apply(grow(spec, 3))
    trainer.apply(refresh(spec, layers))
    group = trainer._open_algorithm.env_runner_group
    (pid,) = trainer._open_algorithm._each_runner(lambda runner: os.getpid(), None)
    (actor,) = group._worker_manager.actors().values()
    os.kill(pid, signal.SIGKILL)
    assert restarted(actor) != pid
    report = trainer.run_interval(1, 2)
    assert report.steps == 128
    assert runner_fingerprints(trainer) == {actor_part(trainer)}
    (found,) = trainer._open_algorithm._each_runner(
        lambda runner: (
            [layer.live for layer in runner.module.net.layers],
            runner.env.engine.shift,
        ),
        None,
    )
    assert found == ([3], 1)


def restarted(actor) -> int:
    """Process of an actor that Ray has started anew; asks the actor itself, not RLlib."""
    import ray
    from ray.exceptions import RayActorError

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            return ray.get(actor.apply.remote(lambda runner: os.getpid()), timeout=60)
        except RayActorError:
            time.sleep(0.5)
    raise AssertionError("the runner did not come back")


def test_phases_train_their_roles_only(trainer):
    model = replace(SHARED, layer=adaptive_layer())
    spec = lane(TOY, model, intervals=2)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    for number, trains in enumerate((("router", "backbone"), ("experts",)), start=1):
        common = {"stage": stage(spec).id, "after_interval": number - 1, "seed": 4, "cause": CAUSE}
        trainer.apply(AdaptRouter(id=f"adapt-{number}", revision=2 * number - 1, **common))
        phase = SetPhase(
            id=f"phase-{number}", revision=2 * number, phase="test", trains=trains, **common
        )
        trainer.apply(phase)
        before = trainer._open_algorithm.export().model
        trainer.run_interval(number, revision=2 * number)
        after = trainer._open_algorithm.export().model
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        roles = {
            "experts" if ".experts." in n else "router" if ".router." in n else "backbone"
            for n in moved
        }
        assert roles == set(trains)


def adaptive_layer():
    from workers.moe import LAYERS, ROUTERS

    return LAYERS["moe"].Config(router=ROUTERS["adaptive"].Config())
