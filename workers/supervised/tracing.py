"""Which experts a passage's tokens take in each layer of a checkpoint's model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from workers.contract import CheckpointRef, InputError, LaneSpec, TaskSpec
from workers.moe.routed import observing
from workers.supervised.building import build_stream
from workers.supervised.restoring import restored


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens of one text, and the gate weights [T][experts] of each layer."""

    tokens: list[str]
    gates: dict[str, list[list[float]]]


@torch.inference_mode()
def trace_checkpoint(
    lane: LaneSpec,
    checkpoint: CheckpointRef,
    task: TaskSpec,
    text: str | None = None,
    watch: Any = None,
) -> Passage:
    """``text``, or the first test window of the task, through the model of a checkpoint.

    Of a longer text the first window is taken; it is read at once, and ``watch`` is told nothing.
    Raises InputError where the lane learns no tokens,
    or its model routes none.
    """
    torch.set_num_threads(lane.threads)
    stream = build_stream(lane)
    if stream.objective.needs != "tokens":
        raise InputError(
            f"lane {lane.lane!r} learns from whole samples; trace lanes of agents or of text"
        )
    test = stream.held_out(task)["test"]
    x_S = test.x[:1][0] if text is None else stream.tokens(text)[: stream.input_shape[0]]
    if not len(x_S):
        raise InputError("--text: got no token; give some text")
    model = restored(lane, stream, checkpoint)
    device = next(model.parameters()).device
    with observing(model, lambda routed: routed.weights.double().cpu()) as seen:
        model(x_S.unsqueeze(0).to(device))
    gates = {name: passes[0].tolist() for name, passes in seen.items() if passes[0].shape[1] > 1}
    if not gates:
        raise InputError(
            f"lane {lane.lane!r}: this model has no router to follow; take a lane and stage whose "
            "layers are mixtures of two or more experts"
        )
    return Passage(stream.readable(x_S), gates)
