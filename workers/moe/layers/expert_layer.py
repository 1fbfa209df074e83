"""What a layer of experts holds: experts under routers, how they come, go and are saved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from workers.contract import InputError, Json, LayerShape, derive_seed
from workers.edits import Role
from workers.moe.compression import give_scale, take_scale
from workers.moe.domains.masks import Mask, Masking
from workers.moe.experts import EXPERTS, Expert
from workers.moe.experts.expert_set import ExpertSet, leaving
from workers.moe.experts.shared import SharedExperts, SharedForms
from workers.moe.experts.widths import Widths
from workers.moe.growth.growable import Growable, Grown, Growth, count_parameters, like
from workers.moe.growth.schedules import EVERYWHERE, Place
from workers.moe.layers.base import Layer
from workers.moe.losses import LOSSES, Loss
from workers.moe.routed import Birth, Record, RoutedLayer
from workers.moe.routers import ROUTERS, Router
from workers.moe.seeding import seeded
from workers.moe.selectors import SELECTORS, Selector
from workers.moe.walk import join
from workers.tables import construct


class ExpertLayer(RoutedLayer, Growable, Layer):
    """Experts, routers and selector of one layer; how tokens pass them is a subclass's business.

    Letters: T tokens, E experts, D inputs, O outputs.
    """

    experts: ExpertSet
    expert_table: ClassVar[dict[str, type]] = EXPERTS
    """What the kinds of its experts name."""
    selector_table: ClassVar[dict[str, type]] = SELECTORS
    """What the kind of its selector names."""
    compresses: ClassVar[bool] = True
    """Whether ``compress`` can have vectors stand in for the lesser experts of a token."""

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
        self._widths = Widths(
            config,
            inputs,
            outputs,
            place,
            final=max_experts or experts,
            active=self.selector.active,
            shared=self._shared_forms,
        )
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
                    yield self._shared_forms.make(number, self._widths.own)
                else:
                    yield self.experts.make(0, self.experts.width(0, self._final_width))

    @property
    def routers(self) -> tuple[Router, ...]:
        """The router of each round."""
        return (self.router, *self.later_routers)

    @property
    def needs_domain(self) -> bool:
        return self.router.needs_domain

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

    def _final_width(self, cls: Any, form: Any) -> int:
        return self._width(cls, form, self._widths.final)

    def _width(self, cls: Any, form: Any, experts: int) -> int:
        return self._widths.of(cls, form, experts, self._copies)

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
