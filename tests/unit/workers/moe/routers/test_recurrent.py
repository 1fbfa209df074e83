"""The recurrent router: the equation over depth, and one GRU for all layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.unit.workers.moe.routers.parts import check_growth_and_restoring, grow, head, layer
from workers.contract import InputError
from workers.models.actor_critic import ActorCritic
from workers.models.decoder import Decoder
from workers.moe.experts import LinearExpert
from workers.moe.layers import ChainLayer, MoELayer
from workers.moe.routed import observing, routed_layers
from workers.moe.routers import LinearRouter, RecurrentRouter, RouterContext
from workers.moe.walk import join
from workers.supervised.recomputation import recompute_blocks

CONFIG = RecurrentRouter.Config(size=4)


def logits_of(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with observing(model) as seen:
        model(x)
    return [routed.logits for passes in seen.values() for routed in passes]


def gru(cell: nn.GRUCell, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """The gates, one by one."""
    reset_in, update_in, new_in = (x @ cell.weight_ih.T + cell.bias_ih).chunk(3, 1)
    reset_at, update_at, new_at = (state @ cell.weight_hh.T + cell.bias_hh).chunk(3, 1)
    reset, update = torch.sigmoid(reset_in + reset_at), torch.sigmoid(update_in + update_at)
    return (1 - update) * torch.tanh(new_in + reset * new_at) + update * state


def by_hand(routers: list[RecurrentRouter], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    state, found = torch.zeros(len(inputs[0]), 4), []
    for router, x in zip(routers, inputs, strict=True):
        state = gru(routers[0].gru, x @ router.project.weight.T + router.project.bias, state)
        rows, biases = (
            torch.stack(list(router.rows.values())),
            torch.stack(list(router.biases.values())),
        )
        found.append(state @ rows.T + biases)
    return found


def test_scores_over_depth_are_those_of_the_equation() -> None:
    model, x = head(CONFIG), torch.randn(7, 5)
    first, second = routed_layers(model).values()
    with observing(model) as seen:
        model(x)
    inputs = [passes[0].x for passes in seen.values()]
    found = [passes[0].logits for passes in seen.values()]
    for logits, wanted in zip(found, by_hand([first.router, second.router], inputs), strict=True):
        torch.testing.assert_close(logits, wanted)
    assert logits_of(model, x)[1].allclose(found[1])  # nothing is left for the next forward
    assert first.walk.state is None


def test_rounds_of_a_chain_are_depth_too() -> None:
    chain = layer(CONFIG, cls=ChainLayer, rounds=3)
    with observing(chain) as seen:
        chain(torch.randn(6, 5))
    (passes,) = seen.values()
    wanted = by_hand(list(chain.routers), [routed.x for routed in passes])
    for routed, logits in zip(passes, wanted, strict=True):
        torch.testing.assert_close(routed.logits, logits)


def test_one_gru_belongs_to_the_first_layer_and_all_teach_it() -> None:
    model = head(CONFIG)
    assert [name for name in model.state_dict() if "weight_hh" in name] == [
        "layers.0.router.cell.weight_hh"
    ]
    first, second = (part.router for part in routed_layers(model).values())
    copied = copy.deepcopy(model)
    one, two = (part.router for part in routed_layers(copied).values())
    assert two.gru is one.cell is not first.cell
    assert second.gru is first.cell
    twice = first.gru.weight_hh
    logits_of_second = second.route(torch.randn(4, 6), RouterContext(below=torch.randn(4, 4)))[0]
    logits_of_second.sum().backward()
    assert twice.grad is not None
    assert float(twice.grad.abs().sum()) > 0


def test_growth_keeps_old_values_and_state_is_restored() -> None:
    check_growth_and_restoring(lambda: head(CONFIG), torch.randn(4, 5))


def test_recomputed_blocks_hear_what_they_heard() -> None:
    """Also where the model runs twice before the backward pass."""
    inner = MoELayer.Config(router=CONFIG, expert=LinearExpert.Config())
    config = Decoder.Config(experts=3, width=8, depth=3, heads=2, layer=inner)
    found = []
    for again in (False, True):
        model = Decoder(config, (6,), 11, 0).train()
        if again:
            recompute_blocks(model)
        x = torch.arange(12).view(2, 6) % 11
        loss = model(x).square().mean() + model((x + 3) % 11).tanh().mean()
        loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=0)


def test_actor_and_critic_are_ways_of_their_own() -> None:
    inner = MoELayer.Config(router=CONFIG)
    config = ActorCritic.Config(experts=2, encoder=6, hidden=(8, 8), layer=inner, separate=True)
    model = ActorCritic(config, (5,), 3, seed=0)
    walks = [part.walk for part in routed_layers(model).values()]
    assert walks[0] is walks[1] is not walks[2] is walks[3]
    one, both = torch.randn(1, 5), torch.randn(6, 5)
    both[2] = one
    torch.testing.assert_close(model(both)[2:3], model(one))


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 1"):
        RecurrentRouter.Config(size=0)
    with pytest.raises(InputError, match="share a GRU"):
        join([layer(LinearRouter.Config()), layer(CONFIG)])
    with pytest.raises(InputError, match="cannot start from the linear router"):
        layer(CONFIG).router.start_from(torch.zeros(3, 5), None)
    grown = layer(CONFIG)
    grow(grown, 4)
    assert len(grown.router.rows) == 4
