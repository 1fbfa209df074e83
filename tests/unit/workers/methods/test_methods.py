"""Continual-learning methods: what they train on, what they remember, and exact resume."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.methods import NOTHING, build, numbered, over
from workers.methods import METHODS
from workers.parsing import choose


def batch(size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(size, 1, 1, 1), torch.zeros(size, dtype=torch.int64)


@pytest.mark.parametrize("kind", METHODS)
def test_builds_from_default_config(kind):
    method = METHODS[kind](METHODS[kind].Config(), 0)
    assert method.config.kind == kind
    part = method.training_data(numbered(0, 5), ())
    assert part.y.tolist() == list(range(5))
    x, y = method.extend_batch(part.x, part.y)
    assert torch.equal(x, part.x)
    assert len(y) == len(part.y), "nothing is remembered yet"
    again = METHODS[kind](METHODS[kind].Config(), 1)
    again.load_state(method.state(), NOTHING)
    assert again.state().keys() == method.state().keys()


def test_joint_trains_on_everything_seen():
    method = build("joint")
    assert method.needs_past
    part = method.training_data(numbered(6, 2), [numbered(0, 3), numbered(3, 3)])
    assert part.y.tolist() == list(range(8))
    assert part.x.flatten().tolist() == list(range(8))


@pytest.mark.parametrize("kind", ["finetune", "joint", "scratch", "replay", "gdumb"])
def test_the_loss_is_that_of_the_objective(kind):
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    model = nn.Linear(3, 2)
    assert torch.equal(build(kind).loss(model, x, y), nn.functional.cross_entropy(model(x), y))


def test_methods_say_whose_hooks_they_need():
    assert METHODS["finetune"].works_with == {"supervised", "rl"}
    assert METHODS["replay"].works_with == {"supervised"}


# ---------------------------------------------------------------- replay


def test_replay_starts_with_the_second_task():
    method = build("replay", buffer=10, batch=3)
    x, y = batch()
    assert method.extend_batch(x, y)[0] is x
    method.end_stage(over(numbered(100, 50)))
    longer_x, longer_y = method.extend_batch(x, y)
    assert longer_x.shape == (7, 1, 1, 1)
    assert longer_y[:4].tolist() == [0] * 4
    drawn = longer_y[4:].tolist()
    assert len(set(drawn)) == 3
    assert all(100 <= value < 150 for value in drawn)
    assert longer_x[4:].flatten().tolist() == drawn


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    buffer=st.integers(1, 50),
    seed=st.integers(0, 3),
)
def test_buffer_holds_distinct_samples_of_the_stream(sizes, buffer, seed):
    method = build("replay", seed, buffer=buffer)
    total = 0
    for size in sizes:
        method.end_stage(over(numbered(total, size)))
        total += size
        state = method.state()
        kept = state["y"].tolist()
        assert len(kept) == min(buffer, total) == len(set(kept))
        assert all(0 <= value < total for value in kept)
        assert state["x"].flatten().tolist() == kept
        assert int(state["seen"]) == total


def test_buffer_is_a_uniform_sample_of_the_stream():
    buffer, trials, sizes = 20, 600, (30, 10, 60)
    counts = np.zeros(sum(sizes))
    for seed in range(trials):
        method = build("replay", seed, buffer=buffer)
        for first, size in zip((0, 30, 40), sizes, strict=True):
            method.end_stage(over(numbered(first, size)))
        counts[method.state()["y"].numpy()] += 1
    expected = trials * buffer / len(counts)
    share = buffer / len(counts)
    # samples are drawn without replacement: the variance of a count is expected * (1 - share)
    chi_square = ((counts - expected) ** 2).sum() / (expected * (1 - share))
    assert chi_square < 161  # 99 degrees of freedom, p = 1e-4


def test_offering_in_parts_equals_one_stream():
    whole, parts = build("replay", buffer=7), build("replay", buffer=7)
    whole.end_stage(over(numbered(0, 90)))
    for first in (0, 30, 60):
        parts.end_stage(over(numbered(first, 30)))
    assert whole.state()["y"].tolist() == parts.state()["y"].tolist()


def test_buffer_holds_copies():
    method = build("replay", buffer=5)
    task = numbered(0, 5)
    method.end_stage(over(task))
    task.train.x.fill_(-1)
    method.state()["x"].fill_(-2)
    x, _ = method.extend_batch(*batch())
    assert sorted(x[4:].flatten().tolist()) == [0, 1, 2, 3, 4]


def test_state_round_trip_continues_bit_for_bit():
    method = build("replay", buffer=40, batch=8)
    method.end_stage(over(numbered(0, 100)))
    method.extend_batch(*batch())
    saved = method.state()
    resumed = build("replay", seed=99, buffer=40, batch=8)
    resumed.load_state(saved, NOTHING)
    for stage in (1, 2):
        for _ in range(5):
            pairs = zip(method.extend_batch(*batch()), resumed.extend_batch(*batch()), strict=True)
            assert all(torch.equal(one, two) for one, two in pairs)
        for one in (method, resumed):
            one.end_stage(over(numbered(stage * 100, 100)))
    before, after = method.state(), resumed.state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert saved["rng"].dtype == torch.uint8


def test_seeds_draw_differently():
    def drawn(seed):
        method = build("replay", seed, buffer=50)
        method.end_stage(over(numbered(0, 500)))
        return method.state()["y"].tolist()

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("name", ["buffer", "batch"])
def test_empty_buffers_are_refused(name):
    _, config, problems = choose(METHODS, {"kind": "replay", name: 0}, "method")
    assert config is None
    assert f"{name} must be at least 1" in str(problems[0])
