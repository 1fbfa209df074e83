"""The RL lane end to end: growth in place, checkpoints, evaluation, a killed runner."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from workers import checkpoint as checkpoints
from workers.contract import DivergedError, InputError, LaneSpec, StageSpec, TaskSpec
from workers.edits import Cause, Grow
from workers.models.actor_critic import ActorCritic
from workers.parsing import checked
from workers.rl import TRAININGS
from workers.rl.building import build_stream
from workers.rl.environments.craftax.native import library
from workers.rl.evaluator import RLEvaluator
from workers.rl.tracing import trace_checkpoint
from workers.rl.trainer import RLTrainer

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

TOY = {"kind": "tests.unit.workers.rl.toy:ToyStream"}
CLASSIC = {
    "kind": "craftax",
    "environment": "Craftax-Classic-Symbolic-v1",
    "tasks": [
        {"name": "survive"},
        {"name": "gather", "achievements": ["collect_wood"], "params": {"max_timesteps": 40}},
    ],
}
SMALL = {"num_envs": 8, "rollout": 16, "steps_per_stage": 256, "intervals": 2, "minibatches": 4}


NARROW = ActorCritic.Config(max_experts=3, encoder=16, hidden=(16, 16))
WIDE = ActorCritic.Config(encoder=32, hidden=(32, 32))


def lane(stream: dict, model: ActorCritic.Config = NARROW, **training: object) -> LaneSpec:
    _, config = checked(TRAININGS, {"kind": "ppo", **SMALL, **training})
    settings = {
        "stream": stream,
        "model": asdict(model),
        "training": asdict(config),
        "method": {"kind": "finetune"},
    }
    return LaneSpec(lane="rl-s0", trainer="rl", method="finetune", seed=0, settings=settings)


def tasks(spec: LaneSpec) -> tuple[TaskSpec, ...]:
    return build_stream(spec.settings["stream"], spec.seed).tasks()


def stage(spec: LaneSpec, index: int = 0) -> StageSpec:
    intervals = spec.settings["training"]["intervals"]
    return StageSpec(
        index=index,
        task=tasks(spec)[index],
        intervals=intervals,
        seed=11 + index,
        parent=None,
        settings_digest="d",
    )


def grow(
    spec: LaneSpec, experts: int, index: int = 0, revision: int = 1, **settings: object
) -> Grow:
    return Grow(
        revision=revision,
        id=f"grow-{experts}",
        stage=stage(spec, index).id,
        after_interval=1,
        experts=experts,
        seed=5,
        cause=Cause(policy="test", trigger="test"),
        **settings,
    )


def test_each_task_is_played_in_its_own_environment(trainer):
    spec = lane({"kind": "tests.unit.workers.rl.toy:TwoEnginesStream"}, num_env_runners=1)
    trainer.open(spec, None)
    played = []
    for index in (0, 1):
        trainer.start(stage(spec, index))
        assert trainer.run_interval(1).steps == 128
        played += trainer._open_algorithm._each_runner(
            lambda runner: type(runner.env.engine).__name__, None
        )
    assert played == ["ToyEngine", "RecallEngine"]


def fingerprint(trainer: RLTrainer) -> str:
    return trainer._open_algorithm.ask(lambda learner: learner.fingerprint())


def runner_fingerprints(trainer: RLTrainer) -> set[str]:
    """Names and values of what the runners act with (they have no critic)."""

    def state(runner) -> str:
        from workers.contract import digest

        named = runner.module.net.state_dict()
        return digest({name: tensor.double().sum().item() for name, tensor in named.items()})

    return set(trainer._open_algorithm._each_runner(state, None))


def actor_part(trainer: RLTrainer) -> str:
    from workers.contract import digest

    named = trainer._open_algorithm.export().model
    kept = {k: v.double().sum().item() for k, v in named.items() if not k.startswith("critic")}
    return digest(kept)


def test_growth_keeps_optimizer_state_and_reaches_the_runners(trainer):
    spec = lane(TOY)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    first = trainer.run_interval(1)
    before = trainer._open_algorithm.export()
    report = trainer.apply(grow(spec, 2))
    after = trainer._open_algorithm.export()
    assert first.steps == 128
    assert [layer.experts for layer in report.before.layers.values()] == [1, 1]
    assert [layer.experts for layer in report.after.layers.values()] == [2, 2]
    assert report.probe_change is not None
    assert set(after.optimizer) == set(before.optimizer)
    assert before.optimizer
    assert all(torch.equal(before.optimizer[k], after.optimizer[k]) for k in before.optimizer)
    assert runner_fingerprints(trainer) == {actor_part(trainer)}
    with pytest.raises(DivergedError, match="makes revision 1, the model is at revision 1"):
        trainer.apply(grow(spec, 2))
    second = trainer.run_interval(2, 1)
    assert second.steps == 256
    assert {layer: len(gates) for layer, gates in second.gate_weights.items()} == {
        "layers.0": 2,
        "layers.1": 2,
    }
    trained = trainer._open_algorithm.export()
    assert len(trained.optimizer) > len(before.optimizer)


def test_a_lane_is_restored_in_its_grown_shape_half_way_through_a_stage(trainer, tmp_path):
    spec = lane(TOY, kl_coefficient=0.2)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    trainer.run_interval(1)
    trainer.apply(grow(spec, 2, initialiser="clone_split"))
    ref = trainer.save(str(tmp_path / "c"), 3)
    wanted, kept = fingerprint(trainer), trainer._open_algorithm.export()
    other = RLTrainer()
    opened = other.open(spec, ref)
    found = other._open_algorithm.export()
    assert opened.seq == 3
    assert [layer.experts for layer in opened.shape.layers.values()] == [2, 2]
    assert fingerprint(other) == wanted
    assert found.kl_coefficient == kept.kl_coefficient != 0.2
    assert set(found.optimizer) == set(kept.optimizer)
    assert all(torch.equal(found.optimizer[k], kept.optimizer[k]) for k in kept.optimizer)
    assert runner_fingerprints(other) == {actor_part(other)}
    with pytest.raises(DivergedError, match="revision 0 of the model, its learners are at 1"):
        other.run_interval(2, 0)
    with pytest.raises(DivergedError, match="makes revision 3, the model is at revision 1"):
        other.apply(grow(spec, 3, revision=3))
    report = other.run_interval(2, 1)
    assert report.steps == 256
    assert report.revision == 1
    assert report.metrics["lifetime_steps"] == 256
    other.close()


def test_a_rerun_from_the_same_seeds_gives_the_same_bits(tmp_path):
    spec, digests = lane(TOY), []
    for attempt in range(2):
        made = RLTrainer()
        made.open(spec, None)
        made.start(stage(spec))
        made.run_interval(1)
        made.apply(grow(spec, 2))
        made.run_interval(2, 1)
        digests.append(made.save(str(tmp_path / f"c{attempt}"), 1).digest)
        made.close()
    assert digests[0] == digests[1]


def test_frozen_parameters_do_not_move_and_stay_frozen_after_a_restore(trainer, tmp_path):
    spec = lane(TOY)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    trainer.run_interval(1)
    learner = trainer._open_algorithm.learner_group._learner
    frozen = [n for n, _ in learner._net.named_parameters() if n.startswith("layers.0.")]
    from workers.rl.building import frozen_names, set_frozen

    set_frozen(learner._net, frozen)
    trainer._open_algorithm.push_weights()
    before = trainer._open_algorithm.export().model
    trainer.run_interval(2)
    after = trainer._open_algorithm.export().model
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["actor.weight"], after["actor.weight"])
    ref = trainer.save(str(tmp_path / "c"), 1)
    other = RLTrainer()
    other.open(spec, ref)
    assert frozen_names(other._open_algorithm.learner_group._learner._net) == tuple(frozen)
    other.close()


def test_learning_raises_the_score_of_the_learnt_task(trainer, tmp_path):
    spec = lane(TOY, WIDE, steps_per_stage=8192, lr=0.005)
    trainer.open(spec, None)
    untrained = trainer.save(str(tmp_path / "a"), 0)
    trainer.start(stage(spec))
    trainer.run_interval(1)
    trained = trainer.save(str(tmp_path / "b"), 1)
    low = RLEvaluator().evaluate(spec, untrained, tasks(spec))
    high = RLEvaluator().evaluate(spec, trained, tasks(spec))
    assert low.scores[0] < 0.5
    assert high.scores[0] > 0.7
    assert high.scores[1] < high.scores[0]
    assert set(high.gate_weights["shift0"]) == {"layers.0", "layers.1"}
    assert RLEvaluator().evaluate(spec, trained, tasks(spec)).scores == high.scores


def test_a_foreign_checkpoint_and_too_few_cores_are_refused(trainer, tmp_path):
    spec = lane(TOY)
    ref = checkpoints.write(
        str(tmp_path / "c"), {"model": {}}, {"trainer": "supervised"}, seq=0, stage=None
    )
    with pytest.raises(InputError, match="trainer"):
        trainer.open(spec, ref)
    crowded = lane(TOY, num_env_runners=8)
    with pytest.raises(InputError, match="cluster has"):
        RLTrainer().open(crowded, None)


@pytest.mark.slow
def test_a_killed_runner_comes_back_with_the_grown_shape(trainer):
    spec = lane(TOY, num_env_runners=1, steps_per_stage=384, intervals=3)
    trainer.open(spec, None)
    trainer.start(stage(spec))
    trainer.run_interval(1)
    trainer.apply(grow(spec, 2))
    trainer.start(replace(stage(spec, 1), intervals=3))
    trainer.run_interval(1, 1)
    (pid,) = trainer._open_algorithm._each_runner(lambda runner: os.getpid(), None)
    os.kill(pid, signal.SIGKILL)
    report = trainer.run_interval(2, 1)
    assert report.steps == 256
    (found,) = trainer._open_algorithm._each_runner(
        lambda runner: (
            os.getpid(),
            [layer.live for layer in runner.module.net.layers],
            runner.env.engine.shift,
        ),
        None,
    )
    assert found[0] != pid
    assert found[1:] == ([2, 2], 1)
    assert runner_fingerprints(trainer) == {actor_part(trainer)}


@pytest.mark.craftax
def test_two_craftax_tasks_with_growth_checkpoint_and_evaluation(trainer, tmp_path: Path):
    spec = lane(CLASSIC, num_envs=8, rollout=16, eval_max_steps=50)
    trainer.open(spec, None)
    for index in range(2):
        started = trainer.start(stage(spec, index))
        reports = [trainer.run_interval(1, index)]
        if index == 0:
            trainer.apply(grow(spec, 2))
        reports.append(trainer.run_interval(2, 1))
        assert [report.steps for report in reports] == [128, 256]
        assert started.fields["largest_return"] == ("22", "1")[index]
    ref = trainer.save(str(tmp_path / "c"), 9)
    report = RLEvaluator().evaluate(spec, ref, tasks(spec))
    assert len(report.scores) == 2
    assert report.figures["gather"]["episode_length"] <= 40
    assert report.figures["survive"]["episodes"] == 6
    episode = trace_checkpoint(spec, ref, tasks(spec)[1])
    assert episode == trace_checkpoint(spec, ref, tasks(spec)[1])
    assert 1 <= len(episode.floors) <= 40
    for gates in episode.gates.values():
        assert [len(weights) for weights in gates] == [2] * len(episode.floors)
        assert np.allclose(np.sum(gates, axis=1), 1.0)
    other = RLTrainer()
    opened = other.open(spec, ref)
    assert [layer.experts for layer in opened.shape.layers.values()] == [2, 2]
    assert fingerprint(other) == fingerprint(trainer)
    other.close()


@pytest.mark.craftax
def test_a_lane_goes_on_to_the_same_bits_in_either_engine(trainer, tmp_path: Path, monkeypatch):
    """Its engine is changed where it is resumed, or there is no compiler any more; and back."""
    if library.load().functions is None:
        pytest.skip(library.load().why)
    spec = replace(lane(CLASSIC, rollout=16), changeable=("stream.engine",))
    compiled, none = library.load, lambda: library.Native(None, "no compiler")
    ways = {
        "as it was": (compiled, {}, "native"),
        "nothing compiles": (none, {}, "jax"),
        "changed": (compiled, {"stream.engine": "jax"}, "jax"),
    }
    trainer.open(spec, None)
    assert trainer.start(stage(spec)).fields["engine"] == "native"
    trainer.run_interval(1)
    ref = trainer.save(str(tmp_path / "c"), 1)
    ends = {}
    for way, (load, settings, engine) in ways.items():
        monkeypatch.setattr(library, "load", load)
        changed, resumed = spec.changed(settings), RLTrainer()
        resumed.open(changed, ref)
        told = build_stream(changed.settings["stream"], 0).recorded(tasks(spec)[0])
        assert told == {"engine": engine}
        done = [resumed.run_interval(2)]
        half = resumed.save(str(tmp_path / way), 2)
        resumed.close()
        monkeypatch.setattr(library, "load", compiled)
        back = RLTrainer()
        back.open(spec, half)
        assert back.start(stage(spec, 1)).fields["engine"] == "native"
        done.append(back.run_interval(1))
        ends[way] = (half.digest, fingerprint(back), [report.metrics for report in done])
        back.close()
    for way in ways:
        assert ends[way] == ends["as it was"], way
