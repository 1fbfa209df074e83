"""MoELayer: a linear map replaced by routed experts within the same parameter budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from workers.contract import InputError, Json, LayerShape, derive_seed
from workers.edits import Role
from workers.moe.compression import compressed, give_scale, take_scale
from workers.moe.dispatch import FREE, Limits, dispatch, reached
from workers.moe.domains.masks import Mask, Masking
from workers.moe.experts import EXPERTS, Expert
from workers.moe.experts.base import kernel_of, sequences
from workers.moe.experts.expert_set import ExpertSet, leaving
from workers.moe.experts.shared import SharedExperts, SharedForms
from workers.moe.growth.budget import Size
from workers.moe.growth.growable import Growable, Grown, Growth, count_parameters, like
from workers.moe.growth.schedules import EVERYWHERE, Place
from workers.moe.layers.base import Layer
from workers.moe.losses import LOSSES, Loss
from workers.moe.routed import Birth, Record, Routed, RoutedLayer
from workers.moe.routers import ROUTERS, Router, RouterContext
from workers.moe.seeding import seeded
from workers.moe.selection import Selection, exact
from workers.moe.selectors import SELECTORS, Selector
from workers.moe.walk import join
from workers.tables import choice, choices, construct


@dataclass(frozen=True, slots=True)
class Conditions:
    """What holds in one forward of a layer, over all its rounds."""

    context: RouterContext
    allowed_TE: Tensor | None
    """Experts that a token may choose, bool [T, E]; None = all."""
    limits: Limits
    """Which tokens experts learn from."""
    training: bool
    """A training forward with gradients."""


class MoELayer(RoutedLayer, Growable, Layer):
    """One linear map as a mixture of experts with its own router (DynamicMoE, arXiv 2511.18987).

    Takes [..., inputs], gives [..., outputs]. ``max_experts`` is the final number N that sets the
    width of the experts; ``experts`` are there from the start. Under ``place`` both numbers are
    the model's, and the layer takes its share. Letters: T tokens, E experts, D inputs, O outputs.
    """

    experts: ExpertSet
    expert_table: ClassVar[dict[str, type]] = EXPERTS
    """What the kinds of its experts name."""
    selector_table: ClassVar[dict[str, type]] = SELECTORS
    """What the kind of its selector names."""
    compresses: ClassVar[bool] = True
    """Whether ``compress`` can have vectors stand in for the lesser experts of a token."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of one mixture-of-experts layer."""

        kind: str = "moe"
        router: Any = choice(ROUTERS, "linear")
        """What scores the experts."""
        selector: Any = choice(SELECTORS, "dense")
        """Which experts run for a token, and their weights."""
        expert: Any = choice(EXPERTS, "bottleneck")
        """What an expert is made of."""
        more_experts: tuple[Any, ...] = choices(EXPERTS)
        """Further forms of experts: new ones take ``expert`` and these by turns."""
        shared: int = 0
        """Experts that run for every token beside the chosen ones."""
        shared_experts: tuple[Any, ...] = choices(EXPERTS)
        """Forms that these take by turns; none = ``expert``."""
        shared_gate: Literal["one", "sigmoid"] = "one"
        """Weight of a shared expert: 1, or sigmoid(w x) with a w of its own."""
        losses: tuple[Any, ...] = choices(LOSSES)
        """What the layer adds to the task's loss in training."""
        grad_max_k: int | None = None
        """Only the k experts of a token with the largest weights learn from it; None = all."""
        match_active: bool = False
        """Widths such that the experts one token passes, not all, cost one dense layer."""

        def __post_init__(self) -> None:
            if self.grad_max_k is not None and self.grad_max_k < 1:
                raise ValueError(f"grad_max_k must be at least 1, got {self.grad_max_k}")
            if self.shared < 0:
                raise ValueError(f"shared must not be negative, got {self.shared}")
            for expert in (self.expert, *self.more_experts):
                if sequences(expert):
                    raise ValueError(
                        f"expert {expert.kind!r} reads whole sequences, of which a router would "
                        "hand it some tokens only; use it among shared_experts"
                    )
            if not self.shared and (self.shared_experts or self.shared_gate != "one"):
                raise ValueError(
                    "shared must be at least 1 where shared_experts or shared_gate are given, got 0"
                )

        @property
        def routes_to_all(self) -> bool:
            """See ``workers.contract.WithRoutedLayers``."""
            found: bool = self.selector.chooses_all
            return found

        @property
        def fewest(self) -> int:
            """See ``workers.contract.WithRoutedLayers``."""
            made: Selector = construct(SELECTORS, self.selector)
            return made.fewest

    def __init__(
        self,
        config: Any,
        inputs: int,
        outputs: int,
        experts: int = 1,
        max_experts: int | None = None,
        seed: int = 0,
        *,
        place: Place = EVERYWHERE,
    ) -> None:
        """``config`` has at least the fields of ``MoELayer.Config``."""
        super().__init__()
        assert experts >= 1, experts
        self.config, self.inputs, self.outputs, self.place = config, inputs, outputs, place
        self._final = max_experts or experts
        self.selector: Selector = construct(self.selector_table, config.selector)
        with seeded(derive_seed(seed, "selector")):
            self.selector.for_inputs(inputs)
        self.router: Router = self._new_router(0, seed)
        self.later_routers = nn.ModuleList(
            self._new_router(number, seed) for number in range(1, self.rounds)
        )
        forms = (config.expert, *config.more_experts)
        self.common = nn.ModuleDict()
        with seeded(derive_seed(seed, "common")):
            self.experts = ExpertSet(self.expert_table, forms, (inputs, outputs), self.common)
        self.losses: tuple[Loss, ...] = tuple(construct(LOSSES, loss) for loss in config.losses)
        self.record, self.masking = Record(), Masking()
        join([self])
        self.phase: tuple[Role, ...] | None = None
        """Roles that the phase trains; None = no phase was set."""
        self.main: int | None = None
        """Experts of a token that run, vectors standing in for the others; None = all chosen."""
        self._shared_forms = SharedForms(self.expert_table, config.shared_experts, config.shared)
        self.frozen: frozenset[int] = frozenset()
        """Experts that learn no more, whatever the phase trains."""
        self._populate(place.count(experts), seed)
        self.shared = SharedExperts(self._shared(seed))
        if config.shared_gate == "sigmoid":
            with seeded(derive_seed(seed, "shared", "gate")):
                self.shared.add_gates(inputs)

    def _new_router(self, number: int, seed: int) -> Router:
        with seeded(derive_seed(seed, "router", number)):
            made: Router = construct(ROUTERS, self.config.router, self.inputs)
            return made

    def _populate(self, experts: int, seed: int) -> None:
        """Add the experts of the start."""
        for number in range(experts):
            with seeded(derive_seed(seed, "expert", number)):
                self.add(number, Birth())

    @classmethod
    def active(cls, config: Any, experts: int) -> float:
        """See ``Layer.active``; what a new selector says."""
        selector: Selector = construct(cls.selector_table, config.selector)
        return min(float(experts), selector.active(experts))

    def _shared(self, seed: int) -> Iterator[Expert]:
        """The shared experts: of forms of their own, or of the first one of the routed."""
        for number in range(self.config.shared):
            with seeded(derive_seed(seed, "shared", number)):
                if self._shared_forms:
                    yield self._shared_forms.make(number, self._own_size)
                else:
                    yield self.experts.make(0, self.experts.width(0, self._final_width))

    # ------------------------------------------------------------ forward

    @property
    def routers(self) -> tuple[Router, ...]:
        """The router of each round."""
        return (self.router, *self.later_routers)

    @property
    def needs_domain(self) -> bool:
        return self.router.needs_domain

    def forward(
        self,
        x: Tensor,
        allowed: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
        below: Tensor | None = None,
    ) -> Tensor:
        """[..., inputs] -> [..., outputs]; ``allowed``: bool [..., live], experts that may be
        chosen. The rest goes to the router (``RouterContext``)."""
        x_TD = x.reshape(-1, self.inputs)
        allowed_TE = None if allowed is None else allowed.reshape(-1, self.live)
        steps = x.shape[1] if x.dim() == 3 else None
        conditions = self._begin(x_TD, allowed_TE, positions, lengths, below, steps)
        y_TO = self._pass(x_TD, conditions)
        self._end()
        return y_TO.reshape(*x.shape[:-1], self.outputs)

    def _begin(
        self,
        x_TD: Tensor,
        allowed_TE: Tensor | None = None,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
        below: Tensor | None = None,
        steps: int | None = None,
    ) -> Conditions:
        """Begin a forward: what holds in it, from what the layer was told about the step."""
        training = self.training and torch.is_grad_enabled()
        step, record = self.record.step, self.record
        domain_T, limits = record.domain_of(len(x_TD)), FREE
        if self.begins or below is not None:
            self.walk.state = below
        if training:
            record.losses = {}
            if step.first:
                self.selector.step_begins()
            trainable_TE = None
            if domain_T is not None:
                record.counters.add_tokens(domain_T)
                trainable_TE = self.masking.trainable(domain_T, step.domains, self.ids)
                open_TE = self.masking.allowed(domain_T, step.domains, self.ids)
                allowed_TE = _both(allowed_TE, open_TE)
            k = self.config.grad_max_k
            limits = Limits(k if k is not None and k < self.live else None, trainable_TE)
        context = RouterContext(
            progress=step.progress,
            domain_T=domain_T,
            positions=positions,
            lengths=lengths,
            steps=steps,
            first=step.first,
        )
        return Conditions(context, allowed_TE, limits, training)

    def _end(self) -> None:
        """End a forward: what the last layer's router handed on is for nobody."""
        if self.ends:
            self.walk.state = None

    def _scored(self, router: Router, x_TD: Tensor, conditions: Conditions) -> Tensor:
        """Logits [T, E] of one round, which hears what the one before handed on."""
        context = replace(conditions.context, below=self.walk.state)
        logits_TE, self.walk.state = router.route(x_TD, context)
        return logits_TE

    def _pass(self, x_TD: Tensor, conditions: Conditions) -> Tensor:
        """All rounds; a plain layer has one."""
        return self._round(self.router, x_TD, conditions)

    def _round(self, router: Router, x_TD: Tensor, conditions: Conditions) -> Tensor:
        """Route T tokens and run their experts, [T, O]."""
        logits_TE = self._scored(router, x_TD, conditions)
        selection: Selection = self.selector(
            x_TD, logits_TE, conditions.allowed_TE, conditions.training
        )
        return self._run(router, x_TD, logits_TE, selection, conditions)

    def _run(
        self,
        router: Router,
        x_TD: Tensor,
        logits_TE: Tensor,
        selection: Selection,
        conditions: Conditions,
    ) -> Tensor:
        """Run the selected experts and the shared ones, [T, O], and record the pass."""
        training, limits, context = conditions.training, conditions.limits, conditions.context
        run_TD, run = x_TD, selection
        if self.main is not None:
            experts, trainable_TE = self.experts.values(), limits.trainable_TE
            run_TD, run = compressed(experts, x_TD, selection, self.main, trainable_TE)
        y_TO = dispatch(kernel_of(list(self.experts.values())), run_TD, run, limits)
        shared_TO = self.shared(x_TD, conditions.context.steps)
        if shared_TO is not None:
            y_TO = y_TO + shared_TO
        record = self.record
        losses: tuple[Loss, ...] = ()
        if training:
            losses = (*self.losses, *router.losses(), *self.selector.losses())
            record.counters.add_weights(selection)
            record.counters.add_sums(selection.sums)
            record.reach(reached(selection, limits))
            self._watch(x_TD, y_TO)
            if context.domain_T is not None:
                record.counters.add_choices(selection, context.domain_T)
        if losses or record.observers:
            routed = self._routed(router, x_TD, logits_TE, selection, conditions)
            self._add_losses(losses, routed)
            for observer in record.observers:
                observer(routed)
        return y_TO

    def _watch(self, x_TD: Tensor, y_TO: Tensor) -> None:
        """Let experts look on that may change, by phase and by themselves."""
        if self.phase is not None and "experts" not in self.phase:
            return
        for number in self.births:
            expert = self.expert(number)
            if expert.watches and number not in self.frozen:
                expert.watch(x_TD.detach(), y_TO.detach())

    def _routed(
        self,
        router: Router,
        x_TD: Tensor,
        logits_TE: Tensor,
        selection: Selection,
        conditions: Conditions,
    ) -> Routed:
        context, probabilities_TE = conditions.context, selection.probabilities_TE
        if probabilities_TE is None:
            probabilities_TE = self.selector.probabilities(logits_TE, conditions.allowed_TE)
        return Routed(
            x=x_TD,
            logits=exact(logits_TE),
            probabilities=exact(probabilities_TE),
            chosen=selection.chosen_TE,
            weights=exact(selection.weights_TE),
            progress=context.progress,
            births=tuple(self.births.values()),
            domain_T=context.domain_T,
            router=router,
            selector=self.selector,
        )

    def _add_losses(self, losses: Sequence[Loss], routed: Routed) -> None:
        """Weighted losses of one round, by name; over several rounds their mean."""
        found = self.record.losses
        for loss in losses:
            value = loss.loss(routed)
            if value is None:
                continue
            weighted = value * (loss.weight / self.rounds)
            found[loss.name] = found[loss.name] + weighted if loss.name in found else weighted

    # ------------------------------------------------------------ experts

    @property
    def births(self) -> dict[int, Birth]:
        """Where each expert comes from, by id."""
        return self.experts.births

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(self.births)

    @property
    def born(self) -> int:
        return self.experts.born

    @property
    def mask(self) -> Mask | None:
        """The gradient mask in force."""
        return self.masking.mask

    def expert(self, number: int) -> Any:
        """The expert with this id."""
        return self.experts.expert(number)

    def parameters_of(self, number: int) -> Iterator[nn.Parameter]:
        """Parameters of an expert, of its rows and of what the selector has for it."""
        yield from self.expert(number).parameters()
        parts: tuple[Any, ...] = (*self.routers, self.selector)
        for part in parts:
            yield from part.parameters_of(number)

    def add(self, number: int, birth: Birth) -> None:
        """Add an expert, drawn from torch's default generator, and its row in each router."""
        self.experts.draw(number, birth, self, self._final_width)
        if self.main is not None:
            give_scale(self.expert(number), self.inputs)
        for router in self.routers:
            router.add(number)
        self._tell_selector()

    def check_removal(self, experts: Sequence[int]) -> None:
        """Raise InputError if it cannot go on without these live experts; changes nothing."""
        left = [number for number in self.births if number not in experts]
        least = self.selector.fewest
        if len(left) < least:
            raise InputError(
                f"{len(left)} of the experts {list(self.births)} would be left, and selector "
                f"{type(self.selector).__name__} needs at least {least}; remove fewer"
            )
        for domain in () if self.mask is None else self.mask.domains:
            if not any(self.mask is None or self.mask.trains(domain, n) for n in left):
                raise InputError(
                    f"no expert that domain {domain!r} may train would be left of "
                    f"{list(self.births)}; remove fewer, or refresh the mask before"
                )

    def remove(self, number: int) -> None:
        """Take an expert out for good, and its row in each router; the others stay as they are."""
        place = self.ids.index(number)
        self.experts.remove(number)
        for router in self.routers:
            router.remove(number)
        self._tell_selector()
        self.record.remove(place)

    def _tell_selector(self) -> None:
        self.selector.experts_changed(dict(self.births))
        like(self.selector, self.experts)

    def compress(self, main: int | None) -> None:
        """Run the ``main`` best experts of a token, vectors standing in for the others; None = all
        that it chose, as before."""
        self.main = main
        for expert in self.experts.values():
            if main is None:
                take_scale(expert)
            else:
                give_scale(expert, self.inputs)

    def factor(self, rank: int, seed: int) -> None:
        """Have its experts read their input through one projection [rank, inputs], fitted to their
        input maps; a layer that does stays as it is."""
        with seeded(seed):
            swaps = self.experts.read_through(rank, self)
        for new, old in swaps:
            type(new[0]).take_over(new, old)

    def target(self, experts: int) -> int:
        return self.place.count(experts) + self._copies - len(self.experts.removed)

    def check_copies(self, experts: int, exclusive: bool) -> None:
        """Raise InputError if it cannot hold so many experts, copies included.

        ``exclusive``: tokens of some domains may not choose some of them.
        """

    @property
    def _copies(self) -> int:
        """Copies for domains, those removed since included."""
        born = (*self.births.values(), *self.experts.removed.values())
        return sum(birth.owner is not None for birth in born)

    # ------------------------------------------------------------ growth

    def check(self, growth: Growth) -> None:
        growth.initialiser.check(self, self._read(growth))
        if growth.reading == "unmask":
            return super().check(growth)
        if not self.experts.narrowing:
            raise InputError(
                f"reading 'rescale' makes experts narrower, but experts {self.experts.kinds} "
                "have no hidden width to give up; use expert 'bottleneck', or for the reading "
                "use 'unmask'"
            )
        if growth.inputs is None:
            raise InputError(
                "reading 'rescale' refits the experts on probe data and got none; give a probe "
                "batch, or use reading 'unmask'"
            )
        for cls, form in self.experts.forms():
            self._width(cls, form, growth.experts)

    def grow(self, growth: Growth) -> Grown:
        grown, x_TD = Grown(), self._read(growth)
        added = self.target(growth.experts) - self.live
        if growth.reading == "rescale" and added > 0:
            assert x_TD is not None
            cut = self.experts.narrow(
                lambda cls, form: self._width(cls, form, growth.experts), x_TD
            )
            grown.narrowed = {f"experts.{name}": kept for name, kept in cut.items()}
        old = growth.initialiser.ranked(self, list(self.births), x_TD)
        for number in range(added):
            new = self.born
            parent = growth.initialiser.parent(old, number)
            with seeded(derive_seed(growth.seed, new)):
                self.add(new, Birth(growth.stage, parent))
                growth.initialiser.apply(self, new, parent)
            if growth.initialiser.needs_inputs:
                assert x_TD is not None
                growth.initialiser.place(self, new, x_TD)
            grown.parents.append(parent)
        return grown

    def _read(self, growth: Growth) -> Tensor | None:
        """What it reads of the growth's probe [T, D], if it was given any."""
        return None if growth.inputs is None else growth.inputs.reshape(-1, self.inputs)

    def _final_width(self, cls: Any, form: Any) -> int:
        return self._width(cls, form, self._final)

    def _width(self, cls: Any, form: Any, experts: int) -> int:
        """Width of experts of a form when the model is said to have ``experts``."""
        sizes = [self._sharing(size) for size in self._sizes(experts)]
        if self._shared_forms:  # their size is that of the start, however many are live
            gated = self.config.shared_gate == "sigmoid"
            spent = [self._shared_forms.cost(size, gated) for size in self._sizes(self._final)]
            sizes = [size._replace(spent=n) for size, n in zip(sizes, spent, strict=True)]
        width: int = cls.width_for(form, sizes)
        return width

    def _sizes(self, experts: int) -> list[Size]:
        return self.place.sizes(self.inputs, self.outputs, experts, self._copies)

    @property
    def _own_size(self) -> Size:
        return Size(self.inputs, self.outputs, self.place.count(self._final))

    def _sharing(self, size: Size) -> Size:
        """With those of a layer's experts that share the budget of one dense layer."""
        experts = size.experts
        if self.config.match_active:
            experts = max(1, math.ceil(min(self.selector.active(experts), experts)))
        alike = 0 if self._shared_forms else int(self.config.shared)
        return size._replace(experts=experts + alike)

    def layer_shape(self) -> LayerShape:
        widths = tuple(int(self.expert(number).width) for number in self.births)
        return LayerShape(
            experts=self.live,
            widths=widths,
            parameters=count_parameters(self),
            removed=tuple(sorted(self.experts.removed)),
        )

    def active_parameters(self) -> int:
        active = min(self.live, math.ceil(self.selector.active(self.live)))
        active = active if self.main is None else min(active, self.main)
        sizes = sorted((count_parameters(e) for e in self.experts.values()), reverse=True)
        return count_parameters(self) - sum(sizes[active:])

    # ------------------------------------------------------------ architecture

    def arch(self) -> Json:
        more = {
            "router": self.router.arch(),
            "later_routers": [router.arch() for router in self.routers[1:]] or None,
            "selector": self.selector.arch(),
            "shared": self.config.shared or None,
            "removed": self.experts.removed_arch() or None,
            "main": self.main,
            "latent": self.experts.rank,
            "shared_kinds": [form.kind for form in self.config.shared_experts] or None,
            "mask": None if self.mask is None else self.mask.arch(),
            "phase": None if self.phase is None else list(self.phase),
            "frozen": sorted(self.frozen & self.births.keys()) or None,
        }
        found = {"kinds": self.experts.kinds, "experts": self.experts.arch()}
        return found | {name: value for name, value in more.items() if value is not None}

    def ensure_arch(self, arch: Json) -> None:
        rounds = 1 + len(arch.get("later_routers", ()))
        saved = arch["kinds"], arch.get("shared", 0), arch.get("shared_kinds", []), rounds
        kinds = [form.kind for form in self.config.shared_experts]
        rank = arch.get("latent")
        routed = [form.kind for form in self.experts.forms_at(rank)]
        present = routed, self.config.shared, kinds, self.rounds
        if saved != present:
            raise InputError(
                "the saved layer has (kinds of experts, shared experts, their kinds, rounds) = "
                f"{saved}, the model {present}; restore with the config that the checkpoint was "
                "made with"
            )
        before = list(self.births)
        for number in self.frozen & self.births.keys():
            for parameter in (*self.parameters_of(number), *self.common.parameters()):
                parameter.requires_grad_(True)
        self.frozen = frozenset(arch.get("frozen", ()))
        with seeded(0):  # every value is overwritten
            self.experts.read_through(rank, self)
        self.experts.ensure_arch(arch["experts"], arch.get("removed", ()), self)
        gone = leaving(before, self.births)
        self.compress(arch.get("main"))
        for router, saved_router in zip(
            self.routers, [arch.get("router"), *arch.get("later_routers", ())], strict=True
        ):
            for number in gone:
                router.remove(number)
            with seeded(0):  # every value is overwritten
                for number in self.births:
                    if number not in before or number in gone:
                        router.add(number)
            if saved_router is not None or router.arch() is not None:
                router.ensure_arch(saved_router)
        self._tell_selector()
        if "selector" in arch:
            self.selector.ensure_arch(arch["selector"])
        self.masking.set(Mask.of(arch["mask"]) if "mask" in arch else None)
        self.phase = tuple(arch["phase"]) if "phase" in arch else None
        self.record.counters.reset()


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """What two permissions allow; None allows everything."""
    if one is None or other is None:
        return other if one is None else one
    return one & other
