"""Measures of specialisation against hand-worked values, and figures that are images."""

from __future__ import annotations

import pytest

from orchestrator.report import domain_figures, specialisation
from workers.edits import Cause, RefreshMask


def test_specialisation_is_1_for_own_experts_and_0_for_shared_ones() -> None:
    assert specialisation.specialisation([[8, 0, 0], [0, 4, 4]]) == pytest.approx(1.0)
    assert specialisation.specialisation([[4, 4], [2, 2]]) == pytest.approx(0.0, abs=1e-12)
    assert specialisation.specialisation([[4, 4]]) == 0.0


def test_overlaps() -> None:
    assert specialisation.jaccard([1, 1, 0], [0, 1, 1]) == pytest.approx(1 / 3)
    assert specialisation.weighted([0.5, 0.5, 0.0], [0.0, 0.5, 0.5]) == pytest.approx(1 / 3)
    assert specialisation.mean_pairs(
        [[1, 0], [1, 0], [0, 1]], specialisation.jaccard
    ) == pytest.approx(1 / 3)


def test_load() -> None:
    assert specialisation.load_cv([5, 5, 5]) == 0.0
    assert specialisation.load_cv([0, 10]) == pytest.approx(1.0)
    assert specialisation.dead([0, 1, 999]) == 2


def test_drift_of_gates_with_a_newcomer() -> None:
    then = [[1.0, 0.0], [0.0, 1.0]]
    assert specialisation.drift(then, then) == (0.0, 0.0, 0.0)
    moved, flips, newcomers = specialisation.drift(then, [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert (moved, flips, newcomers) == pytest.approx((0.5, 0.5, 0.5))


def test_age_share() -> None:
    assert specialisation.age_share([0.2, 0.3, 0.5], [-1, -1, 2]) == pytest.approx(
        {-1: 0.5, 2: 0.5}
    )


def test_mask_overlap_counts_only_domains_that_were_seen() -> None:
    figures = specialisation.of_mask(
        {"l": [[1, 0], [1, 1], [0, 1]]}, {"l": [[0.9, 0.1], [0, 0], [0.1, 0.9]]}, ("a", "b", "c")
    )
    assert figures["l/overlap_jaccard"] == 0.0
    assert figures["l/overlap_weighted"] == pytest.approx(0.2 / 1.8)


def test_figures_are_images() -> None:
    mask = RefreshMask(
        id="m",
        stage="s",
        revision=1,
        after_interval=1,
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
