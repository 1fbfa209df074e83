"""Learning without forgetting: the model of the last stage answers beside the learning one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import LaneSettings, WithRoutedLayers
from workers.methods.base import Method, MethodContext
from workers.methods.memory import classes_of
from workers.methods.teacher import Teacher
from workers.moe.routers import ROUTERS
from workers.supervised.objectives import Objective
from workers.tables import Problem, lookup

TEACHER = "teacher/"


class LwF(Method):
    """Learning without forgetting (Li and Hoiem, arXiv 1606.09282, equations 1 to 4).

    ``L + weight * sum_h L_old,h``, ``L_old,h = -mean_x sum_c q_c log p_c`` over the classes c of
    an old head h; q and p are the softmax of ``logits / temperature`` over the head, of the model
    as it was at the end of the last stage and as it is now, on the task's own samples. No sample
    is remembered. The heads are the classes of each earlier task where tasks are known
    (``stream.task_known``), else one head of all classes seen before.

    The old model answers in evaluation mode, and has the shape that it had then: what grows
    afterwards is not in it. It is stored with the method's state.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """Weight and temperature of the distillation."""

        kind: str = "lwf"
        weight: float = 1.0
        """lambda_o: weight of the distillation."""
        temperature: float = 2.0
        """T: logits are divided by it."""

        def __post_init__(self) -> None:
            for name in ("weight", "temperature"):
                if not getattr(self, name) > 0.0:
                    raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """The old model's answers must be probabilities of classes, asked for by inputs."""
            found = []
            if not lane.labels:
                what = "lwf distils probabilities of classes, and the stream has none"
                found.append(Problem("kind", what, "use a stream with objective classification"))
            if any(_needs_domain(part) for part in lane.parts("model")):
                what = "lwf asks the old model without telling it domains, which its router needs"
                found.append(Problem("kind", what, "use a router that goes by features alone"))
            return found

    config: LwF.Config
    plain_start = True

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self._teacher: Teacher | None = None
        self._seen: list[int] = []

    def loss(self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        assert self.objective is not None, "the lane learns labels"
        outputs = model(x)
        loss = self.objective.loss(outputs, y)
        if self._teacher is None:
            return loss
        return loss + self.config.weight * self.distillation(outputs, self._teacher(x))

    def distillation(self, outputs: Tensor, told: Tensor) -> Tensor:
        """``sum_h L_old,h`` of logits [B, C], now and of the old model."""
        losses = []
        for head in self._heads():
            target = (told[:, head] / self.config.temperature).softmax(-1)
            log_p = (outputs[:, head] / self.config.temperature).log_softmax(-1)
            losses.append(-(target * log_p).sum(-1).mean())
        return torch.stack(losses).sum()

    def end_stage(self, context: MethodContext) -> None:
        assert context.data is not None, "lwf learns from data"
        labels = classes_of(self.objective, context.data.train.y).unique()
        self._seen = sorted({*self._seen, *labels.tolist()})
        self._teacher = Teacher.of(context.model)

    def state(self) -> dict[str, Tensor]:
        if self._teacher is None:
            return {}
        teacher = {f"{TEACHER}{name}": tensor for name, tensor in self._teacher.state().items()}
        return {"seen": torch.tensor(self._seen), **teacher}

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        if not state:
            return
        self._seen = state["seen"].tolist()
        teacher = {n.removeprefix(TEACHER): t for n, t in state.items() if n.startswith(TEACHER)}
        self._teacher = Teacher.restored(model, teacher)

    def _heads(self) -> list[list[int]]:
        """Classes of each old head."""
        assert self.objective is not None, "the lane learns labels"
        task_C = self.objective.task_of_label
        if task_C is None:
            return [self._seen]
        heads: dict[int, list[int]] = {}
        for label in self._seen:
            heads.setdefault(int(task_C[label]), []).append(label)
        return list(heads.values())


def _needs_domain(part: Any) -> bool:
    """Whether a config is of layers whose router must be told domains."""
    if not isinstance(part, WithRoutedLayers):
        return False
    return bool(getattr(lookup(ROUTERS, part.router.kind, "router"), "needs_domain", False))
