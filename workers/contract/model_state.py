"""What the driver knows of a lane's model without holding it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from workers.contract.reports import LayerShape

if TYPE_CHECKING:
    from workers.edits.base import Edit

E = TypeVar("E", bound="Edit")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """A lane's model as decided: every edit up to ``revision`` counted in."""

    experts: int = 1
    """Experts of the largest layer as growth counts them: those removed since included."""
    layers: Mapping[str, LayerShape] = field(default_factory=dict)
    """Growable layers by name, as last reported: edits under way are not in it."""
    revision: int = 0
    """Edits decided so far; the trainer refuses an interval under another one."""
    last: Mapping[str, Edit] = field(default_factory=dict)
    """The last edit of each kind, by ``kind``."""

    def latest(self, kind: type[E]) -> E | None:
        """The last edit of this class; None where there was none."""
        found: Any = [edit for edit in self.last.values() if isinstance(edit, kind)]
        return found[-1] if found else None
