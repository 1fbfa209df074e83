"""A recurrent policy under RLlib: sequences stay whole from the runner to the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from tests.integration.test_rl_lane import (
    TOY,
    actor_part,
    fingerprint,
    grow,
    lane,
    runner_fingerprints,
    stage,
    tasks,
)
from workers.models.actor_critic import ActorCritic
from workers.models.cores import GRU
from workers.rl.building import build_stream
from workers.rl.evaluator import RLEvaluator, load_model
from workers.rl.floor_routing import trace
from workers.rl.module import BEGINS, past_of
from workers.rl.trainer import RLTrainer

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

RECALL = {"kind": "tests.unit.workers.rl.toy:RecallStream", "tasks": 1}
CORE = GRU.Config(size=12)
NARROW = ActorCritic.Config(core=CORE, max_experts=3, encoder=16, hidden=(16, 16))
APART = ActorCritic.Config(core=CORE, max_experts=3, encoder=16, hidden=(16,), separate=True)
WIDE = ActorCritic.Config(core=GRU.Config(size=32), encoder=32, hidden=(32,))


@pytest.mark.parametrize("model", [NARROW, APART])
def test_the_learner_sees_what_the_runner_did_across_ends_of_episodes(trainer, model):
    spec = lane(TOY, model)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    algorithm = trainer._open_algorithm
    algorithm.env_runner.sample()  # so that the next one begins in the middle of episodes
    (rollout,) = algorithm.env_runner.sample()
    assert rollout.state.any()
    assert rollout.terminated.any(0).all()
    learner = algorithm.learner_group._learner
    pipeline = learner._learner_connector
    columns = pipeline(rl_module=learner.module, batch={}, episodes=[rollout], shared_data={})
    batch = columns[DEFAULT_MODULE_ID]
    assert np.array_equal(batch[BEGINS][:, 1:].T, rollout.terminated[:-1])
    assert not batch[BEGINS][:, 0].any()
    with torch.no_grad():
        answer = learner.module[DEFAULT_MODULE_ID].unwrapped()._forward_train(batch)
        logits = learner._net(batch[Columns.OBS], past_of(batch))
    acted = torch.from_numpy(rollout.logits).transpose(0, 1)
    assert torch.allclose(logits, acted, atol=1e-6)
    assert torch.allclose(answer[Columns.ACTION_DIST_INPUTS], acted.flatten(0, 1), atol=1e-6)
    assert torch.allclose(answer[Columns.VF_PREDS], batch[Columns.VF_PREDS].flatten(), atol=1e-6)


def test_a_grown_recurrent_lane_is_restored_evaluated_and_traced(trainer, tmp_path):
    spec = lane(TOY, NARROW)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    trainer.run_interval(1)
    report = trainer.apply(grow(spec, 2, initialiser="clone_split"))
    assert report.probe_change == pytest.approx(0.0, abs=1e-6)
    assert trainer.run_interval(2, 1).steps == 256
    assert runner_fingerprints(trainer) == {actor_part(trainer)}
    ref = trainer.save(str(tmp_path / "c"), 1)
    other = RLTrainer()
    other.open(spec, ref)
    assert fingerprint(other) == fingerprint(trainer)
    other.close()
    scored = RLEvaluator().evaluate(spec, ref, tasks(spec))
    assert scored.figures["shift0"]["episodes"] == 6
    assert RLEvaluator().evaluate(spec, ref, tasks(spec)).scores == scored.scores
    stream = build_stream(spec.settings["stream"], 0)
    engine = stream.environment(tasks(spec)[0], 3)
    found = trace(load_model(spec, ref, stream), engine, max_steps=50, seed=1)
    assert len(found.floors) == len(found.gates["layers.0"]) == 10


def test_a_rerun_of_a_recurrent_lane_gives_the_same_bits(tmp_path):
    spec, prints = lane(TOY, APART), []
    for _ in range(2):
        made = RLTrainer()
        made.open(spec, None)
        made.start(stage(spec))
        made.run_interval(1)
        prints.append(fingerprint(made))
        made.close()
    assert prints[0] == prints[1]


@pytest.mark.slow
def test_two_learners_share_the_environments_and_stay_equal(trainer):
    spec = lane(TOY, APART, num_learners=2, num_env_runners=1)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    assert trainer.run_interval(1).steps == 128
    trainer.apply(grow(spec, 2))
    assert trainer.run_interval(2, 1).steps == 256
    prints = trainer._open_algorithm._each_learner(lambda learner: learner.fingerprint())
    assert len(prints) == 2
    assert len(set(prints)) == 1


@pytest.mark.slow
def test_a_recurrent_policy_learns_to_recall_and_a_plain_one_cannot(tmp_path):
    scores = []
    for core in (WIDE.core, ActorCritic.Config().core):
        model = ActorCritic.Config(core=core, encoder=32, hidden=(32,))
        spec = lane(RECALL, model, num_envs=16, steps_per_stage=16384, intervals=1, lr=0.01)
        made = RLTrainer()
        made.open(spec, None)
        made.start(stage(spec))
        made.run_interval(1)
        ref = made.save(str(tmp_path / core.kind), 1)
        made.close()
        scores.append(RLEvaluator().evaluate(spec, ref, tasks(spec)).scores[0])
    assert scores[0] > 0.8
    assert scores[1] < 0.5
