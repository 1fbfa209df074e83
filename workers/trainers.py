"""Trainers by name: who trains and who evaluates a lane, found without importing them.

The tables of streams, models and trainings that belong to several rooms are put together here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from workers.contract import (
    CheckpointRef,
    Evaluator,
    InputError,
    Json,
    LaneSpec,
    Memory,
    TaskSpec,
    Trainer,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerKind:
    """One way to train a stage: import paths of its parts and what they can do."""

    trainer: str
    evaluator: str
    exact: bool
    """Whether a rerun from the same checkpoint gives the same bits (on CPU)."""
    replicas: bool
    """Whether several workers can train one lane."""
    instead: str = ""
    """Setting that spreads one worker's training over processes, where several cannot."""
    memory: str = ""
    """Import path of what foretells a worker's memory; empty where nothing does."""
    signals: str = ""
    """Import path of what its intervals tell triggers: signal -> what it is, and its unit."""
    signals_on_request: str = ""
    """The same of signals that are measured only where a policy watches them."""
    starts: bool = False
    """Whether its lanes may begin with the model of another run."""
    tracing: str = ""
    """Import path of what follows its models' routers; empty where nothing does."""
    compressing: str = ""
    """Import path of what keeps a checkpoint's experts in few bits; empty where nothing does."""
    exporting: str = ""
    """Import path of what writes its models for other programs; empty where nothing does."""
    predicting: str = ""
    """Import path of what gives a checkpoint's model to predict with; empty where nothing does."""
    inference: str = ""
    """Import path of what answers with its models under an inference policy; empty where nothing
    does."""
    acts: bool = False
    """Whether it learns from what the model itself does, so that a token must be able to choose
    the same experts when it acts as when it learns."""


TRAINERS: dict[str, TrainerKind] = {
    "supervised": TrainerKind(
        trainer="workers.supervised.trainer:SupervisedTrainer",
        evaluator="workers.supervised.evaluator:SupervisedEvaluator",
        exact=True,
        replicas=True,
        memory="workers.supervised.memory:estimate",
        tracing="workers.supervised.tracing:trace_checkpoint",
        exporting="workers.supervised.exporting:export_checkpoint",
        predicting="workers.supervised.predicting:predictor",
        compressing="workers.supervised.compressing:compress_checkpoint",
        inference="workers.supervised.inference:infer",
        signals="workers.supervised.signals:SIGNALS",
        signals_on_request="workers.supervised.signals:ON_REQUEST",
        starts=True,
    ),
    "rl": TrainerKind(
        trainer="workers.rl.trainer:RLTrainer",
        evaluator="workers.rl.evaluator:RLEvaluator",
        exact=False,
        replicas=False,
        instead="training.num_learners",
        tracing="workers.rl.tracing:trace_checkpoint",
        inference="workers.rl.inference:infer",
        signals="workers.rl.signals:SIGNALS",
        acts=True,
    ),
}


class Signals(NamedTuple):
    """What a trainer's intervals tell: signal -> what it is, and its unit."""

    always: Mapping[str, str]
    on_request: Mapping[str, str]
    """Measured only where a policy watches them."""


def signals(kind: str) -> Signals:
    """The signals of lanes of this trainer."""
    paths = TRAINERS[kind].signals, TRAINERS[kind].signals_on_request
    return Signals(*(_load(path) if path else {} for path in paths))


def make_trainer(kind: str, *replicas: Any) -> Trainer:
    """A fresh trainer of this kind; imports its (heavy) room.

    ``replicas``: the worker's tie to the others (``supervised.data_parallel``), where it has some.
    """
    return _load(TRAINERS[kind].trainer)(*replicas)


def make_evaluator(kind: str) -> Evaluator:
    """A fresh evaluator of this kind; imports its (heavy) room."""
    return _load(TRAINERS[kind].evaluator)()


def streams() -> Mapping[str, type]:
    """STREAMS of every trainer."""
    from workers.rl import ENVIRONMENT_STREAMS
    from workers.streams import STREAMS

    return {**STREAMS, **ENVIRONMENT_STREAMS}


def trainings() -> Mapping[str, type]:
    """What ``[training]`` can be, by kind."""
    from workers.rl import TRAININGS
    from workers.supervised.settings import SupervisedTraining

    return {"supervised": SupervisedTraining, **TRAININGS}


def trace(
    lane: LaneSpec,
    checkpoint: CheckpointRef,
    task: TaskSpec,
    text: str | None,
    watch: Callable[[int, int, Callable[[], Any]], None] | None = None,
) -> dict[str, Any]:
    """Gate weights of a checkpoint's routers, token by token or step by step; see the trainers'.

    ``watch`` is told of every step of an episode: (step, most steps, what draws it).
    """
    found: dict[str, Any] = asdict(
        _load(TRAINERS[lane.trainer].tracing)(lane, checkpoint, task, text, watch)
    )
    return found


