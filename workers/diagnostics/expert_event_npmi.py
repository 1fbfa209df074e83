"""Diagnostic: which experts go with which events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from workers.diagnostics.base import Diagnostic, Figures, Probe, Scope
from workers.diagnostics.routing import several
from workers.diagnostics.use import npmi_of, used

if TYPE_CHECKING:
    from torch import Tensor


class ExpertEventNPMI(Diagnostic):
    """Normalised pointwise mutual information of an expert's use and an event, -1..1.

    ``nPMI(e, t) = ln[p(e, t) / (p(e) p(t))] / -ln p(e, t)``. Events: the domains; classes, where
    there are labels; in Craftax lanes the floor an agent stands on and the achievements it has.
    ``<layer>/<event>/<expert>``, the ``top`` experts of each event, by id.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """How much is told."""

        kind: str = "expert_event_npmi"
        top: int = 2
        """Experts of each layer that are told of each event, those that go with it most."""

        def __post_init__(self) -> None:
            if self.top < 1:
                raise ValueError(f"top must be at least 1, got {self.top}")

    unit = "share, -1..1; 0 = independent"
    source = "RICE (arXiv 2505.14681)"
    scope: ClassVar[Scope] = "model"
    cheap = False
    needs_events = True

    config: Config

    def figures(self, probe: Probe) -> Figures:
        found: Figures = {}
        for layer, gates in several(probe):
            used_TE = used(gates)
            for event, event_T in _events(probe, len(used_TE)):
                scores = npmi_of(used_TE, event_T)
                best = sorted(range(len(scores)), key=lambda e: -scores[e])[: self.config.top]
                found |= {f"{layer}/{event}/{gates.numbers[e]}": scores[e] for e in best}
        return found


def _events(probe: Probe, tokens: int) -> Iterator[tuple[str, Tensor]]:
    """Event -> whether it holds, bool [T]; those that hold for some tokens, but not for all."""
    repeat = tokens // len(probe.domain)
    known = {domain: probe.domain == place for place, domain in enumerate(probe.domains)}
    for event, event_N in (known | dict(probe.events)).items():
        if bool(event_N.any()) and not bool(event_N.all()):
            yield event, event_N.to(probe.domain.device).repeat_interleave(repeat)
