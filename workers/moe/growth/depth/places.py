"""Where a layer stands under a schedule: what tells its experts from the model's number."""

from __future__ import annotations

from dataclasses import dataclass

from workers.moe.growth.budget import Size
from workers.moe.growth.depth.base import Active, Maps, Schedule, every
from workers.moe.growth.depth.forms import Constant


@dataclass(frozen=True, slots=True)
class Place:
    """One layer under a schedule."""

    schedule: Schedule
    index: int
    layers: int
    maps: tuple[tuple[int, int], ...] = ()
    """Inputs and outputs of every layer under the schedule; empty where nobody knows them."""
    active: Active = every
    """Experts of so many that a token runs through in such a layer."""

    def count(self, experts: int) -> int:
        """Experts of this layer when the model is said to have ``experts``."""
        return self._counts(experts)[self.index]

    def sizes(self, inputs: int, outputs: int, experts: int, copies: int = 0) -> list[Size]:
        """The layers that share one parameter budget with this one: all, or only itself.

        ``copies``: experts of this layer that the schedule does not count.
        """
        counts = self._counts(experts)
        own = Size(inputs, outputs, counts[self.index] + copies)
        if not (self.schedule.one_width and self.maps):
            return [own]
        sizes = [Size(*pair, count) for pair, count in zip(self.maps, counts, strict=True)]
        sizes[self.index] = own
        return sizes

    def _counts(self, experts: int) -> list[int]:
        """Experts of every layer; layers of unknown size count as alike."""
        return self.schedule.counts(experts, self.maps or ((1, 1),) * self.layers, self.active)


def places(schedule: Schedule, maps: Maps, active: Active = every) -> list[Place]:
    """The place of each of these layers, given their inputs and outputs.

    ``active``: experts of so many that a token runs through in one of them. Raises InputError
    where they are no layers for the schedule.
    """
    schedule.check(len(maps))
    return [Place(schedule, i, len(maps), tuple(maps), active) for i in range(len(maps))]


EVERYWHERE = Place(Constant(Constant.Config()), 0, 1)
"""A layer under no schedule: it has as many experts as the model is said to have."""
