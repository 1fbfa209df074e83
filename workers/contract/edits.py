"""Changes to a model between two intervals, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why an edit was decided: the policy, what triggered it, and the figures it saw."""

    policy: str
    trigger: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grow:
    """Edit: every growable layer has ``experts`` experts afterwards (absolute, so idempotent)."""

    kind: Literal["grow"] = "grow"
    id: str
    stage: str
    """Id of the stage during which it is applied."""
    after_interval: int
    """Applied after this interval of the stage; 0 = before its first."""
    experts: int
    seed: int
    initialiser: str = "random"
    """Key of ``workers.moe.INITIALISERS``."""
    reading: Literal["unmask", "rescale"] = "unmask"
    """``unmask``: widths fixed by the final count; ``rescale``: widths shrink at each growth."""
    optimizer: Literal["keep", "reset"] = "keep"
    revision: int = 0
    """Number of the edit within its lane, from 1."""
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """An expert that ``RefreshMask`` copies, so that a domain has its own."""

    expert: int
    """Id of the copy."""
    parent: int
    owner: str
    """Domain whose tokens alone train the copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshMask:
    """Edit: which experts each domain may train, in every layer, afterwards (absolute).

    DES-MoE (arXiv 2509.16882), equations 6 and 9. All that decided the mask stands in the edit, so
    that a fold of the journal needs no policy.
    """

    kind: Literal["refresh_mask"] = "refresh_mask"
    id: str
    stage: str
    after_interval: int
    version: int
    """Version of the mask; every later step must be trained under it."""
    domains: tuple[str, ...]
    """Row order of ``masks`` and ``usage``."""
    masks: dict[str, list[list[int]]]
    """Layer -> domain -> 0 or 1 for each expert, copies included."""
    usage: dict[str, list[list[float]]] = field(default_factory=dict)
    """Layer -> domain -> share of the domain's tokens that chose each expert (the matrix A)."""
    copies: dict[str, list[Duplicate]] = field(default_factory=dict)
    """Layer -> experts this edit copies, in order of their ids."""
    exclusive: bool = False
    """Whether tokens of other domains cannot choose a copy in training."""
    owners: dict[str, dict[str, str]] = field(default_factory=dict)
    """Layer -> expert id -> owning domain: of the copies, or of claimed experts."""
    seed: int
    revision: int = 0
    """Number of the edit within its lane, from 1."""
    cause: Cause


Role = Literal["router", "backbone", "experts"]
"""What a phase may train: routers, experts, and all the rest of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPhase:
    """Edit: only these roles are trained afterwards (DES-MoE, arXiv 2509.16882, equation 11)."""

    kind: Literal["set_phase"] = "set_phase"
    id: str
    stage: str
    after_interval: int
    phase: str
    trains: tuple[Role, ...]
    adapt: bool = False
    """Adaptive routers take over from the linear ones trained so far: their teachers from now."""
    seed: int
    revision: int = 0
    """Number of the edit within its lane, from 1."""
    cause: Cause


Edit = Grow | RefreshMask | SetPhase
"""The union of edits; a new kind is a class here and a case in the appliers."""
