"""Dense heads and decoders as mixtures: the same function where the way is exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.workers.merges.models import SCENE, answer, classifier, dense, routed, samples
from workers.contract import InputError
from workers.edits import Cause, Grow
from workers.merges import UpcycleDense
from workers.models import MODELS
from workers.moe.growth import surgery
from workers.moe.routed import routed_layers
from workers.moe.upcycles import UPCYCLES, Copies, Factorise, PartitionNeurons, Slices
from workers.parsing import checked
from workers.tables import construct

EXACT: dict[str, tuple[Any, list[int], Any]] = {
    "two maps are one layer": (
        Slices.Config(copies=2, k=2),
        [24],
        lambda: routed(4, 12, 2, [], last=False),
    ),
    "an odd last map stays": (
        Slices.Config(copies=3, k=4),
        [24, 8],
        lambda: routed(12, 6, 4, [8], last=True),
    ),
    "four maps are two layers": (
        Slices.Config(copies=2, k=2),
        [24, 10, 24],
        lambda: routed(4, 12, 2, [10], last=False),
    ),
    "copies of two maps": (
        Copies.Config(experts=3, k=2),
        [24, 8],
        lambda: routed(3, 24, 2, [8], last=True),
    ),
}


def upcycled(way: Any, parent: Any, model: Any) -> Any:
    merge = UpcycleDense(UpcycleDense.Config(way=way))
    merge.check(model, [parent])
    torch.manual_seed(5)
    merge.fill(model, [parent], SCENE)
    return model


@pytest.mark.parametrize("case", EXACT)
def test_the_mixture_answers_as_the_dense_model(case: str) -> None:
    way, hidden, make = EXACT[case]
    parent, model = dense(hidden), make()
    assert (answer(model) - answer(parent)).abs().max() > 1e-2, "it was another model before"
    upcycled(way, parent, model)
    torch.testing.assert_close(answer(model), answer(parent), atol=1e-6, rtol=1e-5)


def test_copies_of_single_maps_and_of_whole_heads_too() -> None:
    linear = {
        "kind": "moe",
        "hidden": [24],
        "layer": {"kind": "moe", "selector": "topk", "expert": "linear"},
    }
    heads = {"kind": "big_moe", "hidden": [24, 8], "layer": {"kind": "moe", "selector": "topk"}}
    for head, hidden in ((linear, [24]), (heads, [24, 8])):
        parent, model = dense(hidden), classifier(head, 3, seed=2)
        upcycled(Copies.Config(experts=3, k=2), parent, model)
        torch.testing.assert_close(answer(model), answer(parent), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("way", [PartitionNeurons.Config(k=4), Factorise.Config(k=4)], ids=str)
def test_all_parts_with_equal_weights_are_the_dense_model(way: Any) -> None:
    parent, model = dense([24]), routed(4, 6, 4, [], last=False)
    upcycled(way, parent, model)
    (layer,) = routed_layers(model).values()
    with torch.no_grad():
        for parameter in layer.router.parameters():
            parameter.zero_()
    torch.testing.assert_close(answer(model), answer(parent), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("way", [PartitionNeurons.Config(k=2), Factorise.Config()], ids=str)
def test_chosen_parts_stand_for_the_whole_by_their_scale(way: Any) -> None:
    """Partition adds up what was chosen; factorisation takes it for a share k / E of the whole."""
    parent, model = dense([24]), routed(4, 6, 2, [], last=False)
    upcycled(way, parent, model)
    first, last = parent.head.layers
    hidden_TH = torch.relu(first(parent.backbone(samples())))
    for number, units in enumerate(construct(UPCYCLES, way).units(_whole(parent))):
        expert = model.head.layers[0].expert(number)
        share_TO = hidden_TH[:, units] @ last.weight[:, units].t()
        scale = 2.0 if isinstance(way, PartitionNeurons.Config) else 4.0
        found_TO = expert(parent.backbone(samples())) - last.bias
        torch.testing.assert_close(found_TO, scale * share_TO, atol=1e-5, rtol=1e-5)


def test_a_decoder_of_one_expert_becomes_a_mixture() -> None:
    def decoder(experts: int, width: int, k: int) -> Any:
        layer = {
            "kind": "moe",
            "selector": {"kind": "topk", "k": k, "weights": "chosen" if k > 1 else "full"},
            "expert": {"kind": "gated", "width": width},
        }
        raw = {"kind": "decoder", "width": 16, "depth": 2, "heads": 2, "layer": layer}
        _, config = checked(MODELS, {**raw, "experts": experts})
        return construct(MODELS, config, (10,), 11, seed=experts).eval()

    parent, model = decoder(1, 24, 1), decoder(4, 12, 2)
    upcycled(Slices.Config(copies=2, k=2), parent, model)
    tokens = torch.arange(30).remainder(11).reshape(3, 10)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), parent(tokens), atol=1e-6, rtol=1e-5)


def test_every_slice_and_the_router_learn_and_growth_leaves_them_alone() -> None:
    model = upcycled(Slices.Config(copies=2, k=2), dense([24]), routed(4, 12, 2, [], last=False))
    (layer,) = routed_layers(model).values()
    model.train()(samples()).square().sum().backward()
    for number in range(4):
        assert all(p.grad is not None for p in layer.expert(number).parameters())
    assert any(p.grad.abs().sum() > 0 for p in layer.router.parameters() if p.grad is not None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cause = Cause(policy="test", trigger="test")
    edit = Grow(id="g", stage="s", after_interval=0, revision=1, experts=6, seed=1, cause=cause)
    surgery.apply(model, None, edit, samples())
    assert layer.live == 6
    kept = {name: value for name, value in before.items() if "router.offset" not in name}
    kept = {name: value for name, value in kept.items() if "router.anneal" not in name}
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in kept.items())


REFUSED: dict[str, tuple[Any, Any, Any, str]] = {
    "numbers": (Slices.Config(copies=4, k=2), [24], lambda: routed(4, 12, 2, [], False), "makes 8"),
    "k": (Slices.Config(copies=1, k=4), [24], lambda: routed(4, 6, 2, [], False), "through 4"),
    "width": (Slices.Config(copies=2, k=2), [24], lambda: routed(4, 8, 2, [], False), "-> 12 ->"),
    "indivisible": (Factorise.Config(), [22], lambda: routed(4, 5, 2, [], False), "does not divi"),
    "maps left": (
        Slices.Config(copies=2, k=2),
        [24, 8],
        lambda: routed(4, 12, 2, [], False),
        "do not stand for the 3 maps",
    ),
    "single maps cannot be cut": (
        Slices.Config(copies=2, k=2),
        [24],
        lambda: classifier(
            {
                "kind": "moe",
                "hidden": [24],
                "layer": {"kind": "moe", "selector": "topk", "expert": "linear"},
            },
            4,
        ),
        "cuts the hidden units between two maps",
    ),
    "no mixture": (Slices.Config(), [24], lambda: dense([24]), "no routed layer"),
    "another backbone": (
        Slices.Config(copies=2, k=2),
        [24],
        lambda: classifier({"kind": "mlp", "hidden": [24]}, hidden=9),
        "missing|in the mixture",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_changes(case: str) -> None:
    way, hidden, make, message = REFUSED[case]
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        UpcycleDense(UpcycleDense.Config(way=way)).check(model, [dense(hidden)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_a_dense_model_is_upcycled() -> None:
    parent, model = routed(4, 12, 2, [], last=False), routed(4, 12, 2, [], last=False)
    with pytest.raises(InputError, match="has 4 experts there"):
        UpcycleDense(UpcycleDense.Config(way=Copies.Config())).check(model, [parent])


def _whole(parent: Any) -> Any:
    from workers.merges.matching import match

    (sources,) = match(routed(4, 6, 2, [], last=False), parent).layers.values()
    return sources[0]
