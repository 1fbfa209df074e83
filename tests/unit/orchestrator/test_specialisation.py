"""Figures over several evaluations against hand-worked values, and drawings that are images."""

from __future__ import annotations

import pytest

from orchestrator.report import domain_figures, specialisation
from workers.edits import Cause, RefreshMask


def test_overlap_counts_only_domains_that_were_seen() -> None:
    figures = specialisation.overlaps(
        {"l": [[1, 0], [1, 1], [0, 1]]}, {"l": [[0.9, 0.1], [0, 0], [0.1, 0.9]]}, ("a", "b", "c")
    )
    assert figures == pytest.approx({"mask_overlap/l": 0.0, "usage_overlap/l": 0.2 / 1.8})


def test_share_of_experts_by_the_stage_they_were_born_in() -> None:
    weights = {"l": [0.2, 0.3, 0.5]}
    assert specialisation.ages(weights, {"l": [-1, -1, 2]}) == pytest.approx(
        {"age_share/l/-1": 0.5, "age_share/l/02": 0.5}
    )
    assert specialisation.ages(weights, {"l": [-1, -1, -1]}) == {}


def test_drift_is_the_mean_over_layers_that_had_gates_at_both_moments() -> None:
    still, moved = [[1.0, 0.0]], [[0.0, 1.0]]
    found = specialisation.drifts(
        "t", {"a": still, "b": still}, {"a": still, "b": moved, "c": still}
    )
    assert found == pytest.approx(
        {"routing_drift/t": 0.5, "top1_flips/t": 0.5, "newcomer_weight/t": 0.0}
    )
    assert specialisation.drifts("t", {}, {"c": still}) == {}


def test_drawings_are_images() -> None:
    mask = RefreshMask(
        id="m",
        stage="s",
        after_interval=1,
        revision=1,
        version=1,
        domains=("a", "b"),
        masks={"l": [[1, 0], [0, 1]]},
        usage={"l": [[0.9, 0.1], [0.2, 0.8]]},
        seed=0,
        cause=Cause(policy="p", trigger="t"),
    )
    for image in (
        domain_figures.domain_usage("lane", mask),
        domain_figures.domain_overlap("lane", mask),
        domain_figures.mask_versions("lane", [mask, mask]),
    ):
        assert image.startswith(b"\x89PNG")
        assert len(image) > 5000
