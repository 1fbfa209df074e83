"""The segment router: one score for a segment, no look ahead, only where there are sequences."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.moe.routers.parts import check_growth_and_restoring, layer
from tests.unit.workers.moe.routers.settings import lane
from workers.contract import InputError
from workers.models.decoder import Decoder
from workers.moe.experts import LinearExpert
from workers.moe.layers import ChainLayer, MoELayer
from workers.moe.routed import observing
from workers.moe.routers import RouterContext, SegmentRouter


def by_hand(router: SegmentRouter, x_BSD: torch.Tensor, causal: bool, window: int) -> torch.Tensor:
    """Logits [B, S, E], token by token."""
    rows, biases = (
        torch.stack(list(router.rows.values())),
        torch.stack(list(router.biases.values())),
    )
    found = torch.zeros(*x_BSD.shape[:2], len(rows))
    for b, sample in enumerate(x_BSD):
        for s in range(len(sample)):
            segment = s // window - causal
            flat = torch.zeros(window, x_BSD.shape[2])
            for place in range(window):
                if segment >= 0 and segment * window + place < len(sample):
                    flat[place] = sample[segment * window + place]
            found[b, s] = rows @ flat.flatten() + biases
    return found


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("steps", [1, 6, 8])
def test_a_segment_has_the_score_of_the_equation(causal: bool, steps: int) -> None:
    made = layer(SegmentRouter.Config(window=4, causal=causal))
    x = torch.randn(3, steps, 5)
    with observing(made) as seen:
        made(x)
    (routed,) = seen[""]
    wanted = by_hand(made.router, x, causal, 4).flatten(0, 1)
    torch.testing.assert_close(routed.logits, wanted)
    assert (
        routed.chosen.view(3, steps, -1)[:, :4] == routed.chosen.view(3, steps, -1)[:, :1]
    ).all()


def test_a_language_model_does_not_see_later_tokens() -> None:
    inner = MoELayer.Config(router=SegmentRouter.Config(window=3), expert=LinearExpert.Config())
    config = Decoder.Config(experts=3, width=8, depth=2, heads=2, layer=inner)
    model = Decoder(config, (9,), 11, 0).eval()
    x = torch.arange(9).view(1, 9)
    other = x.clone()
    other[0, 5:] += 2
    assert torch.equal(model(x)[:, :5], model(other)[:, :5])
    assert not torch.equal(model(x)[:, 5:], model(other)[:, 5:])


def test_gradients_growth_chain_and_restoring() -> None:
    made = layer(SegmentRouter.Config(window=2), cls=ChainLayer, rounds=2).train()
    made(torch.randn(2, 6, 5)).square().sum().backward()
    for router in made.routers:
        assert all(float(row.grad.abs().sum()) > 0 for row in router.rows.values())
    check_growth_and_restoring(lambda: layer(SegmentRouter.Config(window=2)), torch.randn(2, 6, 5))


def test_single_tokens_are_refused() -> None:
    made = layer(SegmentRouter.Config())
    with pytest.raises(InputError, match="no sequences"):
        made(torch.randn(4, 5))
    with pytest.raises(InputError, match="no sequences"):
        made.router(torch.randn(4, 5), RouterContext())
    with pytest.raises(ValueError, match="window must be at least 1"):
        SegmentRouter.Config(window=0)


def test_what_a_plan_refuses() -> None:
    config, looks = SegmentRouter.Config(), SegmentRouter.Config(causal=False)
    assert config.problems(lane(tokens=True, input_shape=(16,))) == []
    assert looks.problems(lane(input_shape=(16, 4))) == []
    assert "set causal = true" in str(looks.problems(lane(tokens=True, input_shape=(16,)))[0])
    for other in (lane(input_shape=(1, 8, 8)), lane(acts=True, input_shape=(5, 3))):
        assert "segments need sequences" in str(config.problems(other)[0])
