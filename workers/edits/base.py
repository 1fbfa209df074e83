"""What every change to a model has in common. Knows no torch at import, no Ray and no policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from workers.contract.errors import DivergedError
from workers.contract.model_state import ModelState

if TYPE_CHECKING:
    from torch import Tensor, nn

Parents = dict[str, list[int | None]]
"""Layer -> parent expert of each expert that an edit added; None = not a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why an edit was decided: the policy, what triggered it, and the figures it saw."""

    policy: str
    trigger: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an edit did to the parameters, as far as the report and the optimizer must follow."""

    parents: Parents = field(default_factory=dict)
    narrowed: Mapping[str, tuple[Any, int, Any]] = field(default_factory=dict)
    """Name of a parameter made smaller -> (the old one, dimension, indices kept of it)."""
    cleared: Mapping[str, tuple[tuple[int, Any], ...] | None] = field(default_factory=dict)
    """Name of a parameter -> (dimension, indices) of entries of it that are new, of which the
    optimizer forgets what it kept; None = all of them."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What else there is to tell, for the report."""
    rebind: bool = True
    """Whether the optimizer must be bound to the module's parameters anew."""
    keep: bool = True
    """Whether the optimizer keeps what it knows of old parameters."""


@dataclass(frozen=True, slots=True)
class EditProbe:
    """Training samples that an edit may look at, alike on every worker of the lane. B samples."""

    x: Tensor
    """[B, ...]."""
    y: Tensor | None = None
    """Targets [B], where the stream has some."""
    domain: Tensor | None = None
    """int64 [B], place of each sample's domain among the lane's; None where it is not known."""
    losses: Callable[[Tensor], Tensor] | None = None
    """Outputs to the samples -> loss of each one [B]; None where the lane has no such loss."""


Forward = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One change to a model between two intervals, as a value that goes into the journal.

    A kind is a frozen dataclass that derives from this one: a line in ``EDITS``, or anything that
    can be imported as ``module:Class``, which is then its ``kind``. Fields must be values that
    JSON can hold. Edits are absolute ("4 experts", "these masks"), so that applying one twice is
    harmless.
    """

    noun: ClassVar[str] = "edit"
    """What people call one of this kind: ``1 growth, 2 masks``."""

    kind: str
    """Key of ``EDITS``, or ``module:Class``."""
    id: str
    stage: str
    """Id of the stage during which it is applied."""
    after_interval: int
    """Applied after this interval of the stage; 0 = before its first."""
    revision: int
    """Its number within the lane, from 1: the model's revision once it is applied."""
    seed: int
    cause: Cause

    def text(self) -> str:
        """What it does, in a few words: a line of the terminal, MLflow's notes and the report."""
        return f"{self.noun} by {self.cause.policy}"

    def fold(self, model: ModelState) -> ModelState:
        """What the driver knows of the model once the edit is decided; pure."""
        return replace(model, revision=self.revision, last={**model.last, self.kind: self})

    def check_next(self, revision: int) -> None:
        """Raise DivergedError unless a model at this revision is to take this edit next."""
        if self.revision != revision + 1:
            raise DivergedError(
                f"edit {self.id} makes revision {self.revision}, the model is at revision "
                f"{revision}: edits must be applied one after another, each once"
            )

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        """Check the edit against ``module``, which stays as it is; the result changes it.

        ``forward`` passes samples through the model. Runs on every worker of the lane and must do
        the same on each. Raises InputError where the edit cannot be done.
        """
        raise NotImplementedError(f"edit {self.kind} says nothing of how it is applied")
