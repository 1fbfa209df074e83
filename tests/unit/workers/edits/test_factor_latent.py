"""Input maps of experts factorised through one projection, against the singular values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orchestrator.config.file import ConfigError, check
from tests.doors.lane import run_killed, run_lane
from tests.doors.routed_lane import routed_lane
from tests.unit.workers.moe.experts.life import grow, layer_of, x_TD
from workers.contract import EditReport, InputError
from workers.edits import Cause, CompressExperts, FactorLatent, FreezeOld, Grow, SetPhase
from workers.moe.experts import Bottleneck, GatedExpert, MLPExpert, SharedLatentExpert
from workers.moe.experts.base import kernel_of
from workers.moe.experts.shared_latent import PackedLatent
from workers.moe.growth import surgery
from workers.moe.growth.growable import cast, count_parameters
from workers.moe.growth.optimizer_state import named_state
from workers.moe.layers import MoELayer
from workers.moe.selectors import TopK

INPUTS = 24
WIDTH = 6
FORM = Bottleneck.Config(width=WIDTH, activation="gelu")


def fields(revision: int = 1) -> dict[str, Any]:
    cause = Cause(policy="test", trigger="test")
    common = {"id": "e", "stage": "s", "after_interval": 0, "seed": 0}
    return {**common, "revision": revision, "cause": cause}


def factor(layer: MoELayer, rank: int, optimizer: Any = None, probe: Any = None) -> EditReport:
    return surgery.apply(layer, optimizer, FactorLatent(**fields(), rank=rank), probe)


def input_maps(layer: MoELayer) -> torch.Tensor:
    """W_e of all experts, stacked."""
    maps = [e.up.weight @ e.latent.weight for e in layer.experts.values()]
    return torch.cat(maps).detach()


def restored(layer: MoELayer, **settings: Any) -> MoELayer:
    other = layer_of(FORM, **settings)
    surgery.ensure_arch(other, surgery.arch(layer))
    other.load_state_dict(layer.state_dict(), strict=True)
    return other.train(layer.training)


@pytest.mark.parametrize(("experts", "rank"), [(3, 3 * WIDTH), (3, INPUTS), (6, INPUTS)])
def test_at_full_rank_nothing_changes(experts: int, rank: int) -> None:
    layer = layer_of(FORM, experts, most=6, selector=TopK.Config(k=2))
    report = factor(layer, rank, probe=x_TD())
    assert report.probe_change is not None
    assert report.probe_change < 1e-5
    assert all(type(expert) is SharedLatentExpert for expert in layer.experts.values())
    assert isinstance(kernel_of(list(layer.experts.values())), PackedLatent)


@pytest.mark.parametrize("rank", [1, 5, 11])
def test_the_error_is_the_tail_of_singular_values(rank: int) -> None:
    layer = layer_of(FORM, 3)
    whole = torch.cat([e.up.weight for e in layer.experts.values()]).detach()
    tail = torch.linalg.svdvals(whole.double())[rank:].square().sum().sqrt()
    factor(layer, rank)
    found = (input_maps(layer) - whole).norm()
    torch.testing.assert_close(found.double(), tail, rtol=1e-5, atol=1e-6)


def test_parameters_fall_by_what_the_factors_save() -> None:
    layer = layer_of(FORM, 4)
    before, rank = count_parameters(layer), 3
    report = factor(layer, rank)
    saved = 4 * WIDTH * INPUTS - (rank * INPUTS + 4 * WIDTH * rank)
    assert before - count_parameters(layer) == saved
    assert report.before.layers[""].parameters - report.after.layers[""].parameters == saved
    assert report.after.layers[""].widths == (WIDTH,) * 4


def test_several_forms_have_a_projection_each() -> None:
    layer = layer_of(FORM, 4, more_experts=(Bottleneck.Config(width=4),))
    factor(layer, 5)
    assert set(layer.common) == {"0", "1"}
    for form, numbers in (("0", (0, 2)), ("1", (1, 3))):
        assert all(layer.expert(n).latent is layer.common[form] for n in numbers)


def test_what_is_kept_keeps_its_optimizer_state() -> None:
    layer = layer_of(FORM, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    layer(x_TD()).square().sum().backward()
    optimizer.step()
    before = {k: v.clone() for k, v in named_state(layer, optimizer).items()}
    kept = {k: v.clone() for k, v in layer.state_dict().items() if ".up.weight" not in k}
    factor(layer, 4, optimizer)
    after = named_state(layer, optimizer)
    assert set(after) == {name for name in before if ".up.weight" not in name}
    assert all(torch.equal(after[name], before[name]) for name in after)
    state = layer.state_dict()
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    optimizer.zero_grad()
    old = input_maps(layer)
    layer(x_TD()).square().sum().backward()
    assert layer.common["0"].weight.grad.abs().sum() > 0
    optimizer.step()
    assert not torch.equal(input_maps(layer), old)
    assert any(name.startswith("common.0.weight/") for name in named_state(layer, optimizer))


def test_it_grows_and_is_restored() -> None:
    layer = layer_of(FORM, 2, selector=TopK.Config(k=2), shared=1).eval()
    factor(layer, 4)
    assert type(layer.shared[0]) is Bottleneck
    old = {k: v.clone() for k, v in layer.state_dict().items()}
    grow(layer, 4, "clone_noise")
    assert all(torch.equal(layer.state_dict()[k], v) for k, v in old.items() if "experts." in k)
    assert layer.expert(3).latent is layer.common["0"]
    assert layer.layer_shape().widths == (WIDTH,) * 4
    rank4 = restored(layer, selector=TopK.Config(k=2), shared=1)
    assert torch.equal(rank4(x_TD()), layer(x_TD()))
    assert surgery.fingerprint(rank4) == surgery.fingerprint(layer)
    assert [n for n, _ in rank4.named_parameters()] == [n for n, _ in layer.named_parameters()]
    again = factor(rank4, 4, probe=x_TD())
    assert again.probe_change == 0, "an edit applied twice is harmless"


def test_an_architecture_before_it_comes_back() -> None:
    plain, layer = layer_of(FORM, 3).eval(), layer_of(FORM, 2).eval()
    factor(layer, 4)
    surgery.ensure_arch(layer, surgery.arch(plain))
    layer.load_state_dict(plain.state_dict(), strict=True)
    assert not layer.common
    assert torch.equal(layer(x_TD()), plain(x_TD()))
    assert surgery.fingerprint(layer) == surgery.fingerprint(plain)


def test_vectors_that_stand_in_stay() -> None:
    layer = layer_of(FORM, 4, selector=TopK.Config(k=2)).eval()
    surgery.apply(layer, None, CompressExperts(**fields(), main=1), None)
    scales = [expert.scale for expert in layer.experts.values()]
    with torch.no_grad():
        scales[1].uniform_(0.5, 1.5)
    assert factor(layer, INPUTS, probe=x_TD()).probe_change < 1e-5
    assert all(e.scale is s for e, s in zip(layer.experts.values(), scales, strict=True))
    other = restored(layer, selector=TopK.Config(k=2))
    assert torch.equal(other(x_TD()), layer(x_TD()))


def test_a_phase_without_experts_trains_no_factor() -> None:
    layer = layer_of(FORM, 2)
    phase = SetPhase(**fields(), phase="router", trains=("router",))
    surgery.apply(layer, None, phase, None)
    factor(layer, 4)
    parts = (*layer.experts.parameters(), *layer.common.parameters())
    assert not any(parameter.requires_grad for parameter in parts)


def test_half_types_are_kept() -> None:
    layer = layer_of(FORM, 3)
    cast(layer, torch.bfloat16)
    before = layer(x_TD().bfloat16()).detach().float()
    factor(layer, 3 * WIDTH)
    assert all(p.dtype is torch.bfloat16 for p in layer.parameters())
    after = layer(x_TD().bfloat16()).detach().float()
    assert float((after - before).norm() / before.norm()) < 0.05


@pytest.mark.parametrize("form", [MLPExpert.Config(), GatedExpert.Config()])
def test_other_experts_are_refused(form: Any) -> None:
    layer = layer_of(form)
    before = surgery.fingerprint(layer)
    with pytest.raises(InputError, match="have no form that reads through a shared projection"):
        factor(layer, 4)
    assert surgery.fingerprint(layer) == before


def test_experts_that_may_not_follow_are_refused() -> None:
    latent = layer_of(SharedLatentExpert.Config(rank=4, width=6))
    with pytest.raises(InputError, match="shared_latent have no form"):
        factor(latent, 4)
    with pytest.raises(InputError, match="allowed are 1 to 24"):
        factor(layer_of(FORM), INPUTS + 1)
    twice = layer_of(FORM)
    factor(twice, 4)
    with pytest.raises(InputError, match="through 4 numbers already"):
        factor(twice, 3)
    frozen = layer_of(FORM)
    surgery.apply(frozen, None, Grow(**fields(), experts=3, initialiser="random"), None)
    surgery.apply(frozen, None, FreezeOld(**fields()), None)
    with pytest.raises(InputError, match=r"experts \[0, 1\] are frozen"):
        factor(frozen, 4)


def test_a_config_of_other_experts_cannot_take_it_over() -> None:
    layer = layer_of(FORM)
    factor(layer, 4)
    with pytest.raises(InputError, match="restore with the config"):
        surgery.ensure_arch(layer_of(GatedExpert.Config()), surgery.arch(layer))


RAW = {
    **routed_lane({"expert": {"kind": "bottleneck", "width": 6}}),
    "policies": {
        "growth": "periodic",
        "smaller": {"kind": "factor_latent", "rank": 4, "from_stage": 0},
    },
}


def test_a_lane_goes_on_from_it_through_kills(tmp_path: Any) -> None:
    whole = run_lane(tmp_path / "whole", RAW)
    assert run_killed(tmp_path / "killed", RAW).essence == whole.essence
    assert [e["kind"] for e in whole.edits] == ["factor_latent", "grow"]
    assert whole.edits[0]["probe_change"] > 0


def test_a_plan_refuses_what_cannot_be_factorised() -> None:
    raw = {**routed_lane({"expert": "gated"}), "policies": {"smaller": "factor_latent"}}
    with pytest.raises(ConfigError, match="gated have no form with a shared projection"):
        check({"name": "x", **raw}, "x")
    raw = {**RAW, "policies": {"smaller": {"kind": "factor_latent", "from_stage": 9}}}
    with pytest.raises(ConfigError, match="from_stage"):
        check({"name": "x", **raw}, "x")
