"""expert_event_npmi: association of experts with events, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.probes import figures
from workers.diagnostics import Gates, Probe
from workers.diagnostics.use import npmi


def seen(weights: list[list[float]], domain: list[int], **events: list[bool]) -> Probe:
    weights_TE = torch.tensor(weights)
    gates = Gates(weights=weights_TE, chosen=weights_TE > 0, probabilities=weights_TE)
    return Probe(
        model=nn.Identity(),
        inputs=torch.zeros(0),
        outputs=torch.zeros(0),
        routed={"layer": gates},
        domains=tuple("ab"[: max(domain) + 1]),
        domain=torch.tensor(domain),
        events={name: torch.tensor(holds) for name, holds in events.items()},
    )


def test_association_by_hand() -> None:
    rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    found = figures("expert_event_npmi", seen(rows, [0, 0, 1, 1]))
    half = math.log(0.5 / (0.75 * 0.5)) / -math.log(0.5)
    quarter = math.log(0.25 / (0.75 * 0.5)) / -math.log(0.25)
    last = math.log(0.25 / (0.25 * 0.5)) / -math.log(0.25)
    assert found == pytest.approx(
        {"layer/a/0": half, "layer/a/1": -1.0, "layer/b/1": last, "layer/b/0": quarter}
    )


def test_events_are_spread_over_positions_and_constant_ones_left_out() -> None:
    rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    probe = seen(rows, [0, 0], night=[True, False], day=[True, True], never=[False, False])
    found = figures("expert_event_npmi", probe, top=1)
    assert found == {"layer/night/0": pytest.approx(1.0)}


def test_where_every_expert_runs_the_largest_weight_counts() -> None:
    found = figures("expert_event_npmi", seen([[0.9, 0.1], [0.2, 0.8]], [0, 1]), top=1)
    assert found == {"layer/a/0": pytest.approx(1.0), "layer/b/1": pytest.approx(1.0)}


@pytest.mark.parametrize(
    ("counts", "value"),
    [((0, 3, 2, 8), -1.0), ((0, 0, 2, 8), 0.0), ((8, 8, 8, 8), 1.0), ((2, 4, 4, 8), 0.0)],
)
def test_limits(counts: tuple[int, int, int, int], value: float) -> None:
    assert npmi(*counts) == pytest.approx(value)
