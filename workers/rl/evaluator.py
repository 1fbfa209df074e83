"""Scores a checkpoint on the tasks of its stream: a forward pass and environments, no RLlib.

The score is the mean return as a share of the task's largest one. It is reported as it is: an
agent that only loses health can score slightly below zero.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from workers.contract import (
    CheckpointRef,
    EvaluationReport,
    LaneSpec,
    TaskSpec,
    derive_seed,
)
from workers.models.actor_critic import ActorCritic
from workers.moe.growth.surgery import ensure_arch
from workers.parsing import checked
from workers.rl import TRAINING
from workers.rl.building import build_model, build_stream, read, sample_actions
from workers.rl.dlpack import as_tensor
from workers.rl.environments.base import BatchedEnvironment, Episode, summary
from workers.rl.floor_routing import NOWHERE, Routing
from workers.supervised.building import pick_device


class RLEvaluator:
    """Plays the first episode of each environment, actions drawn from the policy."""

    def evaluate(
        self, lane: LaneSpec, checkpoint: CheckpointRef, tasks: tuple[TaskSpec, ...]
    ) -> EvaluationReport:
        """Scores in task order; the same checkpoint always gets the same ones (on CPU)."""
        begun = time.perf_counter()
        torch.set_num_threads(lane.threads)
        _, training = checked(TRAINING, lane.settings["training"])
        stream = build_stream(lane.settings["stream"], lane.seed)
        model = load_model(lane, checkpoint, stream).to(pick_device())
        scores, details, gates = [], {}, {}
        for task in tasks:
            engine = stream.environment(task, training.evaluated)
            engine.seed(derive_seed(lane.seed, "evaluate", task.name))
            routing = Routing(model)
            episodes = play(
                model,
                engine,
                episodes=training.eval_episodes or training.evaluated,
                max_steps=training.eval_max_steps,
                seed=derive_seed(lane.seed, "actions", task.name),
                routing=routing,
            )
            figures = summary(episodes, stream.largest_return(task))
            scores.append(figures["return_share"])
            details[task.name] = figures | routing.by_floor()
            gates[task.name] = routing.total()
        return EvaluationReport(
            scores=scores, figures=details, gate_weights=gates, seconds=time.perf_counter() - begun
        )


def load_model(lane: LaneSpec, checkpoint: CheckpointRef, stream: Any) -> ActorCritic:
    """The model of a checkpoint, in the shape it had grown to."""
    saved = read(checkpoint, lane)
    facts = stream.facts
    model = build_model(
        lane.settings["model"],
        facts.observation_shape,
        facts.actions,
        lane.seed,
        stream.layout,
    )
    ensure_arch(model, saved.state["arch"])
    model.load_state_dict(saved.tensors["model"])
    return model.eval()


@torch.inference_mode()
def play(
    model: ActorCritic,
    engine: BatchedEnvironment,
    *,
    episodes: int,
    max_steps: int,
    seed: int,
    routing: Routing | None = None,
) -> list[Episode]:
    """The first episode of each of the first ``episodes`` environments.

    An episode still running after ``max_steps`` counts as it stands. ``routing`` counts what the
    routers do in these episodes.
    """
    generator = torch.Generator().manual_seed(seed)
    observations, state = engine.reset(), model.initial_state(engine.num_envs)
    device = state.device
    total, length = np.zeros(engine.num_envs), np.zeros(engine.num_envs, np.int64)
    running = np.arange(engine.num_envs) < episodes
    played: list[Episode] = []
    for step in range(max_steps):
        seen = as_tensor(observations).to(device)
        if routing is None:
            logits, state = model.step(seen, state)
        else:
            floors = np.where(running, engine.floors(), NOWHERE)
            logits, state = routing.step(seen, state, floors)
        actions, _ = sample_actions(logits, generator)
        observations, rewards, done = engine.step(actions.numpy())
        total[running] += rewards[running]
        length[running] += 1
        last = step + 1 == max_steps
        for i in np.flatnonzero(running & (done | last)):
            played.append(Episode(int(i), float(total[i]), int(length[i]), engine.outcome(int(i))))
            running[i] = False
        if not running.any():
            break
    return played
