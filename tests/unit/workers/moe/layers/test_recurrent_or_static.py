"""A recurrent and a static expert under one gate: steps, state, causality, gradients, core."""

from __future__ import annotations

import pytest
import torch

from workers.contract import InputError
from workers.models import CORES
from workers.models.cores import Past
from workers.moe.layers import RecurrentOrStaticLayer

B, S, D, O = 3, 9, 6, 5  # noqa: E741


def _layer() -> RecurrentOrStaticLayer:
    return RecurrentOrStaticLayer(RecurrentOrStaticLayer.Config(hidden=8), D, O, seed=2)


def _x() -> torch.Tensor:
    return torch.randn(B, S, D, generator=torch.Generator().manual_seed(1))


def test_each_step_is_answered_by_one_expert_and_memory_skips_the_others_steps() -> None:
    layer, x = _layer(), _x()
    y = layer(x)
    weight, recalls = layer.gates(x)
    assert recalls.any()
    assert not recalls.all()
    for b in range(B):
        chosen = x[b][recalls[b]]  # the sequence of steps that the memory sees
        state, states = torch.zeros(1, O), []
        for step in chosen:
            state = layer.recurrent(step[None], state)
            states.append(state[0])
        expected = layer.static(x[b])
        expected = expected.index_put((recalls[b].nonzero()[:, 0],), torch.stack(states))
        torch.testing.assert_close(y[b], weight[b, :, None] * expected)
    p = layer.gate(x).softmax(-1)
    torch.testing.assert_close(weight, p.max(-1).values)


def test_it_sees_no_later_step_and_every_part_learns() -> None:
    layer, x = _layer(), _x()
    later = x.clone()
    later[:, 5:] = 7.0
    assert torch.equal(layer(later)[:, :5], layer(x)[:, :5])
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


def test_rows_without_a_sequence_are_refused() -> None:
    with pytest.raises(InputError, match="sequences"):
        _layer()(_x()[:, 0])
    for cls in (RecurrentOrStaticLayer, CORES["recurrent_or_static"]):
        with pytest.raises(ValueError, match="hidden"):
            cls.Config(hidden=0)


def test_the_core_goes_by_steps_as_by_sequences_and_forgets_when_an_episode_begins() -> None:
    cls = CORES["recurrent_or_static"]
    core, x = cls(cls.Config(size=O, hidden=8), D, 3), _x()
    begins = torch.zeros(B, S, dtype=torch.bool)
    begins[0, 4] = begins[1, 0] = True
    state = torch.randn(B, O, generator=torch.Generator().manual_seed(5))
    y, after = core(x, Past(state, begins))
    now = state
    for t in range(S):
        step, now = core(x[:, t : t + 1], Past(now, begins[:, t : t + 1]))
        torch.testing.assert_close(step[:, 0], y[:, t])
    torch.testing.assert_close(now, after)
    fresh, _ = core(x[:1, 4:], Past(torch.zeros(1, O), begins[:1, 4:]))
    torch.testing.assert_close(fresh[0], y[0, 4:])


def test_half_precision() -> None:
    layer = _layer()
    expected = layer(_x())
    found = layer.to(torch.bfloat16)(_x().bfloat16())
    assert found.dtype == torch.bfloat16
    assert float((found.float() - expected).detach().norm() / expected.detach().norm()) < 0.1
