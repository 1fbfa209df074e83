"""PackNet: each task gets weights of its own inside one network, which never change again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.contract import LaneSettings, TaskSpec
from workers.methods.base import Method, MethodContext
from workers.methods.parameters import Known, PerParameter
from workers.models import MODELS
from workers.supervised.objectives import Objective
from workers.tables import Problem, construct

FREE = 0
"""Owner of entries that no task has; stage t's own are t + 1."""


class PackNet(Method):
    """Iterative pruning (Mallya and Lazebnik, arXiv 1711.05769, section 3).

    A stage first trains all weights that no earlier stage owns. Then, of each weight tensor, the
    share ``prune`` of smallest magnitude among those that learnt something becomes 0, and the
    last ``retrain`` of the stage's steps train the others, which the stage owns from then on and
    nothing changes any more. Later stages start from the zeros. Vectors (biases, norms) are not
    pruned: the stage in which an entry first learns owns it, mostly the first. Entries that never
    learnt anything, as those of other tasks' outputs, are 0 as well from then to the stage's end,
    and go on from what they were. Parameters that are frozen from the start belong to all tasks.

    In evaluations of a task its stage's weights and those of the stages before answer, all others
    being 0: bit for bit what the model was at the end of that stage. So the task of a sample must
    be known, and nothing else may change parameters: edits and running statistics are refused.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """How much is pruned, and how long what is left is trained."""

        kind: str = "packnet"
        prune: float = 0.75
        """Share of a stage's weights that it gives back; above 0 and below 1."""
        retrain: float = 0.33
        """Share of a stage's steps that come after pruning; 0 to below 1."""

        def __post_init__(self) -> None:
            if not 0.0 < self.prune < 1.0:
                raise ValueError(f"prune must be above 0 and below 1, got {self.prune}")
            if not 0.0 <= self.retrain < 1.0:
                raise ValueError(f"retrain must be at least 0 and below 1, got {self.retrain}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Tasks must be known, and nothing else may change the model."""
            found = []
            if not lane.task_known:
                what = "packnet answers a sample with its task's weights, and hides which task"
                found.append(Problem("kind", what, "set stream.task_known = true"))
            if lane.proposes:
                edits = ", ".join(sorted(lane.proposes))
                what = f"packnet with policies that change the model ({edits})"
                found.append(Problem("kind", what, "weights of a task must stay: take them out"))
            moving = running_statistics(lane)
            if moving:
                what = f"packnet with running statistics, which all tasks move ({moving[0]})"
                found.append(Problem("kind", what, "use a model without, such as an mlp"))
            return found

    config: PackNet.Config
    answers = True

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self.known = PerParameter()
        """``owner`` of each entry (int16), whether it ``learnt`` in this stage (bool) and, between
        pruning and the next stage, ``rest``: the value of entries that never learnt, else 0."""
        self._step = 0
        self._pruned = False
        self._before: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        """Inside a step: (parameter, entries that are not to move, value before)."""

    @torch.no_grad()
    def begin_stage(self, context: MethodContext) -> dict[str, str]:
        self._step, self._pruned = 0, False
        for name, parameter in context.model.named_parameters():
            if name not in self.known and parameter.requires_grad:
                owner = torch.zeros_like(parameter, dtype=torch.int16)
                self.known.put(name, parameter, {"owner": owner})
        for _, parameter, known in self.known:
            if "rest" in known:
                parameter.add_(known.pop("rest"))  # to zeros
            known["learnt"] = torch.zeros_like(parameter, dtype=torch.bool)
        free = sum(int((known["owner"] == FREE).sum()) for _, _, known in self.known)
        return {"free_weights": str(free)}

    @torch.no_grad()
    def after_backward(self, context: MethodContext) -> None:
        own = context.stage.index + 1
        for _, parameter, known in self.known:
            if parameter.grad is None:
                continue
            owner = known["owner"]
            fixed = owner != own if self._pruned else owner != FREE
            parameter.grad.masked_fill_(fixed, 0.0)
            if not self._pruned:
                known["learnt"] |= parameter.grad != 0
            self._before.append((parameter, fixed, parameter.detach().clone()))

    @torch.no_grad()
    def after_step(self, context: MethodContext) -> None:
        for parameter, fixed, before in self._before:
            parameter.copy_(torch.where(fixed, before, parameter))
        self._before = []
        self._step += 1
        assert context.steps is not None, "a stage on data has a number of steps"
        if self._step == max(1, round(context.steps * (1.0 - self.config.retrain))):
            self._prune(context.stage.index + 1)

    def answer(self, model: nn.Module, x: Tensor, task: TaskSpec | None) -> Tensor:
        assert task is not None, "refused when planned"
        weights = {
            name: torch.where(_open(known, task.index), parameter.detach(), 0.0)
            for name, parameter, known in self.known
        }
        outputs: Tensor = torch.func.functional_call(model, weights, (x,))
        return outputs

    def state(self) -> dict[str, Tensor]:
        progress = {"step": torch.tensor(self._step), "pruned": torch.tensor(self._pruned)}
        return {**self.known.state(), **progress}

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        self._step, self._pruned = int(state["step"]), bool(state["pruned"])
        self.known.load({n: v for n, v in state.items() if n not in ("step", "pruned")}, model)

    def _prune(self, own: int) -> None:
        """Give entries to the stage, and the rest back."""
        for _, parameter, known in self.known:
            kept = known["learnt"]
            if parameter.dim() > 1:
                kept = kept & ~smallest(parameter.detach(), kept, self.config.prune)
            known["owner"].masked_fill_(kept, own)
            free = known["owner"] == FREE
            known["rest"] = torch.where(free & ~known["learnt"], parameter.detach(), 0.0)
            parameter.masked_fill_(free, 0.0)
        self._pruned = True


def smallest(weight: Tensor, among: Tensor, share: float) -> Tensor:
    """The share of smallest magnitude among some entries of a tensor (bool of its shape), bool;
    of equal ones the first."""
    magnitude = torch.where(among, weight.abs().float(), torch.inf).flatten()
    order = magnitude.argsort(stable=True)
    found = torch.zeros_like(magnitude, dtype=torch.bool)
    found[order[: int(share * int(among.sum()))]] = True
    return found.view_as(weight)


def running_statistics(lane: LaneSettings) -> list[str]:
    """Buffers of the lane's model that training moves beside its parameters."""
    with torch.device("meta"):
        model = construct(MODELS, lane.sections["model"], lane.input_shape, lane.outputs, seed=0)
    kept = model.state_dict()
    return [name for name, b in model.named_buffers() if name in kept and b.is_floating_point()]


def _open(known: Known, stage: int) -> Tensor:
    """Entries that answer a stage's task: its own, and those of the stages before."""
    return (known["owner"] > FREE) & (known["owner"] <= stage + 1)
