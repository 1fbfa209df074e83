"""Gate weights of a checkpoint's routers, step by step through one episode."""

from __future__ import annotations

import torch

from workers.contract import CheckpointRef, InputError, LaneSpec, TaskSpec, derive_seed
from workers.parsing import checked
from workers.rl import TRAININGS
from workers.rl.building import build_stream
from workers.rl.evaluator import load_model
from workers.rl.floor_routing import Trace, Watch, trace


def trace_checkpoint(
    lane: LaneSpec,
    checkpoint: CheckpointRef,
    task: TaskSpec,
    text: str | None = None,
    watch: Watch | None = None,
) -> Trace:
    """One episode of ``task`` as the agent of ``checkpoint`` plays it; the same one every time.
    ``watch`` is told of every step.

    Raises InputError where the agent has no router to follow, or is given a text.
    """
    if text is not None:
        raise InputError(f"lane {lane.lane!r} is an agent's and reads no text; leave --text out")
    torch.set_num_threads(lane.threads)
    _, training = checked(TRAININGS, lane.settings["training"])
    stream = build_stream(lane.settings["stream"], lane.seed)
    model = load_model(lane, checkpoint, stream)
    engine = stream.environment(task, 1)
    engine.seed(derive_seed(lane.seed, "trace", task.name))
    seed = derive_seed(lane.seed, "trace actions", task.name)
    found = trace(model, engine, max_steps=training.eval_max_steps, seed=seed, watch=watch)
    if not found.gates:
        raise InputError(
            f"lane {lane.lane!r}: this agent has no router to follow; take a lane and stage whose "
            "layers are mixtures of two or more experts"
        )
    return found
