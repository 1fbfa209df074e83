"""The adaptive router: a linear router at first, then a two-layer one distilled from it.

DES-MoE (arXiv 2509.16882), section 3.1 and equations 1 to 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import InputError, Json, LaneSettings
from workers.moe.losses.base import Loss
from workers.moe.routed import Routed
from workers.moe.routers.base import RouterContext
from workers.moe.routers.linear import LinearRouter
from workers.moe.seeding import seeded
from workers.tables import Problem

WIDTH = 4
"""Hidden units per input (equation 1)."""


class AdaptiveRouter(LinearRouter):
    """Linear until an edit has it adapt, then W2 GELU(W1 x + b1) + b2 with the linear as teacher.

    ``exact`` starts from GELU(z) - GELU(-z) = z, so that the logits stay as they were and half of
    the hidden units are free; ``residual`` adds a two-layer router that starts at 0 to the frozen
    linear one; ``literal`` tiles the linear weights behind a random first layer, as the paper's
    words say, and does not keep the logits. ``rows`` and ``biases`` are the linear router's, under
    the names that they have in one: until it adapts, nothing tells the two apart.
    """

    adapts: ClassVar[bool] = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of an adaptive router."""

        kind: str = "adaptive"
        start: Literal["exact", "residual", "literal"] = "exact"
        """How the second router starts from the first."""
        temperature: float = 0.7
        """tau of the distillation (equation 2)."""
        distil: bool = True
        """Pull towards the teacher, less and less as the stage goes on (equation 4)."""
        bias: bool = True
        """Whether the linear router has a bias for each expert."""

        def __post_init__(self) -> None:
            if self.temperature <= 0:
                raise ValueError(f"temperature must be above 0, got {self.temperature}")

        def before_edits(self) -> Any:
            """Until the edit it is a linear router; what a subclass is, it must say itself."""
            return LinearRouter.Config() if self.kind == "adaptive" else self

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Without the edit that has it take over it would stay linear and say nothing."""
            if "adapt_router" in lane.proposes:
                return []
            allowed = (
                'no policy has it take over: add [policies.router] kind = "adapt_router" before '
                "the policies of phases and masks, or use router linear"
            )
            return [Problem("kind", "an adaptive router stays linear", allowed)]

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__(LinearRouter.Config(bias=config.bias), inputs)
        self.config = config
        self.second_rows, self.second_biases = nn.ParameterDict(), nn.ParameterDict()
        self.up: nn.Linear | None = None
        self.teacher_experts: list[int] = []
        """Experts that the teacher knows: those there when it was frozen, and their copies."""

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E]; the task's gradient of the router's own parameters is scaled by 1 - λ."""
        if self.up is None:
            return super().forward(x_TD, context)
        training = self.training and torch.is_grad_enabled() and self.config.distil
        scale = 1.0 - distillation_weight(context.progress) if training else 1.0
        logits_TE = self._second(x_TD, scale)
        if self.config.start == "residual":
            return logits_TE + super().forward(x_TD, context)
        return self.shift(logits_TE, context)

    def losses(self) -> tuple[Loss, ...]:
        """The distillation, while there is a teacher and something of the router learns."""
        if self.up is None or not self.config.distil or not self.up.weight.requires_grad:
            return ()
        return (Distillation(Distillation.Config()),)

    def divergence(self, x_TD: Tensor) -> Tensor:
        """The divergence of equation 2, without its weight."""
        known = [i for i, name in enumerate(self.rows) if int(name) in self.teacher_experts]
        tau = self.config.temperature
        with torch.no_grad():
            teacher_TE = super().forward(x_TD, RouterContext())
        student_TE = self._second(x_TD, 1.0)
        # both sides as they act, the offsets of suppressed experts included
        held = teacher_TE if self.config.start == "residual" else self.offset
        student_TE = student_TE + held
        wanted_TE = functional.log_softmax(teacher_TE[:, known] / tau, -1)
        found_TE = functional.log_softmax(student_TE[:, known] / tau, -1)
        return functional.kl_div(found_TE, wanted_TE, reduction="batchmean", log_target=True)

    def adapt(self, seed: int) -> None:
        """Freeze the linear router as teacher and start the two-layer one from it."""
        if self.up is not None:
            return
        with seeded(seed):
            self._build()
            assert self.up is not None
            nn.init.kaiming_uniform_(self.up.weight, nonlinearity="relu")
            nn.init.zeros_(self.up.bias)
        self.teacher_experts = [int(name) for name in self.rows]
        self._start()
        self._freeze_teacher()

    @torch.no_grad()
    def _start(self) -> None:
        assert self.up is not None
        size = self.inputs
        if self.config.start == "exact":
            one = torch.eye(size, dtype=self.up.weight.dtype, device=self.up.weight.device)
            self.up.weight[: 2 * size] = torch.cat([one, -one])
        for name, row in self.rows.items():
            if self.config.start == "exact":
                self.second_rows[name][: 2 * size] = torch.cat([row, -row])
            if self.config.start == "literal":
                self.second_rows[name].copy_((row / WIDTH).repeat(WIDTH))
            if self.config.start != "residual":
                self.second_biases[name].copy_(self.bias(int(name)))

    def _build(self) -> None:
        """The second router's parameters, for every expert there is; values are set by others."""
        like = self.like
        self.up = nn.Linear(self.inputs, WIDTH * self.inputs).to(like.device, like.dtype)
        for name in self.rows:
            self._second_row(name)

    def _second_row(self, name: str) -> None:
        like = self.like
        self.second_rows[name] = nn.Parameter(like.new_zeros(WIDTH * self.inputs))
        self.second_biases[name] = nn.Parameter(like.new_zeros(()))

    def _second(self, x_TD: Tensor, scale: float) -> Tensor:
        assert self.up is not None
        first = [self.up.weight, self.up.bias]
        rows, biases = list(self.second_rows.values()), list(self.second_biases.values())
        second = [torch.stack(rows), torch.stack(biases)]
        if scale != 1.0:
            first = [_Scaled.apply(tensor, scale) for tensor in first]
            second = [_Scaled.apply(tensor, scale) for tensor in second]
        hidden_TH = functional.gelu(functional.linear(x_TD, *first))
        return functional.linear(hidden_TH, *second)

    # ------------------------------------------------------------ rows

    def as_linear(self) -> tuple[Tensor, Tensor | None]:
        """See ``Router.as_linear``: what it is until it adapts."""
        if self.up is None:
            return super().as_linear()
        raise InputError(
            "an adaptive router that has adapted has two layers, for which other libraries have no "
            "place; use router linear, or take a stage before it adapts"
        )

    def add(self, expert: int) -> None:
        """A new row; after adapting it is drawn small and the teacher does not know it."""
        super().add(expert)
        if self.up is None:
            return
        self._second_row(str(expert))
        if self.config.start != "residual":
            bound = (WIDTH * self.inputs) ** -0.5
            drawn = torch.empty(WIDTH * self.inputs).uniform_(-bound, bound)
            self.second_rows[str(expert)].data.copy_(drawn)
        self._freeze_teacher()

    def remove(self, expert: int) -> None:
        """Forget the rows of ``expert``."""
        super().remove(expert)
        self.teacher_experts = [known for known in self.teacher_experts if known != expert]
        if self.up is not None:
            del self.second_rows[str(expert)], self.second_biases[str(expert)]

    @torch.no_grad()
    def split(self, parent: int, child: int, amount: float) -> None:
        """Both routers treat the copy alike, so that they stay as far apart as they were."""
        super().split(parent, child, amount)
        if self.up is None:
            return
        if self._shifts_own:
            self.second_biases[str(parent)].sub_(amount)
        self.second_rows[str(child)].copy_(self.second_rows[str(parent)])
        self.second_biases[str(child)].copy_(self.second_biases[str(parent)])
        if parent in self.teacher_experts and child not in self.teacher_experts:
            self.teacher_experts.append(child)
        self._freeze_teacher()

    @torch.no_grad()
    def shift_bias(self, expert: int, amount: float) -> None:
        """Add ``amount`` to the expert's bias, in both routers."""
        super().shift_bias(expert, amount)
        if self.up is not None and self._shifts_own:
            self.second_biases[str(expert)].add_(amount)

    @property
    def _shifts_own(self) -> bool:
        """Whether a shift must reach the second router too: else the linear one's reaches both."""
        return self.config.start != "residual" and self.biased

    def parameters_of(self, expert: int) -> list[nn.Parameter]:
        """The rows of ``expert`` in both routers, and its biases."""
        first = super().parameters_of(expert)
        if self.up is None:
            return first
        return [*first, self.second_rows[str(expert)], self.second_biases[str(expert)]]

    def aim(self, expert: int, features_D: Tensor) -> None:
        """See ``Router.aim``; raises InputError once it has adapted."""
        if self.up is not None:
            raise InputError(
                "an adaptive router that has adapted cannot be aimed at features; use router "
                "cosine or linear, or another initialiser"
            )
        super().aim(expert, features_D)

    # ------------------------------------------------------------ phases and architecture

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """All but the teacher."""
        if self.up is None:
            yield from self._first()
            return
        second = (*self.second_rows.values(), *self.second_biases.values())
        yield from (*self.up.parameters(), *second)
        if self.config.start == "residual":
            for name in self.rows:
                if int(name) not in self.teacher_experts:
                    yield from super().parameters_of(int(name))

    def _first(self) -> tuple[nn.Parameter, ...]:
        """Parameters of the linear router."""
        return (*self.rows.values(), *self.biases.values())

    def _freeze_teacher(self) -> None:
        trainable = {id(parameter) for parameter in self.trainable_parameters()}
        for parameter in self._first():
            if id(parameter) not in trainable:
                parameter.requires_grad_(False)
                parameter.grad = None

    def arch(self) -> Json:
        """Whom the teacher knows; None until it has adapted."""
        return None if self.up is None else {"teacher_experts": list(self.teacher_experts)}

    def ensure_arch(self, arch: Json) -> None:
        """Adapt, or go back to the linear router; values are loaded afterwards."""
        if arch is not None and self.up is None:
            with seeded(0):
                self._build()
        if arch is None and self.up is not None:
            self.up = None
            self.second_rows, self.second_biases = nn.ParameterDict(), nn.ParameterDict()
            self.requires_grad_(True)
        self.teacher_experts = [] if arch is None else list(arch["teacher_experts"])
        if self.up is not None:
            self._freeze_teacher()


def distillation_weight(progress: float) -> float:
    """``lambda(a) = max(0, 1 - a)``, a = share of the stage done (equation 4)."""
    return max(0.0, 1.0 - progress)


class Distillation(Loss):
    """lambda KL(softmax(teacher / tau) || softmax(router / tau)), mean over tokens (equation 2).

    Over the experts that the teacher knows. Reaches the router's own parameters only. An adaptive
    router brings it along.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Loss.Config):
        """There is nothing to set: tau is the router's, lambda follows the stage's progress."""

        kind: str = "distillation"

    def loss(self, routed: Routed) -> Tensor:
        """See ``Loss.loss``."""
        divergence: Tensor = routed.router.divergence(routed.x.detach())
        return distillation_weight(routed.progress) * divergence


class _Scaled(torch.autograd.Function):
    """The same value, its gradient scaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.scale, None
