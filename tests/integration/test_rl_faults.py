"""Killed learners and several learners: the right number of experts everywhere, exact steps."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.integration.test_rl_lane import (
    TOY,
    actor_part,
    fingerprint,
    grow,
    lane,
    runner_fingerprints,
    stage,
)
from workers.rl.trainer import RLTrainer

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def test_growth_reaches_the_learner_and_all_runners_in_one_short_pause(trainer):
    trainer.open(lane(TOY, num_env_runners=2), None)
    trainer.start(stage(lane(TOY)))
    trainer.run_interval(1)
    began = time.perf_counter()
    trainer.apply(grow(lane(TOY), 2))
    pause = time.perf_counter() - began
    experts = trainer._open_algorithm._each_runner(
        lambda runner: [layer.live for layer in runner.module.net.layers], None
    )
    assert experts == [[2, 2], [2, 2]]
    print(f"growth pause: {pause:.3f} s")
    assert pause < 5.0, "a busy machine may take ten times the half second that is promised"


@pytest.mark.slow
def test_two_learners_stay_equal_through_growth(trainer):
    spec = lane(TOY, num_learners=2)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    trainer.run_interval(1)
    trainer.apply(grow(spec, 2))
    report = trainer.run_interval(2, 1)
    prints = trainer._open_algorithm._each_learner(lambda learner: learner.fingerprint())
    assert len(prints) == 2
    assert len(set(prints)) == 1
    assert report.steps == 256
    assert runner_fingerprints(trainer) == {actor_part(trainer)}


@pytest.mark.slow
def test_a_killed_learner_ends_the_interval_and_the_lane_goes_on_from_its_checkpoint(
    trainer, tmp_path
):
    spec = lane(TOY, num_learners=1)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    trainer.run_interval(1)
    ref = trainer.save(str(tmp_path / "c"), 1)
    trainer.apply(grow(spec, 2))
    pid = trainer._open_algorithm.ask(lambda learner: os.getpid())
    assert pid != os.getpid()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(Exception, match=r"(?i)died|killed|learner"):
        trainer.run_interval(2, 1)
    other = RLTrainer()
    other.open(spec, ref)
    grown = other.apply(grow(spec, 2))
    assert [layer.experts for layer in grown.after.layers.values()] == [2, 2]
    report = other.run_interval(2, 1)
    assert report.steps == 256
    assert report.metrics["lifetime_steps"] == 256
    assert runner_fingerprints(other) == {actor_part(other)}
    assert fingerprint(other)
    other.close()
