"""Vectors that stand in for experts, against their equation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orchestrator.config.file import ConfigError, check
from orchestrator.policies.compress import Compress
from tests.doors.lane import run_killed, run_lane
from tests.doors.routed_lane import routed_lane
from workers.contract import InputError
from workers.edits import Cause, CompressExperts, Grow, RefreshMask
from workers.moe.experts import Bottleneck
from workers.moe.experts.memory import MemoryExpert
from workers.moe.growth import surgery
from workers.moe.layers import MoELayer
from workers.moe.routed import StepContext, routed_layers
from workers.moe.routers import RouterContext
from workers.moe.selectors import Dense, TopK
from workers.moe.stepping import drop_gradients, stepping
from workers.tables import Problem


def fields(revision: int = 1) -> dict[str, Any]:
    cause = Cause(policy="test", trigger="test")
    common = {"id": "e", "stage": "s", "after_interval": 0, "seed": 0}
    return {**common, "revision": revision, "cause": cause}


def edit(main: int) -> CompressExperts:
    return CompressExperts(**fields(), main=main)


def layer(selector: Any = None) -> MoELayer:
    expert = Bottleneck.Config(width=4)
    config = MoELayer.Config(selector=selector or TopK.Config(k=4), expert=expert)
    return MoELayer(config, 8, 10, experts=5, seed=1)


def by_hand(moe: MoELayer, x_TD: torch.Tensor, k: int, main: int) -> torch.Tensor:
    """y = sum_{i<=main} a_i E_i(x * theta), theta = sum_{i>main} a'_i theta_i."""
    answers = []
    for x_D, logits_E in zip(x_TD, moe.router(x_TD, RouterContext()), strict=True):
        top = logits_E.topk(k)
        a_K = top.values.softmax(0)
        rest_K = a_K[main:] / a_K[main:].sum()
        scales = [moe.expert(int(i)).scale for i in top.indices[main:]]
        theta_D = sum(a * scale for a, scale in zip(rest_K, scales, strict=True))
        chosen = zip(a_K[:main], top.indices[:main], strict=True)
        answers.append(sum(a * moe.expert(int(i))(x_D * theta_D) for a, i in chosen))
    return torch.stack(answers)


@pytest.mark.parametrize(("selector", "k"), [(TopK.Config(k=4), 4), (Dense.Config(), 5)])
def test_it_is_the_equation(selector: Any, k: int) -> None:
    moe = layer(selector)
    surgery.apply(moe, None, edit(2), None)
    torch.manual_seed(0)
    with torch.no_grad():
        for expert in moe.experts.values():
            expert.scale.uniform_(0.5, 1.5)
    x = torch.randn(9, 8)
    assert torch.allclose(moe(x), by_hand(moe, x, k, 2), atol=1e-6)


def test_at_the_edit_only_what_no_longer_runs_is_missing() -> None:
    moe, whole = layer(), layer()
    x = torch.randn(9, 8)
    surgery.apply(moe, None, edit(2), None)
    logits_TE = whole.router(x, RouterContext())
    top = logits_TE.topk(4, dim=1)
    a_TK = top.values.softmax(1)
    missing = torch.stack(
        [
            sum(a_TK[t, j] * whole.expert(int(top.indices[t, j]))(x[t]) for j in (2, 3))
            for t in range(9)
        ]
    )
    assert torch.allclose(moe(x), whole(x) - missing, atol=1e-6)


def test_vectors_learn_where_their_experts_were_chosen_and_may_be_taught() -> None:
    moe = layer()
    surgery.apply(moe, None, edit(1), None)
    mask = RefreshMask(
        **fields(2),
        version=1,
        domains=("a", "b"),
        masks={"": [[1, 1, 1, 1, 1], [1, 0, 1, 0, 1]]},
    )
    surgery.apply(moe, None, mask, None)
    with stepping(moe, StepContext(0.0, ("a", "b"), torch.ones(9, dtype=torch.long))):
        moe(torch.randn(9, 8)).square().sum().backward()
        drop_gradients(routed_layers(moe))
    learnt = {n for n in moe.ids if moe.expert(n).scale.grad is not None}
    assert learnt == {0, 2, 4}
    assert all(moe.expert(n).scale.grad.abs().sum() > 0 for n in learnt)


def test_it_travels_and_grows() -> None:
    moe = layer()
    surgery.apply(moe, None, edit(2), None)
    surgery.apply(moe, None, Grow(**fields(2), experts=6, initialiser="clone_split"), None)
    with torch.no_grad():
        moe.expert(3).scale.uniform_(0.5, 1.5)
    other = layer()
    surgery.ensure_arch(other, surgery.arch(moe))
    other.load_state_dict(moe.state_dict(), strict=True)
    x = torch.randn(4, 8)
    moe.eval(), other.eval()
    assert torch.equal(other(x), moe(x))
    assert surgery.fingerprint(other) == surgery.fingerprint(moe)
    again = surgery.apply(moe, None, edit(2), x)
    assert again.probe_change == 0
    plain = layer().eval()
    surgery.ensure_arch(other, surgery.arch(plain))
    other.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(other(x), plain(x))


def test_half_types_keep_gates_in_float32() -> None:
    moe = layer().bfloat16()
    surgery.apply(moe, None, edit(2), None)
    y = moe(torch.randn(4, 8, dtype=torch.bfloat16))
    assert y.dtype is torch.bfloat16
    assert moe.expert(0).scale.dtype is torch.bfloat16


def test_nothing_to_stand_in_for_is_refused() -> None:
    with pytest.raises(InputError, match="4 experts run for a token, and main = 4"):
        surgery.apply(layer(), None, edit(4), None)


RAW = {
    **routed_lane({"selector": {"kind": "topk", "k": 2}}),
    "policies": {"growth": "periodic", "less": {"kind": "compress", "from_stage": 1}},
}


def test_a_lane_goes_on_from_it_through_kills(tmp_path: Any) -> None:
    whole = run_lane(tmp_path / "whole", RAW)
    assert run_killed(tmp_path / "killed", RAW).essence == whole.essence
    kinds = [e["kind"] for e in whole.edits]
    assert kinds == ["grow", "compress_experts"]
    assert whole.edits[1]["probe_change"] > 0


def test_a_plan_refuses_what_leaves_nothing_out() -> None:
    raw = {**RAW, "policies": {"less": {"kind": "compress", "main": 2}}}
    with pytest.raises(ConfigError, match="run fewer than are chosen"):
        check({"name": "x", **raw}, "x")


def test_experts_without_parameters_are_refused() -> None:
    forms = {"expert": Bottleneck.Config(width=4), "more_experts": (MemoryExpert.Config(),)}
    moe = MoELayer(MoELayer.Config(selector=TopK.Config(k=3), **forms), 8, 10, experts=4, seed=1)
    with pytest.raises(InputError, match="experts 1, 3 have no parameters"):
        surgery.apply(moe, None, edit(2), None)


def test_a_plan_refuses_what_one_of_the_layers_could_not_do() -> None:
    def problems(*k: int) -> list[Problem]:
        class Lane:
            tasks = (1, 2, 3)

            def parts(self, section: str) -> list[Any]:
                return [MoELayer.Config(selector=TopK.Config(k=number)) for number in k]

        return Compress.Config(main=2).problems(Lane())  # type: ignore[arg-type]

    assert problems(4, 4) == []
    (found,) = problems(4, 2)
    assert found.found == "2 of 2 experts that a token chooses"
