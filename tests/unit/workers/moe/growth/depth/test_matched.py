"""Schedules that spend what the uniform model spends, against sums worked out here."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.moe.growth.depth.growing import counts, never_lose
from workers.edits import Cause, Grow
from workers.models.heads import MoEHead
from workers.moe.growth import surgery
from workers.moe.growth.schedules import SCHEDULES
from workers.moe.layers import LAYERS, ResidualLayer, active
from workers.moe.selectors import TopK

FORMS = ["uniform", "descending", "ascending", "pyramid_up", "pyramid_down", "wave_down", "wave_up"]


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("uniform", [4, 4, 4, 4]),
        ("descending", [7, 5, 3, 1]),  # 1 + 6 f with f = 1, 2/3, 1/3, 0
        ("ascending", [1, 3, 5, 7]),
        ("pyramid_up", [1, 7, 7, 1]),
        ("pyramid_down", [6, 2, 2, 6]),  # 1 + 4.5 f with f = 1, 1/3, 1/3, 1 and a sum of 16
    ],
)
def test_form_of_the_size_of_the_uniform_model(form: str, wanted: list[int]) -> None:
    assert counts("budget_matched", form, 8, 4) == wanted


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("minimum", [1, 2])
def test_as_many_experts_as_the_uniform_model_at_any_size(form: str, minimum: int) -> None:
    for layers in (3, 4, 7):
        for experts in range(1, 20):
            found = counts("budget_matched", form, experts, layers, minimum=minimum)
            low = min(minimum, experts)
            assert sum(found) == layers * ((experts + low) // 2)
            assert min(found) >= low
    never_lose("budget_matched", form, minimum=minimum)


@pytest.mark.parametrize("form", FORMS)
def test_parameters_of_uneven_layers_are_matched_within_half_an_expert(form: str) -> None:
    maps = [(64, 128), (128, 128), (128, 32), (32, 16)]
    for experts in range(1, 20):
        found = counts("budget_matched", form, experts, 4, maps=maps, of="parameters")
        sizes = [sum(pair) for pair in maps]
        spent = sum(size * n for size, n in zip(sizes, found, strict=True))
        wanted = sum(sizes) * ((experts + 1) // 2)
        assert abs(spent - wanted) <= max(sizes) / 2
    never_lose("budget_matched", form, maps=maps, of="parameters")


@pytest.mark.parametrize("form", FORMS)
def test_operations_of_a_share_of_the_experts_are_matched(form: str) -> None:
    """A selector that runs three tenths of the experts, at least one."""
    active = lambda n: max(1.0, 0.3 * n)  # noqa: E731
    for experts in (8, 16, 20):
        found = counts("flops_matched", form, experts, 4, active=active)
        uniform = 4 * active((experts + 1) // 2)
        if form.startswith("pyramid"):
            assert sum(map(active, found)) <= uniform + 0.5, "its own form is smaller"
        else:
            assert abs(sum(map(active, found)) - uniform) <= 0.5
    never_lose("flops_matched", form, active=active)


def test_a_fixed_number_for_each_token_leaves_the_form_its_own_size() -> None:
    active = lambda n: float(min(n, 2))  # noqa: E731
    found = counts("flops_matched", "descending", 8, 4, active=active)
    assert sum(found) == sum([8, 6, 3, 1]) == 18
    assert found == sorted(found, reverse=True)


def test_layers_say_what_they_run_through_any_wrapping() -> None:
    inner = LAYERS["moe"].Config(selector=TopK.Config(k=3))
    assert active(ResidualLayer.Config(inner=inner), 8) == 3.0
    assert active(ResidualLayer.Config(inner=inner), 2) == 2.0
    assert active(LAYERS["moe"].Config(), 5) == 5.0


def test_a_head_under_it_grows_and_keeps_the_experts_it_had() -> None:
    schedule = SCHEDULES["budget_matched"].Config(schedule=SCHEDULES["ascending"].Config())
    head = MoEHead(MoEHead.Config(hidden=(32,) * 4, schedule=schedule), 32, 3, 2, 8)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    cause = Cause(policy="test", trigger="test")
    edit = Grow(id="e", stage="s", after_interval=0, revision=1, seed=3, cause=cause, experts=8)
    report = surgery.apply(head, None, edit, torch.ones(2, 32))
    assert [layer.experts for layer in report.after.layers.values()] == [1, 3, 5, 7]
    after = head.state_dict()
    kept = [name for name in before if ".experts." in name]
    assert kept
    assert all(torch.equal(before[name], after[name]) for name in kept)
