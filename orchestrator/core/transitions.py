"""One lane's state: how each answer, decision and failure changes it. Pure, like the controller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest

from orchestrator.config.file import LaneConfig
from orchestrator.core.events import (
    ApplyEdit,
    CheckpointSaved,
    Command,
    EditApplied,
    Evaluate,
    IntervalDone,
    RunInterval,
    SaveCheckpoint,
    StartStage,
    WorkFailed,
)
from orchestrator.core.state import LaneResources, LaneState, Specialisation
from orchestrator.policies.growth import Progress
from workers.contract import (
    Edit,
    Grow,
    IntervalReport,
    ModelShape,
    RefreshMask,
    SetPhase,
    StageSpec,
    derive_seed,
    digest,
)


def stage_spec(lane: LaneState, index: int, parent: str | None) -> StageSpec:
    """The stage that learns task ``index`` from the model of stage ``parent``."""
    settings = digest(lane.spec.settings)
    return StageSpec(
        index=index,
        task=lane.tasks[index],
        intervals=lane.intervals,
        seed=derive_seed(lane.spec.seed, "stage", index),
        parent=parent,
        settings_digest=settings,
    )


def fresh_lane(lane: LaneConfig) -> LaneState:
    experts = getattr(lane.model, "experts", 1)
    return LaneState(
        spec=lane.spec(),
        tasks=lane.tasks(),
        intervals=lane.training.intervals,
        resources=LaneResources(cpus=lane.cpus, gpus=lane.gpus),
        experts=experts,
        parent_experts=experts,
    )


def _enqueue(lane: LaneState, command: Command) -> LaneState:
    """Append a command with the lane's next sequence number."""
    numbered = replace(command, seq=lane.next_seq, attempt=lane.attempt)
    return replace(lane, queue=(*lane.queue, numbered), next_seq=lane.next_seq + 1)


def progress(
    lane: LaneState, n: int, report: IntervalReport | None, steps_before: int | None = None
) -> Progress:
    """What policies are told after interval ``n``; ``steps_before`` it, where that is known."""
    assert lane.stage is not None
    total = lane.steps_before + lane.steps
    return Progress(
        stage=lane.stage,
        stages=len(lane.tasks),
        n=n,
        steps=total,
        steps_before=total if steps_before is None else steps_before,
        experts=lane.experts,
        edits=lane.edits,
        report=report,
        mask=lane.special.mask,
        phase=lane.special.phase,
        counts=lane.special.counts,
        tokens=lane.special.tokens,
        layers=lane.special.layers,
    )


def with_work(lane: LaneState, n: int, edits: tuple[Edit, ...], checkpoint_every: int) -> LaneState:
    """After interval ``n``: the edits decided now, a checkpoint if due, then what comes next."""
    assert lane.stage is not None
    name = lane.spec.lane
    if n >= lane.stage.intervals:
        return _enqueue(lane, _save(lane, final=True))
    for edit in edits:
        lane = _enqueue(lane, ApplyEdit(lane=name, attempt=0, seq=0, edit=edit))
        lane = _edited(lane, edit)
    if n > 0 and checkpoint_every and n % checkpoint_every == 0:
        lane = _enqueue(lane, _save(lane, final=False))
    version = lane.special.version
    return _enqueue(lane, RunInterval(lane=name, attempt=0, seq=0, n=n + 1, mask_version=version))


def _save(lane: LaneState, final: bool) -> SaveCheckpoint:
    stage = "initial" if lane.stage is None else f"{lane.index:03d}-{lane.stage.id}"
    suffix = "" if final else f"-seq{lane.next_seq}"
    return SaveCheckpoint(
        lane=lane.spec.lane,
        attempt=0,
        seq=0,
        index=lane.index,
        final=final,
        name=f"{lane.spec.lane}/{stage}{suffix}",
    )


def with_next_stage(lane: LaneState) -> LaneState:
    """Queue the untrained checkpoint, the next stage's start, or nothing when all are learnt."""
    if lane.base is None:
        return lane if lane.queue else _enqueue(lane, _save(lane, final=True))
    index = lane.index + 1
    if index >= len(lane.tasks):
        return lane
    parent = lane.parent.stage if lane.parent is not None else None
    stage = stage_spec(lane, index, parent)
    special = lane.special
    if special.mask is None:
        special = replace(special, counts={}, tokens={})  # masks begin with this stage's tokens
    lane = replace(
        lane,
        special=special,
        stage=stage,
        index=index,
        edits=0,
        steps_before=lane.steps_before + lane.steps,
        steps=0,
        fingerprints={},
    )
    return _enqueue(lane, StartStage(lane=lane.spec.lane, attempt=0, seq=0, stage=stage))


