"""Schedules that keep another one's form and spend what the uniform model of its size spends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from workers.moe.growth.depth.base import SCHEDULES, Active, Maps, Schedule, every
from workers.moe.growth.depth.forms import Uniform
from workers.tables import choice, construct

Cost = Callable[[int, int], float]
"""(layer, experts) -> what so many experts cost there."""


class Matched(Schedule):
    """Base: ``N_l = minimum + (M - minimum) f(p_l)`` with M such that ``sum_l cost_l(N_l)`` is the
    uniform model's.

    Experts above the minimum are handed out one by one, always to the layer with the largest
    ``f_l / (2 n_l + 1)``, n_l being those it was given before (the divisor method of Webster, which
    rounds that form), as long as the next one brings the sum nearer to the uniform model's. The
    order does not depend on the number of experts, so more of them never take one away.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Schedule.Config):
        """The form, and where it starts."""

        kind: str
        schedule: Any = choice(SCHEDULES, "descending")
        """Whose form over depth is kept; its ``minimum`` does not count."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.form: Schedule = construct(SCHEDULES, config.schedule)
        self.uniform = Uniform(Uniform.Config(minimum=config.minimum))

    def share(self, index: int, layers: int) -> float:
        return self.form.share(index, layers)

    def count(self, index: int, layers: int, experts: int) -> int:
        return self.counts(experts, ((1, 1),) * layers, every)[index]

    def check(self, layers: int) -> None:
        self.form.check(layers)

    def _spread(self, experts: int, layers: int, cost: Cost, most: int | None = None) -> list[int]:
        """Experts of every layer; ``most``: how many are handed out at most, None = no bound."""
        low = min(self.minimum, experts)
        counts = [low] * layers
        shares = [self.form.share(index, layers) for index in range(layers)]
        even = self.uniform.count(0, layers, experts)
        left = sum(cost(layer, even) - cost(layer, low) for layer in range(layers))
        for layer in islice(_order(shares), most):
            step = cost(layer, counts[layer] + 1) - cost(layer, counts[layer])
            if step / 2 > left:
                break
            counts[layer], left = counts[layer] + 1, left - step
        return counts


class BudgetMatched(Matched):
    """Another schedule's form with as many experts, or parameters, as the uniform model has.

    ``sum_l N_l`` or ``sum_l N_l (inputs_l + outputs_l)`` (parameters of an expert for each of its
    hidden units; router rows are left out) is the uniform schedule's; the second at most half an
    expert off. A layer may get more experts than the model's number.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Matched.Config):
        """What is matched."""

        kind: str = "budget_matched"
        of: Literal["experts", "parameters"] = "experts"
        """What both have as much of; parameters differ where layers are of several sizes and
        experts of one width."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.of = config.of

    def counts(self, experts: int, maps: Maps, active: Active) -> list[int]:
        sizes = [sum(pair) if self.of == "parameters" else 1 for pair in maps]
        return self._spread(experts, len(maps), lambda layer, count: sizes[layer] * count)


class FlopsMatched(Matched):
    """Another schedule's form with the operations of the uniform model for a token.

    ``sum_l E[k_l] (inputs_l + outputs_l)`` (a two-layer expert's, for each of its hidden units; the
    router's ``2 inputs N_l`` is left out) is the uniform schedule's, at most half an expert off.
    E[k_l]: what the layer's selector says it runs of N_l experts. Where that does not grow with
    N_l (top-k), the form has as many experts as its own schedule gives it.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Matched.Config):
        """Nothing beside the form."""

        kind: str = "flops_matched"

    def counts(self, experts: int, maps: Maps, active: Active) -> list[int]:
        low, layers = min(self.minimum, experts), len(maps)
        own = [low + (experts - low) * self.form.share(i, layers) for i in range(layers)]
        most = max(0, round(sum(own) - low * layers))
        return self._spread(
            experts, layers, lambda layer, count: sum(maps[layer]) * active(count), most
        )


def _order(shares: list[float]) -> Iterator[int]:
    """Layers in the order in which they get experts, without end; none where all shares are 0."""
    given = [0] * len(shares)

    def claim(layer: int) -> tuple[float, float, int]:
        """Of equal quotients the larger share comes first, then the earlier layer."""
        return (round(shares[layer] / (2 * given[layer] + 1), 9), round(shares[layer], 9), -layer)

    while any(shares):
        layer = max(range(len(shares)), key=claim)
        given[layer] += 1
        yield layer
