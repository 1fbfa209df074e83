"""One policy beside the plain model: choose on validation parts, report test parts.

Knows no trainer; a ``Scorer`` plays or measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from workers.contract import InputError, Json, TaskSpec
from workers.inference import INFERENCE
from workers.inference.base import InferencePolicy, Subject
from workers.inference.plain import Plain
from workers.parsing import checked

Part = Literal["validation", "test"]

Scorer = Callable[[InferencePolicy, TaskSpec, Part], "dict[str, float] | None"]
"""``score`` and further figures of a task's part under a policy; None where it has no such part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a policy came to, task by task in their order."""

    policy: Json
    """Its settings."""
    tasks: list[str]
    plain: list[float]
    """Scores of the model as it was trained, on the test parts."""
    scores: list[float]
    """Scores under the policy, on the test parts."""
    validation: list[float] = field(default_factory=list)
    """Of the policy's choice, on the validation parts; empty where nothing was chosen."""
    choices: dict[str, list[float]] = field(default_factory=dict)
    """Choice -> scores on the validation parts."""
    chosen: list[int] = field(default_factory=list)
    """What answered each task; empty where there was no choice."""
    plain_figures: list[dict[str, float]] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)
    """Further figures of each test part."""
    told: dict[str, float] = field(default_factory=dict)
    """What the policy tells about itself."""


def made(settings: Mapping[str, Json]) -> InferencePolicy:
    """The policy of checked settings."""
    cls, config = checked(INFERENCE, settings)
    policy: InferencePolicy = cls(config)
    return policy


def compared(policy: InferencePolicy, subject: Subject, score: Scorer) -> Comparison:
    """Both on every task. Raises InputError where the policy cannot answer for the subject."""
    plain = Plain(Plain.Config())
    for one in (plain, policy):
        one.check(subject)
        one.prepare(subject)
    before = [_scored(score(plain, task, "test")) for task in subject.tasks]
    curve = _curve(policy, subject, score)
    chosen = _best(curve, policy.by_task)
    after = []
    for place, task in enumerate(subject.tasks):
        if chosen:
            policy.choose(chosen[place])
        after.append(_scored(score(policy, task, "test")))
    return Comparison(
        policy=asdict(policy.config),
        tasks=[task.name for task in subject.tasks],
        plain=[found.pop("score") for found in before],
        scores=[found.pop("score") for found in after],
        validation=[curve[choice][place] for place, choice in enumerate(chosen)],
        choices={str(choice): row for choice, row in curve.items()},
        chosen=chosen,
        plain_figures=before,
        figures=after,
        told=policy.figures(),
    )


def _curve(policy: InferencePolicy, subject: Subject, score: Scorer) -> dict[int, list[float]]:
    """Choice -> score on each task's validation part."""
    curve: dict[int, list[float]] = {}
    for choice in policy.choices:
        policy.choose(choice)
        row = [score(policy, task, "validation") for task in subject.tasks]
        without = [t.name for t, found in zip(subject.tasks, row, strict=True) if found is None]
        if without:
            raise InputError(
                f"policy {policy.config.kind!r} chooses on validation parts, and {without[0]!r} "
                "has none; give the policy what it would choose, or the run a validation part"
            )
        curve[choice] = [_scored(found)["score"] for found in row]
    return curve


def _best(curve: Mapping[int, list[float]], by_task: bool) -> list[int]:
    """The choice for each task: the first of those that are best there, or best on the whole."""
    if not curve:
        return []
    tasks = len(next(iter(curve.values())))
    if by_task:
        return [max(curve, key=lambda choice: curve[choice][place]) for place in range(tasks)]
    return [max(curve, key=lambda choice: sum(curve[choice]))] * tasks


def _scored(found: dict[str, float] | None) -> dict[str, float]:
    assert found is not None, "every task has a test part"
    return dict(found)
