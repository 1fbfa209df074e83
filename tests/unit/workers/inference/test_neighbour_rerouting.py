"""neighbour_rerouting: gate weights are kernel averages, or descend the neighbours' losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.routed import INPUTS, Two, by_hand, subject
from tests.unit.workers.moe.routers.parts import head
from workers.contract import InputError
from workers.inference.neighbour_rerouting import NeighbourRerouting
from workers.moe.routers import OracleDomainRouter, RouterContext
from workers.moe.stepping import telling

DENSE = {"kind": "dense"}


def prepared(model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> NeighbourRerouting:
    policy = NeighbourRerouting(NeighbourRerouting.Config(**settings))
    references = (x, y, torch.zeros(len(x), dtype=torch.long))
    policy.prepare(
        subject(model, references=lambda samples: tuple(part[:samples] for part in references))
    )
    return policy


def solved(model: nn.Module, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, their targets, and which are answered rightly: all but every third."""
    x = torch.randn(count, INPUTS)
    y = model(x).argmax(-1)
    right = torch.arange(count) % 3 != 0
    return x, torch.where(right, y, (y + 1) % 3), right


def gate(layer: Any, x: Tensor) -> Tensor:
    return layer.router(x, RouterContext()).softmax(-1)


def test_weights_are_the_kernel_average_of_the_nearest_solved() -> None:
    model = Two(DENSE)
    x, y, right = solved(model, 30)
    policy, query = prepared(model, x, y, layers=1), torch.randn(5, INPUTS)
    found = policy.answer(model, query)
    assert policy.figures() == {"remembered": float(right.sum())}
    keys, hidden = model.first(x[right]).tanh(), model.first(query).tanh()
    known = gate(model.last, keys)
    rows = []
    for one in hidden:
        distance = (keys - one).norm(dim=1)
        near = distance.argsort()[:3]
        kernel = torch.exp(-(distance[near] ** 2) / (2 * policy.width**2))
        rows.append((kernel[:, None] * known[near]).sum(0) / kernel.sum())
    expected = by_hand(model.last, hidden, lambda _: torch.stack(rows))
    assert torch.allclose(found, expected, atol=1e-5)


def test_all_layers_follow_the_neighbours_of_the_first() -> None:
    model = Two(DENSE)
    x, y, right = solved(model, 12)
    policy = prepared(model, x, y, neighbours=1)
    kept = x[right]
    found = policy.answer(model, kept + 1e-4)
    assert torch.allclose(found, model(kept), atol=1e-2), "a neighbour's weights are its own"
    expected = by_hand(model.first, kept + 1e-4, lambda _: gate(model.first, kept)).tanh()
    hidden = model.first(kept).tanh()
    expected = by_hand(model.last, expected, lambda _: gate(model.last, hidden))
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_gradient_step_is_that_of_the_neighbours_loss() -> None:
    model = Two(DENSE)
    x, y, right = solved(model, 12)
    settings = {"form": "gradient", "layers": 1, "steps": 1, "lr": 0.2, "neighbours": 2}
    policy, query = prepared(model, x, y, **settings), torch.randn(3, INPUTS)
    with torch.inference_mode():
        found = policy.answer(model, query)
    keys, hidden = model.first(x[right]).tanh(), model.first(query).tanh()
    targets, rows = y[right], []
    for one in hidden.detach():
        distance = (keys - one).norm(dim=1)
        near = distance.argsort()[:2]
        kernel = torch.softmax(-(distance[near] ** 2) / (2 * policy.width**2), 0)
        w = gate(model.last, one[None])[0].detach().requires_grad_()
        z = by_hand(model.last, keys[near], lambda _, w=w: w.expand(2, 3))
        loss = nn.functional.cross_entropy(z, targets[near], reduction="none")
        (gradient,) = torch.autograd.grad((kernel.detach() * loss).sum(), w, retain_graph=True)
        moved = (w - 0.2 * gradient).clamp_min(0.0)
        rows.append((moved / moved.sum()).detach())
    expected = by_hand(model.last, hidden, lambda _: torch.stack(rows))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("form", ["kernel", "gradient"])
def test_references_pass_with_their_own_domains(form: str) -> None:
    """An expert for each domain: queries of one take the experts of references near them."""
    model = head(OracleDomainRouter.Config()).eval()
    x, domain = torch.randn(9, 5), torch.tensor([2, 0, 1]).repeat(3)
    with telling(model, domain), torch.no_grad():
        y = model(x).argmax(-1)
    settings = {"form": form, "memory": 9, "neighbours": 1, "steps": 1}
    policy = NeighbourRerouting(NeighbourRerouting.Config(**settings))
    policy.prepare(subject(model, references=lambda samples: (x, y, domain)))
    assert policy.figures() == {"remembered": 9.0}, "all are right where they are told rightly"
    with telling(model, domain), torch.no_grad():
        torch.testing.assert_close(policy.answer(model, x), model(x))


def test_what_cannot_be_is_refused() -> None:
    model = Two(DENSE)
    x = torch.randn(6, INPUTS)
    with pytest.raises(InputError, match="0 of 6 training tokens are answered rightly"):
        prepared(model, x, (model(x).argmax(-1) + 1) % 3)
    with pytest.raises(InputError, match="'acts'; take another policy"):
        NeighbourRerouting(NeighbourRerouting.Config()).check(subject(model, kind="acts"))
    policy = NeighbourRerouting(NeighbourRerouting.Config(form="gradient"))
    with pytest.raises(InputError, match="use form = 'kernel'"):
        policy.prepare(subject(model, kind="tokens"))
    with pytest.raises(ValueError, match="must be at least 1"):
        NeighbourRerouting.Config(neighbours=0)


def test_two_tokens_for_an_answer_are_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = Two(DENSE)
            self.eval()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.two(torch.stack([x, x], 1)).mean(1)
            return y

    model = Twice()
    x, y, _ = solved(model, 6)
    with pytest.raises(InputError, match=r"12 tokens pass layer 'two\.first' for 6 answers"):
        prepared(model, x, y)
