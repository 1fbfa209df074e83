"""ExpertBank: router + selector + experts by id, and all that growing them needs.

Knows neither what an expert is made of nor which model it is part of.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import InputError, Json, LayerShape, derive_seed
from workers.edits.set_phase import Role
from workers.moe.domains.masks import DomainGuide, Mask
from workers.moe.growth.growable import (
    Growable,
    Grown,
    Growth,
    Routed,
    count_parameters,
    like,
    with_zero,
)
from workers.moe.growth.schedules import Place
from workers.moe.routers import ROUTERS
from workers.moe.seeding import seeded
from workers.moe.selectors import SELECTORS
from workers.moe.selectors.base import largest
from workers.tables import choice, construct


@dataclass(frozen=True, slots=True)
class Birth:
    """Where an expert comes from: the stage it was born in and the expert it was copied from."""

    stage: str | None = None
    parent: int | None = None
    owner: str | None = None
    """Domain that it was copied for; such copies do not count as experts that growth added."""


class ExpertBank(Growable, Routed):
    """Experts under one router. Parameters are named by expert id and only ever added."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """How one layer routes."""

        kind: str = "bank"
        router: Any = choice(ROUTERS, "linear")
        """What scores the experts."""
        selector: Any = choice(SELECTORS, "dense")
        """Which experts run for a token, and their weights."""
        output_max_k: int | None = None
        """Keep the k largest logits of a token, the others get weight 0; None = all."""
        grad_max_k: int | None = None
        """Only the k experts with the largest logits of a token learn from it; None = all."""
        balance_weight: float = 0.0
        """Weight of the balance loss E sum_e f_e P_e (Switch Transformer, arXiv 2101.03961)."""

        def __post_init__(self) -> None:
            for name, value in (
                ("output_max_k", self.output_max_k),
                ("grad_max_k", self.grad_max_k),
            ):
                if value is not None and value < 1:
                    raise ValueError(f"{name} must be at least 1, got {value}")
            if self.balance_weight < 0:
                raise ValueError(f"balance_weight must not be negative, got {self.balance_weight}")

    _gate_sum: Tensor

    def __init__(
        self, config: Any, inputs: int, outputs: int, experts: int, seed: int, place: Place
    ) -> None:
        """``config`` has at least the fields of ``ExpertBank.Config``."""
        super().__init__()
        assert experts >= 1, experts
        self.config, self.inputs, self.outputs, self.place = config, inputs, outputs, place
        self.selector = construct(SELECTORS, config.selector)
        self.router = construct(ROUTERS, config.router, inputs)
        self.experts = nn.ModuleDict()
        self.births: dict[int, Birth] = {}
        self.register_buffer("_gate_sum", torch.zeros(0), persistent=False)
        self._tokens, self._always = 0, False
        self._auxiliary: Tensor | None = None
        self._kept: list[Tensor] | None = None
        self.guide = DomainGuide()
        self.trains: tuple[Role, ...] | None = None
        """What the phase trains; None = no phase was set."""
        for number in range(place.count(experts)):
            with seeded(derive_seed(seed, "expert", number)):
                self._add(number, Birth())

    @abstractmethod
    def make_expert(self, width: int | None = None) -> nn.Module:
        """A freshly drawn expert; ``width`` None = what the layer gives new experts now."""

    @abstractmethod
    def mixture(self, x_TD: Tensor, gates_TE: Tensor, frozen: bool = False) -> Tensor:
        """See ``selectors.base.Bank``."""

    @abstractmethod
    def on_rows(self, rows_SD: Tensor, offsets: Tensor, learning_S: Tensor | None = None) -> Tensor:
        """See ``selectors.base.Bank``."""

    @property
    def live(self) -> int:
        return len(self.experts)

    def target(self, experts: int) -> int:
        copies = sum(birth.owner is not None for birth in self.births.values())
        return self.place.count(experts) + copies

    def expert(self, number: int) -> Any:
        """The expert with this id."""
        return self.experts[str(number)]

    def forward(self, x: Tensor, allowed: Tensor | None = None) -> Tensor:
        """[..., inputs] -> [..., outputs]; ``allowed``: bool [..., live]."""
        x_TD = x.reshape(-1, self.inputs)
        allowed_TE = None if allowed is None else allowed.reshape(-1, self.live)
        logits_TE = self.router(x_TD)
        learning = self.training and torch.is_grad_enabled()
        index_T = self.guide.index(len(x_TD)) if learning else None
        learning_TE = None
        if index_T is not None:
            learning_TE = self.guide.learning(index_T, self.live)
            allowed_TE = _both(allowed_TE, self.guide.allowed(index_T, self.live))
        k = self.config.output_max_k
        if k is not None and k < self.live:
            open_TE = logits_TE
            if allowed_TE is not None:
                open_TE = logits_TE.masked_fill(~allowed_TE, float("-inf"))
            logits_TE = logits_TE.masked_fill(~largest(open_TE, k), -1e8)
        y_TO, gates_TE = self.selector.mix(
            self,
            x_TD,
            logits_TE,
            grad_max_k=self.config.grad_max_k,
            allowed_TE=allowed_TE,
            learning_TE=learning_TE,
            training=learning,
        )
        if index_T is not None:
            self._note(index_T, gates_TE.detach(), learning_TE)
        if self._kept is not None:
            self._kept.append(gates_TE.detach())
        if learning or self._always:
            self._gate_sum = self._gate_sum + gates_TE.detach().sum(0)
            self._tokens += gates_TE.shape[0]
        if learning:
            self._auxiliary = self._losses(x_TD, gates_TE)
        return y_TO.reshape(*x.shape[:-1], self.outputs)

    def _note(self, index_T: Tensor, gates_TE: Tensor, learning_TE: Tensor | None) -> None:
        """Tell the guide which experts each token chose: where all run, its first choice."""
        if self.selector.active(self.live) < self.live:
            return self.guide.note(index_T, gates_TE > 0, learning_TE)
        chosen_TE = torch.zeros_like(gates_TE, dtype=torch.bool)
        chosen_TE.scatter_(1, gates_TE.argmax(1, keepdim=True), True)
        self.guide.note(index_T, chosen_TE, learning_TE, gates_TE > 0)

    def _losses(self, x_TD: Tensor, gates_TE: Tensor) -> Tensor | None:
        """Balance loss and the router's distillation, weighted; None if there is neither."""
        loss: Tensor | None = self.router.distillation(x_TD)
        if self.config.balance_weight > 0:
            balance = self.config.balance_weight * _balance_loss(gates_TE)
            loss = balance if loss is None else loss + balance
        return loss

    def duplicate(self, number: int, parent: int, owner: str, stage: str) -> None:
        """Add the copy ``number`` of ``parent`` for a domain; both then share one gate weight.

        Call ``share`` once all copies of a parent are there.
        """
        with seeded(0):  # every value is overwritten
            self._add(number, Birth(stage, parent, owner), self.expert(parent).width)
        self.expert(number).load_state_dict(self.expert(parent).state_dict())
        self.router.split(parent, number, 0.0)

    def share(self, numbers: list[int]) -> None:
        """Lower the logits of experts that are alike so that together they weigh as one did."""
        for number in numbers:
            self.router.lower(number, self.selector.temperature * math.log(len(numbers)))

    def grow(self, growth: Growth) -> Grown:
        grown, old = Grown(), list(self.births)
        for number in range(self.target(growth.experts) - self.live):
            new = max(self.births) + 1
            parent = growth.initialiser.parent(old, number)
            with seeded(derive_seed(growth.seed, new)):
                self._add(new, Birth(growth.stage, parent))
                growth.initialiser.apply(self, new, parent)
            grown.parents.append(parent)
        return grown

    def _add(self, number: int, birth: Birth, width: int | None = None) -> None:
        expert = like(self.make_expert(width), self)
        expert.train(self.training)
        self.experts[str(number)] = expert
        self.router.add(number)
        self.births[number] = birth
        self._gate_sum = with_zero(self._gate_sum)

    def layer_shape(self) -> LayerShape:
        widths = tuple(int(self.expert(number).width) for number in self.births)
        return LayerShape(experts=self.live, widths=widths, parameters=count_parameters(self))

    def active_parameters(self) -> int:
        limit = self.config.output_max_k or self.live
        active = min(limit, self.selector.active(self.live))
        sizes = sorted((count_parameters(e) for e in self.experts.values()), reverse=True)
        return count_parameters(self.router) + sum(sizes[:active])

    def arch(self) -> Json:
        experts = [
            {
                "id": number,
                "birth": birth.stage,
                "parent": birth.parent,
                "width": self.expert(number).width,
                "frozen": self._frozen(number),
            }
            | ({} if birth.owner is None else {"owner": birth.owner})
            for number, birth in self.births.items()
        ]
        mask = None if self.guide.mask is None else self.guide.mask.arch()
        trains = None if self.trains is None else list(self.trains)
        more = {"router": self.router.arch(), "mask": mask, "trains": trains}
        return {"experts": experts} | {k: v for k, v in more.items() if v is not None}

    def ensure_arch(self, arch: Json) -> None:
        records = {record["id"]: record for record in arch["experts"]}
        if not records or list(records) != list(range(len(records))):
            raise InputError(
                f"the saved architecture lists the experts {list(records)}; they must be numbered "
                "0, 1, 2, ...: the checkpoint is damaged, restore another one"
            )
        for number in [number for number in self.births if number not in records]:
            self._remove(number)
        with seeded(0):
            for number, record in records.items():
                self._ensure(number, record["width"])
                if record["frozen"] != self._frozen(number):
                    self.expert(number).requires_grad_(not record["frozen"])
                owner = record.get("owner")
                self.births[number] = Birth(record["birth"], record["parent"], owner)
        if "router" in arch:
            self.router.ensure_arch(arch["router"])
        self.guide.set_mask(Mask.of(arch["mask"]) if "mask" in arch else None)
        self.trains = tuple(arch["trains"]) if "trains" in arch else None
        self.reset_usage()

    def _ensure(self, number: int, width: int) -> None:
        if number not in self.births:
            self._add(number, Birth(), width)
        elif self.expert(number).width != width:
            self.experts[str(number)] = like(self.make_expert(width), self)

    def _frozen(self, number: int) -> bool:
        return not any(p.requires_grad for p in self.expert(number).parameters())

    def _remove(self, number: int) -> None:
        del self.experts[str(number)], self.births[number]
        self.router.remove(number)
        self._gate_sum = self._gate_sum[:-1]

    def gate_sums(self) -> tuple[Tensor, int]:
        return self._gate_sum, self._tokens

    def reset_usage(self) -> None:
        self._gate_sum, self._tokens = torch.zeros_like(self._gate_sum), 0

    def record_always(self, on: bool) -> None:
        self._always = on

    def keep_gates(self, kept: list[Tensor] | None) -> None:
        self._kept = kept

    def take_auxiliary_loss(self) -> Tensor | None:
        loss, self._auxiliary = self._auxiliary, None
        return loss


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """What two permissions allow; None allows everything."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _balance_loss(gates_TE: Tensor) -> Tensor:
    """``E sum_e f_e P_e``: share of tokens whose first choice is e, times its mean weight."""
    experts = gates_TE.shape[1]
    share_E = nn.functional.one_hot(gates_TE.detach().argmax(-1), experts).to(gates_TE).mean(0)
    return experts * (share_E * gates_TE.mean(0)).sum()