def predictor(lane: LaneSpec, checkpoint: CheckpointRef) -> Any:
    """A checkpoint's model, ready to predict; see ``supervised.predicting``.

    Raises InputError where models of the lane's trainer predict nothing.
    """
    path = TRAINERS[lane.trainer].predicting
    if not path:
        raise InputError(
            f"lane {lane.lane!r}: models of trainer {lane.trainer!r} act in environments; "
            "growstage trace plays an episode with one"
        )
    return _load(path)(lane, checkpoint)


def export(lane: LaneSpec, checkpoint: CheckpointRef, folder: Path) -> None:
    """Write a checkpoint's model for other programs.

    Raises InputError where the lane's trainer has no such form.
    """
    path = TRAINERS[lane.trainer].exporting
    if not path:
        raise InputError(
            f"lane {lane.lane!r}: models of trainer {lane.trainer!r} have no form outside "
            "growstage; its checkpoints are safetensors files and JSON"
        )
    _load(path)(lane, checkpoint, folder)


def infer(
    lane: LaneSpec, checkpoint: CheckpointRef, tasks: tuple[TaskSpec, ...], policy: Json
) -> dict[str, Any]:
    """A checkpoint's scores with an inference policy and without; see ``inference.running``.

    Raises InputError where the policy cannot answer for the lane's model.
    """
    path = TRAINERS[lane.trainer].inference
    if not path:
        raise InputError(
            f"lane {lane.lane!r}: models of trainer {lane.trainer!r} answer under no inference "
            "policy; take a lane of another trainer"
        )
    found: dict[str, Any] = asdict(_load(path)(lane, checkpoint, tasks, policy))
    return found


def compress(
    lane: LaneSpec, checkpoint: CheckpointRef, task: TaskSpec, uri: str, **how: Any
) -> dict[str, Any]:
    """A copy of the checkpoint at ``uri`` whose experts are kept in few bits, with its scores.

    ``how``: fields of ``workers.supervised.compressing.Compression``. Raises InputError where the
    lane's trainer has no such form.
    """
    kind = TRAINERS[lane.trainer]
    if not kind.compressing:
        raise InputError(
            f"lane {lane.lane!r}: checkpoints of trainer {lane.trainer!r} are not compressed"
        )
    made = _load(kind.compressing)(lane, checkpoint, task, uri, how)
    scores = {
        name: make_evaluator(lane.trainer).evaluate(lane, ref, (task,)).scores[0]
        for name, ref in (("score_before", checkpoint), ("score", made.checkpoint))
    }
    return {**asdict(made), **scores}


def kernels(lane: LaneSpec, device: str) -> str:
    """Which kernels answer the ops on ``device`` ("cpu" or "cuda"): ``compiled`` or ``reference``.

    Raises InputError where the lane demands compiled ones and they are missing.
    """
    import ops

    if lane.strict_ops:
        try:
            ops.require()
        except ops.OpsUnavailableError as error:
            raise InputError(f"strict_ops = true: {error}") from error
    return ops.backend(device)


def estimate_parameters(stream: Any, model: Any, experts: int | None) -> int | None:
    """Parameters of a model for this stream with so many experts, without allocating it.

    None where the model's config knows no experts; one that has ``experts`` has ``max_experts``.
    """
    from workers.models.estimate import estimate

    if experts is None:
        return None
    if model.max_experts is None:
        model = replace(model, experts=experts)  # the present number sets the widths
    return estimate(model, stream.input_shape, stream.outputs, experts).parameters


def estimate_memory(
    trainer: str,
    stream: Any,
    model: Any,
    training: Any,
    experts: int | None,
    workers: int,
    trains: Sequence[Sequence[str]],
    device: str,
    share: float,
) -> Memory | None:
    """Memory of each worker of a lane, without allocating it; None where the trainer cannot tell.

    ``trains``: sets of roles of which one at a time is trained. ``device``: "cpu" or "cuda".
    ``share``: of each layer's experts, those that masks let train.
    """
    path = TRAINERS[trainer].memory
    if not path:
        return None
    found: Memory = _load(path)(stream, model, training, experts, workers, trains, device, share)
    return found


def enlarges_batches(method: str) -> bool:
    """Whether the method (a name of METHODS or ``module:Class``) adds samples to a batch."""
    from workers.methods import METHODS, Method
    from workers.tables import lookup

    cls: Any = lookup(METHODS, method, "method.kind")
    return cls.extend_batch is not Method.extend_batch


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
