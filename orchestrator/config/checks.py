"""How a lane's sections and policies must fit together, found before anything runs.

What each config asks of the others it says itself (``Config.problems(lane)``); here all are asked.
What rests on other sections' fit is looked at once these do: the first group of checks with a
mismatch is told alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.config.run import LaneConfig
from orchestrator.config.sections import SECTIONS
from orchestrator.policies import Policy
from workers import trainers
from workers.contract import Checked, LaneSettings, TaskSpec, WithExperts, domains_of, nested
from workers.tables import Problem, construct, lookup


def trainer_of(sections: Mapping[str, Any], seed: int) -> str:
    """What trains the lanes of these sections: the stream says it."""
    found: str = construct(trainers.streams(), sections["stream"], seed).trainer
    return found


def mismatches(lane: LaneConfig) -> list[Problem]:
    """Everything about the lane that no single section can check; paths begin at the lane."""
    found = [*_trainable(lane), *lane.stream().problems(), *_workers(lane)]
    if not found and _task_known(lane):
        found = lane.stream().problems_of_known_tasks()
    if found:
        return found
    settings = settings_of(lane)
    return [*_unscored(lane), *_asked(settings)] or _experts(settings)


def settings_of(lane: LaneConfig) -> LaneSettings:
    """The lane as its configs may look at it."""
    tasks, policies = lane.tasks(), list(lane.live_policies().values())
    stream = lane.stream()
    return LaneSettings(
        sections=lane.sections,
        policies=lane.policies,
        tasks=tasks,
        domains=domains_of(tasks),
        trainer=lane.trainer,
        acts=trainers.TRAINERS[lane.trainer].acts,
        workers=lane.workers,
        intervals=lane.intervals,
        experts=lane.experts,
        final_experts=final_experts(lane, policies),
        max_experts=lane.max_experts,
        proposes=frozenset(kind for policy in policies for kind in policy.proposes),
        input_shape=tuple(stream.input_shape),
        outputs=stream.outputs,
        tokens=stream.needs == "tokens",
        labels=stream.needs == "labels" and stream.objective.labels,
        task_known=_task_known(lane),
        domain_given=_domain_given(lane, tasks),
        mixes=_class("method", lane).mixes,
        needs=stream.needs,
        validates=lane.validates(),
        ordered=getattr(stream, "ordered", False),
        begins_trained=lane.start is not None,
    )


def _task_known(lane: LaneConfig) -> bool:
    return getattr(lane.sections["stream"], "task_known", False)


def _domain_given(lane: LaneConfig, tasks: Sequence[TaskSpec]) -> bool:
    """Whether each sample's domain is told: a task's, where that is known and has one only."""
    of_tasks = _task_known(lane) and all(len(task.domains) == 1 for task in tasks)
    return of_tasks or getattr(lane.sections["stream"], "domain_given", False)


def _trainable(lane: LaneConfig) -> list[Problem]:
    """What the stream's trainer needs of the other sections."""
    from workers.models import capability_problem

    stream = lane.sections["stream"].kind
    problems = []
    training = _class("training", lane)
    if training.trainer != lane.trainer:
        problems.append(
            Problem(
                "training.kind",
                f"got {lane.sections['training'].kind!r} with stream {stream!r}",
                f"it is for trainer {training.trainer}, the stream is of trainer {lane.trainer}: "
                f"give a training or a stream for the other",
            )
        )
    needed = lane.stream().needs
    unable = capability_problem(lane.sections["model"].kind, needed, "model.kind")
    problems += [unable] if unable is not None else []
    method = _class("method", lane)
    if lane.trainer not in method.works_with:
        problems.append(
            Problem(
                "method.kind",
                f"got {lane.sections['method'].kind!r}",
                "it has hooks that only these trainers call: "
                f"{', '.join(sorted(method.works_with))}; the lane's is {lane.trainer}: use method "
                "finetune",
            )
        )
    return [*problems, *_afresh(lane, method)]


def _afresh(lane: LaneConfig, method: Any) -> list[Problem]:
    """What would be lost where each stage forgets the model."""
    if not method.starts_afresh:
        return []
    kind = lane.sections["method"].kind
    found = f"method {kind!r} draws the model anew at each stage"
    edits = [name for name, policy in lane.live_policies().items() if policy.proposes]
    problems = [
        Problem(f"policies.{name}", found, "take out what changes the model") for name in edits
    ]
    if lane.start is not None:
        problems.append(Problem("start", found, "leave out the model to begin with"))
    return problems


