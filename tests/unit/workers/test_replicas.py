"""What the workers of a lane share out and add up, with two and three real processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from tests.pairs import Pair
from workers.contract import LostError
from workers.supervised.data_parallel import ALONE, Group, Replicas


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


class Net(nn.Module):
    """One part that every worker uses, one per worker, and one that nobody uses."""

    offset: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleDict({name: nn.Linear(3, 1) for name in ("0", "1", "all", "none")})
        self.register_buffer("offset", torch.tensor([-1.0, 0.25]))

    def forward(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        y: torch.Tensor = self.parts["all"](x) + self.parts[str(rank)](x)
        return y


def state(net: Net, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    kept = {
        f"{name}/{key}": torch.as_tensor(value).tolist()
        for name, parameter in net.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    return {name: value.tolist() for name, value in net.state_dict().items()} | kept


def step(group: Group, samples: int) -> Any:
    """Two steps; in the first, the parameters that nobody uses have a gradient on all."""
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    x = torch.arange(samples * 3).reshape(samples, 3) / 10
    part = group.part(samples)
    group.watch(net)
    net.parts["none"](x[:2]).sum().backward()
    group.sum_gradients(torch.zeros(()), 1 / group.size)
    optimizer.step()
    before = state(net, optimizer)
    optimizer.zero_grad(set_to_none=True)
    loss = net(x[part], group.rank).square().mean()
    loss.backward()
    net.offset = net.offset + torch.tensor([0.5, float(group.rank)])
    loss = group.sum_gradients(loss.detach(), (part.stop - part.start) / samples)
    missing = sorted(n for n, p in net.named_parameters() if p.grad is None)
    gradient = net.parts["all"].weight.grad
    assert gradient is not None
    gradients = gradient.tolist()
    optimizer.step()
    return before, state(net, optimizer), float(loss), missing, gradients


@pytest.mark.parametrize("samples", [8, 7])
def test_step_of_two_is_the_step_of_one_on_the_whole_batch(pair: Pair, samples: int) -> None:
    first, second = pair.run(step, samples)
    assert first == second, "replicas hold the same bits"
    before, after, loss, missing, gradients = first
    assert missing == ["parts.none.bias", "parts.none.weight"]
    still = {name for name in before if before[name] == after[name]}
    assert still == {name for name in before if name.startswith("parts.none")}, "Adam's state too"
    assert any("exp_avg" in name for name in still)
    net = Net()
    x = torch.arange(samples * 3).reshape(samples, 3) / 10
    parts = [Replicas.part(Group(rank, 2, None, torch.device("cpu")), samples) for rank in (0, 1)]
    whole = torch.cat([net(x[part], rank) for rank, part in enumerate(parts)]).square().mean()
    whole.backward()
    assert loss == pytest.approx(whole.item(), rel=1e-6)
    expected = net.parts["all"].weight.grad
    assert torch.tensor(gradients).allclose(expected, rtol=1e-5)  # type: ignore[arg-type]
    share = len(x[parts[1]]) / samples
    assert after["offset"] == pytest.approx([-0.5, 0.25 + share]), "each moved by its samples' mean"


def counted(group: Group) -> Any:
    counts = torch.tensor([2**40 + group.rank, group.rank])
    return group.sum_counts(counts).tolist(), counts.tolist()


def test_counts_are_added_as_integers(pair: Pair) -> None:
    found = pair.run(counted)
    assert [total for total, _ in found] == [[2**41 + 1, 1]] * 2
    assert [own for _, own in found] == [[2**40, 0], [2**40 + 1, 1]], "own counts stay"


def named(group: Group, alone: bool) -> Any:
    values = {"b": torch.tensor(1.0 + group.rank), "a": torch.tensor(0.5)}
    return group.sum_named({k: v.double() for k, v in values.items() if not alone or group.rank})


def test_named_sums_are_those_of_all_or_nobody_s(pair: Pair) -> None:
    assert pair.run(named, False) == [{"a": 1.0, "b": 3.0}] * 2
    assert pair.run(named, True) == [{}, {}], "a worker that had no sample knows no names"
    assert ALONE.sum_named({"a": torch.tensor(2.0)}) == {"a": 2.0}


def drawn(group: Group) -> Any:
    torch.manual_seed(3)
    with group.own_draws(1, 0):
        own = torch.rand(group.rank + 1).tolist()
    return own[0], torch.rand(1).item()


def test_own_draws_differ_and_leave_the_common_ones_alone(pair: Pair) -> None:
    (one, common), (other, again) = pair.run(drawn)
    torch.manual_seed(3)
    assert one != other
    assert common == again == torch.rand(1).item()


def lost(group: Group) -> Any:
    if group.rank == 1:
        os._exit(9)
    try:
        group.sum_counts(torch.ones(1))
    except LostError as error:
        return str(error)
    return None


def test_lost_worker_is_told_apart_from_a_mistake() -> None:
    pair = Pair()
    try:
        pair.pipes[0].send(("meet",))
        address = pair.pipes[0].recv()
        for rank, pipe in enumerate(pair.pipes):
            pipe.send(("call", lost, rank, 2, address))
        assert "worker 0 lost another one" in pair.pipes[0].recv()
    finally:
        pair.close()


def test_three_hold_the_same_bits() -> None:
    trio = Pair(3)
    try:
        assert len({str(found) for found in trio.run(three)}) == 1
        assert trio.run(unlike, "0 1 2") == [{}] * 3
        assert trio.run(unlike, "01 012 0123") == [{}] * 3, "as many as the mean of all"
        assert trio.run(unlike, "01 01 01") == [{"0": 3.0, "1": 3.0}] * 3
    finally:
        trio.close()


def unlike(group: Group, names: str) -> Any:
    own = names.split()[group.rank]
    return group.sum_named({name: torch.tensor(1.0).double() for name in own})


def three(group: Group) -> Any:
    net = nn.Linear(50, 20)
    nn.init.ones_(net.weight)
    group.watch(net)
    torch.manual_seed(group.rank)
    loss = net(torch.randn(10, 50)).square().mean()
    loss.backward()
    group.sum_gradients(loss.detach(), 1 / 3)
    assert net.weight.grad is not None
    return net.weight.grad.tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("samples", [0, 1, 2, 64, 65])
def test_parts_cover_a_batch_once_in_order(size: int, samples: int) -> None:
    cpu = torch.device("cpu")
    parts = [Group(rank, size, None, cpu).part(samples) for rank in range(size)]
    assert [i for part in parts for i in range(samples)[part]] == list(range(samples))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_alone_everything_stays_as_it_is() -> None:
    net = nn.Linear(2, 1)
    loss = net(torch.ones(1, 2)).sum()
    loss.backward()
    ALONE.watch(net)
    assert ALONE.sum_gradients(loss, 1.0) is loss
    assert net.weight.grad is not None
    assert net.weight.grad.tolist() == [[1.0, 1.0]]
    assert ALONE.part(7) == slice(0, 7)
