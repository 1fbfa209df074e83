"""Probes of a routed model on samples whose labels and domains are known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workers.diagnostics import DIAGNOSTICS, Figures, Probe
from workers.diagnostics.observing import observe


def accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    """As ``Classification.score``."""
    return (outputs.argmax(-1) == y).float()


@torch.no_grad()
def probe(model: nn.Module, x: Tensor, y: Tensor | None, domain: list[int], **more: Any) -> Probe:
    """The model on these samples, of domains a, b, ..."""
    with observe(model) as take:
        outputs = model(x)
        routed = take()
    place = torch.tensor(domain)
    known: dict[str, Any] = {
        "model": model,
        "inputs": x,
        "outputs": outputs,
        "targets": y,
        "routed": routed,
        "domains": tuple("abc"[: max(domain) + 1]),
        "domain": place,
        "inputs_domain": place,
        "score": accuracy,
    }
    return Probe(**{**known, **more})


@torch.no_grad()
def figures(name: str, seen: Probe, **settings: Any) -> Figures:
    """What an entry tells of a probe."""
    cls: Any = DIAGNOSTICS[name]
    found: Figures = cls(cls.Config(kind=name, **settings)).figures(seen)
    return found
