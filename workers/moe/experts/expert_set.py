"""The experts of one layer by id: what each is made of, how wide it is, where it comes from.

Knows no router. Parameters are named by expert id; an id is given once, also after its expert is
gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import InputError, Json, derive_seed
from workers.moe.experts.base import Expert
from workers.moe.growth.growable import like
from workers.moe.routed import Birth
from workers.moe.seeding import seeded
from workers.tables import construct, lookup

WidthOf = Callable[[Any, Any], int]
"""Class and Config of a form of experts -> the width that the layer's budget allows."""


class ExpertSet(nn.ModuleDict):
    """Experts by id (0, 1, 2, ... as text), of one or several forms.

    A form is one Config of a kind of expert; drawn experts take the forms by turns, copies that of
    their parent.
    """

    def __init__(
        self,
        table: dict[str, type],
        forms: Sequence[Any],
        sizes: tuple[int, int],
        common: nn.ModuleDict | None = None,
    ) -> None:
        """``sizes``: inputs and outputs; ``common``: the layer's own, which takes in what the
        experts of a form have in common, by the form's number."""
        super().__init__()
        self.births: dict[int, Birth] = {}
        self.removed: dict[int, Birth] = {}
        """Experts that are gone, by id."""
        self.rank: int | None = None
        """Numbers of the projection through which experts read; None = they are as configured."""
        self._table, self._sizes = table, sizes
        self._configured, self._forms = tuple(forms), list(forms)
        self._form_of: dict[int, int] = {}
        self._widths: dict[int, int] = {}
        self._classes = [class_of(table, config) for config in forms]
        self._common = (common,)  # in a tuple, so that it is no part of this module
        for form in range(len(self._forms)):
            self._draw_common(form)

    def _draw_common(self, form: int) -> None:
        """Give the layer what the experts of a form have in common, in place of what it had."""
        common = self._common[0]
        if common is None:
            return
        part = self._classes[form].common_part(self._forms[form], *self._sizes)
        if part is not None:
            common[str(form)] = part
        elif str(form) in common:
            del common[str(form)]

    def expert(self, number: int) -> Any:
        """The expert with this id."""
        return self[str(number)]

    @property
    def kinds(self) -> list[str]:
        """Kind of each form."""
        return [config.kind for config in self._forms]

    @property
    def narrowing(self) -> bool:
        """Whether every form can give up hidden units."""
        return all(cls.narrows for cls in self._classes)

    @property
    def born(self) -> int:
        """Experts ever there: the id of the next one."""
        return len(self.births) + len(self.removed)

    def forms(self) -> list[tuple[Any, Any]]:
        """Class and Config of each form."""
        return list(zip(self._classes, self._forms, strict=True))

    def forms_at(self, rank: int | None) -> list[Any]:
        """Config of each form whose experts read through a projection to ``rank`` numbers, as
        configured where there is none such; None = all as configured."""
        if rank is None:
            return list(self._configured)
        return [
            class_of(self._table, config).latent_form(config, rank) or config
            for config in self._configured
        ]

    def unfactored(self, rank: int) -> list[str]:
        """Kinds configured of which there is no form that reads through a projection."""
        forms = zip(self._configured, self.forms_at(rank), strict=True)
        return [config.kind for config, found in forms if config == found]

    def read_through(self, rank: int | None, reference: nn.Module) -> list[tuple[Any, Any]]:
        """Have experts read their input through a projection to ``rank`` numbers, see ``forms_at``.

        Those of a form that changes are drawn anew, in place and of the same width. Returns, for
        each such form with experts, (the new ones, those that they replace).
        """
        self.rank, swaps = rank, []
        for form, config in enumerate(self.forms_at(rank)):
            if config == self._forms[form]:
                continue
            self._forms[form], self._classes[form] = config, class_of(self._table, config)
            self._draw_common(form)
            common = self._common[0]
            if common is not None and str(form) in common:
                like(common[str(form)], reference)
            members = [number for number, its in self._form_of.items() if its == form]
            old = [self.expert(number) for number in members]
            for number, expert in zip(members, old, strict=True):
                made = self.make(form, expert.width)
                self.put(number, made, form, self.births[number], reference)
            if members:
                swaps.append(([self.expert(number) for number in members], old))
        return swaps

    def width(self, form: int, width_of: WidthOf) -> int:
        """Width of new experts of a form, by ``width_of`` unless it is settled already."""
        if form not in self._widths:
            self._widths[form] = width_of(self._classes[form], self._forms[form])
        return self._widths[form]

    def make(self, form: int, width: int) -> Expert:
        """A freshly drawn expert that belongs to nobody yet."""
        made: Expert = construct(self._table, self._forms[form], *self._sizes, width)
        common = self._common[0]
        if common is not None and str(form) in common:
            made.attach(common[str(form)])
        return made

    def put(
        self, number: int, expert: Expert, form: int, birth: Birth, reference: nn.Module
    ) -> None:
        """Add an expert, on device and in type and mode of ``reference``."""
        self[str(number)] = like(expert, reference).train(reference.training)
        self.births[number], self._form_of[number] = birth, form

    def draw(self, number: int, birth: Birth, reference: nn.Module, width_of: WidthOf) -> None:
        """Add a new expert: a form by turns, or form and width of the parent it is to copy."""
        if birth.parent is None:
            form = number % len(self._forms)
            width = self.width(form, width_of)
        else:
            form, width = self._form_of[birth.parent], self.expert(birth.parent).width
        made = self.make(form, width)
        if made.reads_sequences:
            raise InputError(
                f"expert {self._forms[form].kind!r} reads whole sequences, of which a router would "
                "hand it some tokens only; use it among shared_experts"
            )
        self.put(number, made, form, birth, reference)

    def remove(self, number: int) -> None:
        """Take an expert out for good."""
        self.removed[number] = self.births[number]
        self._forget(number)

    def _forget(self, number: int) -> None:
        del self[str(number)], self.births[number], self._form_of[number]

    def narrow(self, width_of: WidthOf, x_TD: Tensor) -> dict[str, tuple[int, Tensor]]:
        """Make wider experts as narrow as ``width_of`` says, new ones too.

        Returns "<id>.<parameter>" -> (dimension, indices kept) for what became smaller.
        """
        narrowed: dict[str, tuple[int, Tensor]] = {}
        for form, (cls, config) in enumerate(self.forms()):
            width = width_of(cls, config)
            members = [n for n, its in self._form_of.items() if its == form]
            for number in members:
                if self.expert(number).width > width:
                    cut = self.expert(number).narrow(width, x_TD)
                    narrowed |= {f"{number}.{name}": kept for name, kept in cut.items()}
            self._widths[form] = min([width, *(int(self.expert(n).width) for n in members)])
        return narrowed

    # ------------------------------------------------------------ architecture

    def arch(self) -> list[Json]:
        """One record for each live expert, in order of the ids."""
        return [
            {
                "id": number,
                "birth": birth.stage,
                "parent": birth.parent,
                "form": self._form_of[number],
                "width": self.expert(number).width,
                "frozen": self._frozen(number),
            }
            | ({} if birth.owner is None else {"owner": birth.owner})
            for number, birth in self.births.items()
        ]

    def removed_arch(self) -> list[Json]:
        """One record for each expert that is gone, in order of the ids."""
        return [
            {"id": number, "birth": birth.stage, "parent": birth.parent, "owner": birth.owner}
            for number, birth in sorted(self.removed.items())
        ]

    def ensure_arch(
        self, records: Sequence[Json], removed: Sequence[Json], reference: nn.Module
    ) -> None:
        """Become the experts of ``records``, without those ``removed``; values are loaded
        afterwards."""
        ids, gone = [record["id"] for record in records], [record["id"] for record in removed]
        if not ids or ids != sorted(ids) or sorted(ids + gone) != list(range(len(ids + gone))):
            raise InputError(
                f"the saved architecture lists the experts {ids}, and {gone} as removed; together "
                "they must be numbered 0, 1, 2, ...: the checkpoint is damaged, restore another "
                "one"
            )
        for number in leaving(self.births, ids):
            self._forget(number)
        self.removed = {
            record["id"]: Birth(record["birth"], record["parent"], record["owner"])
            for record in removed
        }
        for record in records:
            number, form, width = record["id"], record["form"], record["width"]
            birth = Birth(record["birth"], record["parent"], record.get("owner"))
            present = number in self.births
            if not (
                present and self._form_of[number] == form and self.expert(number).width == width
            ):
                with seeded(derive_seed(torch.initial_seed(), number)):  # mostly overwritten
                    self.put(number, self.make(form, width), form, birth, reference)
            if record["frozen"] != self._frozen(number):
                self.expert(number).requires_grad_(not record["frozen"])
            self.births[number] = birth
            self._widths[form] = width

    def _frozen(self, number: int) -> bool:
        return not any(p.requires_grad for p in self.expert(number).parameters())


def leaving(present: Iterable[int], wanted: Iterable[int]) -> list[int]:
    """Of the experts present, those that must go so that the rest and the ones still missing,
    added behind it, stand in the order of ids."""
    present, wanted = list(present), set(wanted)
    first = min(wanted - set(present), default=None)
    return [n for n in present if n not in wanted or (first is not None and n > first)]


def class_of(table: dict[str, type], config: Any) -> Any:
    """The class of a form of experts; InputError where it is no Expert."""
    cls = lookup(table, config.kind, "expert.kind")
    if not (isinstance(cls, type) and issubclass(cls, Expert)):
        raise InputError(
            f"expert {config.kind!r} is no subclass of workers.moe.experts.Expert; derive it from "
            "that class, whose forward may be anything"
        )
    return cls