def _unscored(lane: LaneConfig) -> list[Problem]:
    """Policies that wait for scores which nobody gives."""
    waiting = [name for name, policy in lane.live_policies().items() if policy.uses_scores]
    if waiting and not lane.stages_are_tasks:
        found = "waits for scores of the tasks, which this stream keeps from policies"
        allowed = "take it out, or give the stream's tasks one stage each"
        return [Problem(f"policies.{name}", found, allowed) for name in waiting]
    if waiting and lane.evaluation.kind != "all":
        found = f"got {lane.evaluation.kind!r}"
        allowed = f"policies {', '.join(waiting)} wait for scores on every task: set it to all"
        return [Problem("evaluation.kind", found, allowed)]
    if not waiting or lane.validates():
        return []
    allowed = f"set {_class('training', lane).validation_setting} above 0"
    found = "waits for validation scores, and the tasks have no validation part"
    return [Problem(f"policies.{name}", found, allowed) for name in waiting]


def _asked(settings: LaneSettings) -> Iterator[Problem]:
    """Every config of the lane is asked what does not fit it, those inside others too."""
    named = {**settings.sections}
    named |= {f"policies.{name}": config for name, config in settings.policies.items()}
    for name, config in named.items():
        for path, part in nested(config, name):
            if isinstance(part, Checked):
                for item in part.problems(settings):
                    yield replace(item, path=f"{path}.{item.path}")


def _workers(lane: LaneConfig) -> list[Problem]:
    """Why the lane cannot be trained by so many workers; what the training says is asked there."""
    kind, workers = trainers.TRAINERS[lane.trainer], lane.workers
    if workers < 1:
        return [Problem("workers", f"got {workers}", "must be at least 1")]
    if workers > 1 and not kind.replicas:
        allowed = f"lanes of trainer {lane.trainer} train in several processes by {kind.instead}"
        return [Problem("workers", f"got {workers}", f"{allowed}: set that and leave workers out")]
    if workers > 1 and lane.resources.gpus % 1:
        found = f"got {lane.resources.gpus:g} with workers = {workers}"
        allowed = "workers that train together cannot share a GPU: give each one whole, or none"
        return [Problem("resources.gpus", found, allowed)]
    return []


def _experts(settings: LaneSettings) -> list[Problem]:
    """Growth and model fit: widths are fixed by the final number of experts."""
    start, final, limit = settings.experts, settings.final_experts, settings.max_experts
    if start is None:
        return []
    if start < 1 or (limit is not None and limit < start):
        found = f"experts = {start}, max_experts = {limit}"
        return [Problem("model", found, "need 1 <= experts <= max_experts")]
    if final is not None and limit is not None and final > limit:
        allowed = f"model.max_experts = {limit}: raise it, or set max_experts of the policy"
        return [Problem("policies", f"would grow to {final} experts", allowed)]
    return []


def final_experts(lane: LaneConfig, policies: Sequence[Policy]) -> int | None:
    """Experts at the stream's end, all policies counted; None where it cannot be known."""
    experts, stages = lane.experts, len(lane.tasks())
    steps = lane.sections["training"].steps_per_stage
    for policy in policies:
        if experts is not None:
            experts = policy.final_experts(experts, stages, steps)
    return experts


def with_final_experts(lane: LaneConfig) -> LaneConfig:
    """Fill in ``max_experts`` of model and policies from each other, so that widths are known."""
    policies, model = lane.live_policies(), lane.sections["model"]
    if not isinstance(model, WithExperts):
        return lane
    final = final_experts(lane, list(policies.values()))
    limit = model.max_experts if model.max_experts is not None else final
    if all(policy.keeps_widths for policy in policies.values()):
        model = replace(lane.sections["model"], max_experts=limit)
    bounded = {name: policy.bounded(limit) for name, policy in policies.items()}
    return replace(lane, sections={**lane.sections, "model": model}, policies=bounded)


def _class(section: str, lane: LaneConfig) -> Any:
    """The class behind a section's kind."""
    return lookup(SECTIONS[section].table(), lane.sections[section].kind, section)
