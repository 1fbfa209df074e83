"""Pixel environments: textures are prepared once, images are bytes, a lane learns from them.

`make pixels` runs all four names; without it the smaller game is played and learnt, as compiling
the others takes minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tests.commands import ROOT
from tests.integration.test_rl_lane import stage, tasks
from workers.contract import LaneSpec
from workers.models.actor_critic import ActorCritic
from workers.parsing import checked
from workers.rl import ENVIRONMENTS, TRAININGS
from workers.rl.environments.base import EnvironmentTask
from workers.rl.evaluator import RLEvaluator
from workers.rl.trainer import RLTrainer

pytestmark = pytest.mark.craftax

CLASSIC = "Craftax-Classic-Pixels-v1"
ALL = sorted(name for name in ENVIRONMENTS if "Pixels" in name)
ENVS = 4
SLOW = pytest.mark.skipif("GROWSTAGE_PIXELS" not in os.environ, reason="minutes: make pixels")

COUNTING = """
from craftax.craftax_classic import constants
prepare, calls = constants.load_all_textures_given_size, []
def counted(size):
    calls.append(size)
    return prepare(size)
constants.load_all_textures_given_size = counted
from workers.rl.environments.craftax.textures import keep_textures
assert keep_textures("Craftax-Classic-Pixels-v1").exists()
print(len(calls))
"""


def prepared_by_two(home: Path) -> list[int]:
    """How often each of two processes that start at once prepared the textures."""
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", COUNTING]
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    return sorted(int(answer.split()[-1]) for answer in answers)


@pytest.mark.slow
def test_two_processes_prepare_textures_once_and_a_broken_file_is_prepared_anew(tmp_path):
    assert prepared_by_two(tmp_path) == [0, 1]
    (kept,) = (tmp_path / ".cache/growstage/textures").glob("*.npz")
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    assert prepared_by_two(tmp_path) == [0, 1]
    assert len(kept.read_bytes()) == len(whole)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == CLASSIC else [SLOW]) for name in ALL]
)
def test_images_are_bytes_and_only_ended_worlds_are_shown_anew(name):
    facts = ENVIRONMENTS[name]
    assert facts.forms[0] == "pixels"
    engine = facts.build(ENVS, "pixels")
    engine.set_task(EnvironmentTask(params={"max_timesteps": 4}))
    engine.seed(1)
    seen = np.array(engine.reset())
    assert seen.shape == (ENVS, *facts.observation_shape)
    assert seen.dtype == np.uint8
    assert seen.max() > 200
    assert 10 < seen.mean() < 200
    assert len({image.tobytes() for image in seen}) == ENVS
    lengths = []
    for step in range(1, 13):
        observations, rewards, done, _ = engine.step(np.zeros(ENVS, int))
        assert observations.dtype == np.uint8
        assert rewards.shape == (ENVS,)
        if done.any():
            before = np.array(observations)
            after = engine.renew(np.flatnonzero(done))
            same = [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
            assert same == ([True] * ENVS if facts.auto_reset else (~done).tolist())
            lengths.append(step)
    assert lengths
    assert lengths == list(range(lengths[0], 13, lengths[0]))


@SLOW
@pytest.mark.parametrize("name", [CLASSIC, "Craftax-Pixels-v1"])
def test_images_are_craftaxs_own_rounded(name):
    import jax

    from workers.rl.environments.craftax.engine import shared_environment

    engine = ENVIRONMENTS[name].build(ENVS, "pixels")
    engine.seed(2)
    engine.reset()
    rng = np.random.default_rng(0)
    picture = jax.jit(jax.vmap(shared_environment(name).get_obs))
    for _ in range(20):
        seen, _, done, _ = engine.step(rng.integers(0, engine.actions, ENVS))
        assert np.abs(np.asarray(picture(engine._state)) * 255.0 - seen).max() <= 0.5 + 1e-3
        if done.any():
            engine.renew(np.flatnonzero(done))


@pytest.mark.ray
@pytest.mark.parametrize("name", [CLASSIC, pytest.param("Craftax-Pixels-v1", marks=SLOW)])
def test_a_lane_learns_and_is_scored_on_images(name, tmp_path):
    model = ActorCritic.Config(encoder=16, hidden=(16, 16), max_experts=2)
    _, training = checked(
        TRAININGS,
        {
            "kind": "ppo",
            "num_envs": ENVS,
            "rollout": 16,
            "steps_per_stage": 128,
            "minibatches": 2,
            "eval_max_steps": 12,
        },
    )
    spec = LaneSpec(
        lane="pixels-s0",
        trainer="rl",
        method="finetune",
        seed=0,
        settings={
            "stream": {
                "kind": "craftax",
                "environment": name,
                "tasks": [{"name": "all", "params": {"max_timesteps": 10}}],
            },
            "model": asdict(model),
            "training": asdict(training),
            "method": {"kind": "finetune"},
        },
    )
    trainer = RLTrainer()
    trainer.open(spec, None)
    try:
        trainer.start(stage(spec))
        before = trainer._open_algorithm.export().model
        report = trainer.run_interval(1)
        after = trainer._open_algorithm.export().model
        ref = trainer.save(str(tmp_path / "c"), 1)
    finally:
        trainer.close()
    assert report.steps == 128
    assert report.metrics["episodes"] >= 2 * ENVS
    assert 1 <= report.metrics["episode_length"] <= 11
    assert any(not before[k].equal(after[k]) for k in before if k.startswith("encoder.stages"))
    scored = RLEvaluator().evaluate(spec, ref, tasks(spec))
    assert scored.figures["all"]["episodes"] == ENVS - 1  # and one for validation
