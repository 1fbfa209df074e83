"""Arithmetic of routing on tables against hand-worked values."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from tests.commands import ROOT
from workers.diagnostics import tables


def test_specialisation_is_1_for_own_experts_and_0_for_shared_ones() -> None:
    assert tables.specialisation([[8, 0, 0], [0, 4, 4]]) == pytest.approx(1.0)
    assert tables.specialisation([[4, 4], [2, 2]]) == pytest.approx(0.0, abs=1e-12)
    assert tables.specialisation([[4, 4]]) == 0.0
    assert tables.specialisation([[4, 4], [0, 0]]) == 0.0


def test_overlaps() -> None:
    assert tables.jaccard([1, 1, 0], [0, 1, 1]) == pytest.approx(1 / 3)
    assert tables.weighted_jaccard([0.5, 0.5, 0.0], [0.0, 0.5, 0.5]) == pytest.approx(1 / 3)
    rows = [[1, 0], [1, 0], [0, 1]]
    assert tables.mean_pairs(rows, tables.jaccard) == pytest.approx(1 / 3)


def test_load() -> None:
    assert tables.load_cv([5, 5, 5]) == 0.0
    assert tables.load_cv([0, 10]) == pytest.approx(1.0)
    assert tables.load_cv([0, 0]) == 0.0
    assert tables.load_peak([1, 3]) == 1.5
    assert tables.load_peak([0, 0]) == 0.0
    assert tables.dead_experts([0, 1, 999]) == 2
    assert tables.dead_experts([0, 0]) == 2


def test_entropy_in_nats() -> None:
    assert tables.entropy([0.5, 0.5, 0.0]) == pytest.approx(math.log(2))


def test_drift_of_gates_with_a_newcomer() -> None:
    then = [[1.0, 0.0], [0.0, 1.0]]
    assert tables.drift(then, then) == (0.0, 0.0, 0.0)
    assert tables.drift(then, [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]) == pytest.approx((0.5, 0.5, 0.5))


def test_age_share() -> None:
    assert tables.age_share([0.2, 0.3, 0.5], [-1, -1, 2]) == pytest.approx({-1: 0.5, 2: 0.5})


def test_the_driver_needs_no_torch_to_read_figures() -> None:
    program = (
        "import sys, workers.diagnostics.tables, orchestrator.report.specialisation; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
