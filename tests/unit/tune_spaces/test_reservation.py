"""A trial that could never be placed is refused; one that may be is not."""

from __future__ import annotations

import pytest

from tune_spaces.reservation import check_placeable
from workers.contract import InputError

FOUR = {"CPU": 4.0, "memory": 1e9, "node:10.0.0.1": 1.0}


@pytest.mark.parametrize(
    ("bundles", "nodes"),
    [
        ([{}], [FOUR]),
        ([{}, *[{"CPU": 1.0}] * 4], [FOUR]),
        ([{}, *[{"CPU": 0.1}] * 40], [FOUR]),
        ([{}, {"CPU": 4.0}, {"CPU": 4.0}], [FOUR, FOUR]),
        ([{}, {"CPU": 1.0, "GPU": 1.0}], [FOUR, {"CPU": 1.0, "GPU": 1.0}]),
    ],
)
def test_what_fits_is_let_through(
    bundles: list[dict[str, float]], nodes: list[dict[str, float]]
) -> None:
    check_placeable(bundles, nodes)


@pytest.mark.parametrize(
    ("bundles", "nodes", "words"),
    [
        ([{}, *[{"CPU": 1.0}] * 5], [FOUR], "CPU = 5 for all its processes together: 4 there"),
        ([{}, {"CPU": 2.0}, *[{"CPU": 1.0}] * 3], [FOUR], "CPU = 5 for all its .*: 4 there"),
        ([{}, {"CPU": 5.0}], [FOUR, FOUR], "1 x CPU = 5: there is room for 0"),
        ([{}, *[{"CPU": 3.0}] * 2], [FOUR, {"CPU": 2.0}], "2 x CPU = 3: there is room for 1"),
        ([{}, {"GPU": 0.5}], [FOUR], "GPU = 0.5"),
        ([{}, {"CPU": 1.0}], [], "there is none"),
    ],
)
def test_what_can_never_fit_says_what_is_missing(
    bundles: list[dict[str, float]], nodes: list[dict[str, float]], words: str
) -> None:
    with pytest.raises(InputError, match=words) as raised:
        check_placeable(bundles, nodes)
    assert "num_env_runners" in str(raised.value)
    assert "--address" in str(raised.value)