def checkpointed(lane: LaneState, event: CheckpointSaved) -> LaneState:
    """A durable checkpoint: nothing before it need be issued again."""
    rest = tuple(command for command in lane.queue if command.seq > event.seq)
    lane = replace(lane, base=event.checkpoint, queue=rest)
    if event.final:
        lane = replace(
            lane,
            parent=event.checkpoint,
            parent_experts=lane.experts,
            parent_special=lane.special,
            retries={},
        )
    return lane


def skipped(lane: LaneState) -> LaneState:
    """Give the stage up: the next one starts from the last complete stage's model."""
    return replace(
        lane,
        base=lane.parent,
        queue=(),
        experts=lane.parent_experts,
        special=lane.parent_special,
        answered=lane.next_seq - 1,
        steps=0,
        retries={},
    )


def _edited(lane: LaneState, edit: Edit) -> LaneState:
    """The lane once the edit is decided."""
    lane = replace(lane, edits=lane.edits + 1)
    match edit:
        case Grow():
            return replace(lane, experts=edit.experts)
        case RefreshMask():
            special = replace(lane.special, mask=edit, counts={}, tokens={})
        case SetPhase():
            special = replace(lane.special, phase=edit)
    return replace(lane, special=special)


def shaped(lane: LaneState, shape: ModelShape) -> LaneState:
    layers = {name: layer.experts for name, layer in shape.layers.items()}
    return replace(lane, special=replace(lane.special, layers=layers))


def counted(lane: LaneState, report: IntervalReport) -> LaneState:
    """The interval's counts on top of those since the last mask; integers, so exact."""
    if not report.tokens:
        return lane
    special = lane.special
    counts = {
        layer: {**special.counts.get(layer, {}), **_sums(special, layer, rows)}
        for layer, rows in report.counts.items()
    }
    tokens = {
        domain: special.tokens.get(domain, 0) + number for domain, number in report.tokens.items()
    }
    special = replace(
        special, counts={**special.counts, **counts}, tokens={**special.tokens, **tokens}
    )
    return replace(lane, special=special)


def _sums(
    special: Specialisation, layer: str, rows: Mapping[str, list[int]]
) -> dict[str, list[int]]:
    known = special.counts.get(layer, {})
    return {
        domain: [a + b for a, b in zip_longest(known.get(domain, ()), row, fillvalue=0)]
        for domain, row in rows.items()
    }


def commanded_mask(lane: LaneState, event: IntervalDone) -> int:
    """Version of the masks that the answered interval was to be trained under."""
    found = [
        c.mask_version for c in lane.queue if c.seq == event.seq and isinstance(c, RunInterval)
    ]
    return found[0] if found else event.report.mask_version


def stale(event: IntervalDone, lane: LaneState) -> WorkFailed:
    """An interval trained under other masks than commanded."""
    return _refusal(
        event,
        lane,
        f"interval {event.report.n} was trained under mask version "
        f"{event.report.mask_version}, it had to be {commanded_mask(lane, event)}",
    )


def evaluation(lane: LaneState, index: int, event: CheckpointSaved) -> Evaluate:
    return Evaluate(spec=lane.spec, index=index, checkpoint=event.checkpoint, tasks=lane.tasks)


def contradicts(lane: LaneState, event: EditApplied) -> bool:
    """A rerun of an edit that gives another fingerprint than the first time."""
    known = lane.fingerprints.get(event.seq)
    return lane.spec.exact and known is not None and known != event.report.fingerprint


def diverged(event: EditApplied, lane: LaneState) -> WorkFailed:
    """An edit whose rerun gave another model than the first time."""
    return _refusal(
        event,
        lane,
        f"edit {event.edit.id}: fingerprint {event.report.fingerprint}, before it was "
        f"{lane.fingerprints[event.seq]}",
    )


def _refusal(event: IntervalDone | EditApplied, lane: LaneState, message: str) -> WorkFailed:
    return WorkFailed(
        at=event.at,
        lane=event.lane,
        attempt=event.attempt,
        kind="diverged",
        index=lane.index,
        message=message,
    )
