"""Golden values of scores against baselines, worked out by hand, and where they are undefined."""

import math

import pytest

from orchestrator.report.comparisons import COMPARISONS, Outcome, compare

OWN = Outcome(
    matrix=[[0.9, 0.1, 0.2], [0.6, 0.8, 0.4], [0.7, 0.5, 0.9]],
    curves=[[0.5, 0.9], [0.6, 0.8], [0.8, 0.8]],
)
JOINT = Outcome(matrix=[[0.9, 0.0, 0.0], [0.8, 0.9, 0.0], [0.8, 0.8, 0.7]])
SCRATCH = Outcome(
    matrix=[[0.9, 0.0, 0.0], [0.0, 0.7, 0.0], [0.0, 0.0, 0.8]],
    curves=[[0.5, 0.9], [0.2, 0.8], [0.4, 0.8]],
)
FINETUNE = Outcome(matrix=[[0.9, 0.0, 0.0], [0.4, 0.8, 0.0], [0.1, 0.3, 0.9]])
ALL = {"joint": JOINT, "scratch": SCRATCH, "finetune": FINETUNE}

GOLDEN = {
    # (0.9 - 0.9) + (0.9 - 0.8) + (0.7 - 0.9), over 3
    "intransigence": -0.1 / 3,
    # (0.8 - 0.7) + (0.9 - 0.8), over 2
    "fwt.scratch": 0.1,
    # areas 0.7, 0.7, 0.8 against 0.7, 0.5, 0.6: 0, 0.2 / 0.5, 0.2 / 0.4, over 3
    "fwt.auc": 0.3,
    # forgetting (0.2 + 0.3) / 2 against (0.8 + 0.5) / 2
    "forgetting.reduction": 1 - 0.5 / 1.3,
}


@pytest.mark.parametrize(("name", "value"), GOLDEN.items())
def test_golden_values(name: str, value: float) -> None:
    kind, comparison = COMPARISONS[name]
    assert comparison(OWN, ALL[kind]) == pytest.approx(value, abs=1e-12)


def test_every_comparison_has_a_golden_value_and_a_formula() -> None:
    assert set(COMPARISONS) == set(GOLDEN)
    assert all(comparison.__doc__ for _, comparison in COMPARISONS.values())


def test_only_the_baselines_at_hand_are_compared_with() -> None:
    assert compare(OWN, ALL).keys() == GOLDEN.keys()
    assert compare(OWN, {"joint": JOINT}).keys() == {"intransigence"}
    assert compare(OWN, {}) == {}


def test_a_baseline_that_is_behind_is_compared_at_its_last_stage() -> None:
    behind = {kind: one.upto(2) for kind, one in ALL.items()}
    assert compare(OWN, behind) == compare(OWN.upto(2), ALL)
    # a*_2 = 0.9 against 0.8: (0 + 0.1) / 2; the best before the end was 0.9 of each
    assert compare(OWN, behind)["intransigence"] == pytest.approx(0.05)
    assert compare(OWN, behind)["forgetting.reduction"] == pytest.approx(1 - 0.3 / 0.5)
    nothing = {kind: one.upto(0) for kind, one in ALL.items()}
    assert compare(OWN, nothing) == {}


def test_one_stage_defines_no_forgetting_and_no_transfer_from_earlier_tasks() -> None:
    assert compare(OWN.upto(1), ALL).keys() == {"intransigence", "fwt.auc"}


@pytest.mark.parametrize(
    "curves",
    [
        [[0.5, 0.9], [0.2, math.nan], [0.4, 0.8]],  # no episode ended in an interval
        [[0.5, 0.9], [0.2], [0.4, 0.8]],  # a stage was given up
        [[], [], []],  # another run trained it
        [[1.0, 1.0], [0.2, 0.8], [0.4, 0.8]],  # nothing above it
    ],
)
def test_no_area_without_two_whole_curves_and_room_above_the_reference(
    curves: list[list[float]],
) -> None:
    scratch = Outcome(matrix=SCRATCH.matrix, curves=curves)
    assert "fwt.auc" not in compare(OWN, {"scratch": scratch})
    assert "fwt.scratch" in compare(OWN, {"scratch": scratch})


def test_no_reduction_where_the_reference_forgets_nothing() -> None:
    kept = Outcome(matrix=[[0.9, 0.0], [0.9, 0.9]])
    assert "forgetting.reduction" not in compare(OWN.upto(2), {"finetune": kept})
