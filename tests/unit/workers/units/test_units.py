"""Units: which a model has, what they did, and that renewing one does exactly what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from workers.models import MODELS, Model
from workers.parsing import choose
from workers.units.activity import Activity
from workers.units.finding import units_of
from workers.units.renewal import renew

IMAGE = (1, 8, 8)


def model(kind: str = "classifier", shape: tuple[int, ...] = IMAGE, **config: Any) -> Model:
    _, made, problems = choose(MODELS, {"kind": kind, **config}, "model")
    assert not problems, [str(problem) for problem in problems]
    net: Model = MODELS[kind](made, shape, 5, 3)
    return net


def moe(**layer: Any) -> dict[str, Any]:
    expert = {"kind": "bottleneck", "width": 3}
    kind = {"kind": "moe", "hidden": [6, 7], "layer": {"kind": "moe", "expert": expert, **layer}}
    return {"experts": 2, "head": kind}


DENSE = {"head": {"kind": "mlp", "hidden": [6, 4]}, "backbone": {"kind": "mlp", "hidden": [8]}}
BIG = {"experts": 2, "head": {"kind": "big_moe", "hidden": [6, 4]}}
CNN = {"head": {"kind": "mlp", "hidden": [6]}, "backbone": {"kind": "nature_cnn"}}
CRELU = {
    "head": {"kind": "mlp", "hidden": [6, 4], "activation": "crelu", "norm": "layer"},
    "backbone": {"kind": "mlp", "hidden": [8], "activation": "crelu"},
}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (DENSE, {"backbone": 8, "head.layers.0": 6, "head.layers.1": 4}),
        (CRELU, {"backbone": 8, "head.layers.0": 6, "head.layers.1": 4}),
        (
            CNN,
            {"backbone": 64, "backbone.layers.0": 32, "backbone.layers.2": 64, "head.layers.0": 6},
        ),
        (
            moe(),
            {
                "head.layers.0": 6,
                "head.layers.1": 7,
                **{f"head.layers.{n}.experts.{e}": 3 for n in (0, 1) for e in (0, 1)},
            },
        ),
        (
            moe(router="noisy", shared=1),
            {
                "head.layers.1": 7,  # the noisy router does not tell what it reads by
                **{f"head.layers.{n}.experts.{e}": 3 for n in (0, 1) for e in (0, 1)},
                **{f"head.layers.{n}.shared.0": 3 for n in (0, 1)},
            },
        ),
        (
            moe(expert={"kind": "gated", "width": 3}),
            {
                "head.layers.0": 6,
                "head.layers.1": 7,
                **{f"head.layers.{n}.experts.{e}": 3 for n in (0, 1) for e in (0, 1)},
            },
        ),
        (moe(expert="linear"), {"head.layers.0": 6, "head.layers.1": 7}),
        (BIG, {f"head.experts.{e}.{n}": size for e in (0, 1) for n, size in ((0, 6), (1, 4))}),
        ({"head": "moe_blocks"}, None),
        ({"head": {"kind": "expanding_mlp", "hidden": [6]}}, {}),
    ],
    ids=["dense", "crelu", "cnn", "moe", "noisy", "gated", "linear", "big", "blocks", "expanding"],
)  # fmt: skip
def test_a_model_tells_its_units(config: Any, expected: dict[str, int] | None) -> None:
    found = {name: units.count for name, units in units_of(model(**config)).items()}
    if expected is None:
        assert found, "those inside experts"
        assert all(".experts." in name for name in found)
    else:
        assert found == expected


ACTING = [
    {"hidden": [6, 5], "layer": "linear"},
    {"hidden": [6, 5], "layer": {"kind": "moe", "expert": {"kind": "bottleneck", "width": 3}}},
    {"hidden": [6, 5], "layer": "linear", "separate": True},
]


@pytest.mark.parametrize("config", ACTING, ids=["linear", "moe", "separate"])
def test_actor_critics_tell_theirs(config: Any) -> None:
    net = model("actor_critic", (9,), encoder=7, **config)
    units = units_of(net)
    assert {name: units[name].count for name in ("encoder", "layers.0", "layers.1")} == {
        "encoder": 7,
        "layers.0": 6,
        "layers.1": 5,
    }
    heads = 1 if config.get("separate") else 2
    assert len(units["layers.1"].outgoing) == heads, "actor, and critic where it reads them"
    assert ("critic.encoder" in units) == bool(config.get("separate"))


# ---------------------------------------------------------------- what renewing does

ALL_BUT_ONE = [1, 2, 3, 4, 5]


def silenced(net: Model, place: int, which: list[int], x: torch.Tensor) -> torch.Tensor:
    """The answer where outputs of a head's layer are cut off behind its activation."""
    kept: list[int] = []

    def cut(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        kept.append(1)
        if len(kept) != place + 1:
            return None
        output = output.clone()
        half = output.shape[-1] // 2 if output.shape[-1] == 12 else 0
        for unit in which:
            output[..., unit] = 0.0
            if half:
                output[..., unit + half] = 0.0
        return output

    handle = net.head.activation.register_forward_hook(cut)
    with torch.no_grad():
        y: torch.Tensor = net(x)
    handle.remove()
    return y


@pytest.mark.parametrize("config", [DENSE, moe(), moe(expert="linear")], ids=["mlp", "moe", "lin"])
def test_the_answer_changes_by_what_the_units_gave(config: Any) -> None:
    net, x = model(**config).eval(), torch.rand(9, *IMAGE)
    wanted = silenced(net, 0, ALL_BUT_ONE, x)
    before = net(x).detach()
    units = units_of(net)["head.layers.0"]
    renew([(units, torch.tensor(ALL_BUT_ONE))], torch.Generator().manual_seed(0))
    after = net(x).detach()
    assert torch.allclose(after, wanted, atol=1e-6)
    assert not torch.allclose(after, before, atol=1e-6)


def test_both_halves_of_a_concatenated_unit_go() -> None:
    config = {"head": {"kind": "mlp", "hidden": [6, 4], "activation": "crelu"}}
    net, x = model(**config).eval(), torch.rand(9, *IMAGE)
    wanted = silenced(net, 0, [1, 4], x)
    renew([(units_of(net)["head.layers.0"], torch.tensor([1, 4]))], torch.Generator())
    assert torch.allclose(net(x), wanted, atol=1e-6)


def test_a_filter_of_the_last_convolution_is_a_whole_image_of_its_reader() -> None:
    net, x = model(**CNN).eval(), torch.rand(9, *IMAGE)
    features = net.backbone(x).unflatten(1, (64, -1)).clone()
    features[:, [3, 40]] = 0.0
    wanted = net.head(features.flatten(1)).detach()
    renew([(units_of(net)["backbone"], torch.tensor([3, 40]))], torch.Generator())
    assert torch.allclose(net(x), wanted, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["head.layers.0", "head.layers.0.experts.1"], ids=["features", "inside"]
)
@pytest.mark.parametrize("lowered", [False, True])
def test_only_the_units_entries_move_and_their_state_is_cleared(name: str, lowered: bool) -> None:
    net = model(**moe())
    if lowered:
        net = net.bfloat16()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    x = torch.rand(9, 64, dtype=next(net.parameters()).dtype)
    net.head(x).float().square().sum().backward()
    optimizer.step()
    units = units_of(net)[name]
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    moments = {n: optimizer.state[p]["exp_avg"].clone() for n, p in net.named_parameters()}
    renew([(units, torch.tensor([2]))], torch.Generator().manual_seed(5), optimizer)
    entries = {side.parameter: (side.dim, side.of(torch.tensor([2]))) for side in units.sides}
    outgoing = {side.parameter for side in units.outgoing}
    for n, parameter in net.named_parameters():
        touched = torch.zeros_like(parameter, dtype=torch.bool)
        if parameter in entries:
            dim, places = entries[parameter]
            touched.index_fill_(dim, places, True)
            wanted = 0.0 if parameter in outgoing else None
            if wanted is not None:
                assert not parameter[touched].any(), n
            else:
                assert (parameter[touched] != before[n][touched]).all(), n
                bound = parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 1.0
                assert parameter[touched].abs().max() <= bound
            assert not optimizer.state[parameter]["exp_avg"][touched].any()
        assert torch.equal(parameter[~touched], before[n][~touched]), n
        kept = optimizer.state[parameter]["exp_avg"]
        assert torch.equal(kept[~touched], moments[n][~touched]), n


def test_units_of_two_layers_at_once_are_drawn_before_any_is_cut_off() -> None:
    net = model(**DENSE)
    units = units_of(net)
    chosen = [(units[name], torch.tensor([0, 2])) for name in ("head.layers.1", "head.layers.0")]
    renew(chosen, torch.Generator())
    corner = net.head.layers[1].weight[[0, 2]][:, [0, 2]]
    assert not corner.any()
    assert net.head.layers[1].weight[[0, 2]][:, [1, 3]].all()


def test_rows_of_an_orthogonal_draw_keep_its_gain() -> None:
    net = model("actor_critic", (9,), encoder=7, hidden=[6], layer="linear")
    renew([(units_of(net)["encoder"], torch.tensor([1]))], torch.Generator())
    assert float(net.encoder.linear.weight[1].detach().norm()) == pytest.approx(2**0.5, rel=1e-5)
    assert float(net.encoder.linear.bias[1].detach()) == 0.0


# ---------------------------------------------------------------- what units did


def test_activity_is_that_of_training_forwards_alone() -> None:
    net, x = model(**DENSE), torch.rand(9, *IMAGE)
    activity = Activity(net)
    net.eval()(x)
    with torch.no_grad():
        net.train()(x)
    assert not activity.take().rows.any()
    net(x)
    net(x[:4])
    with torch.no_grad():
        h = torch.relu(net.head.layers[0](net.backbone(x))).double()
    size = h.abs().sum(0) + h[:4].abs().sum(0)
    seen = activity.take()
    place = slice(*_place(activity, "head.layers.0"))
    assert torch.allclose(seen.size[place], size, rtol=1e-6)
    assert torch.equal(seen.fired[place], (h > 0).sum(0) + (h[:4] > 0).sum(0).double())
    assert set(seen.rows.tolist()) == {13.0}
    activity.close()
    net(x)
    assert not activity.take().rows.any()


def _place(activity: Activity, name: str) -> tuple[int, int]:
    names = list(activity.units)
    start = sum(activity.sizes[: names.index(name)])
    return start, start + activity.units[name].count


def test_an_expert_s_units_are_asked_by_the_tokens_that_chose_it() -> None:
    net = model(**moe(selector={"kind": "topk", "k": 1, "weights": "full"})).train()
    activity, x = Activity(net), torch.rand(32, *IMAGE)
    net(x)
    seen, read = activity.take(), x.flatten(1)
    layer = net.head.layers[0]
    chosen = layer.router(read, _context()).argmax(-1)
    for number, expert in enumerate(layer.experts.values()):
        h = torch.relu(expert.up(read[chosen == number])).detach()
        place = slice(*_place(activity, f"head.layers.0.experts.{number}"))
        assert torch.allclose(seen.size[place], h.sum(0).double(), rtol=1e-5)
        assert seen.rows[place].tolist() == [float(len(h))] * 3


def _context() -> Any:
    from workers.moe.routers.base import RouterContext

    return RouterContext()


def test_places_of_an_image_are_rows() -> None:
    net, x = model(**CNN).train(), torch.rand(3, *IMAGE)
    activity = Activity(net)
    net(x)
    with torch.no_grad():
        h = torch.relu(net.backbone.layers[0](x)).double()
    seen, place = activity.take(), slice(*_place(activity, "backbone.layers.0"))
    assert torch.allclose(seen.size[place], h.sum((0, 2, 3)), rtol=1e-5)
    assert seen.rows[place].tolist() == [float(3 * h.shape[2] * h.shape[3])] * 32


def test_outgoing_size_is_the_sum_of_absolute_weights() -> None:
    net = model(**moe())
    units = units_of(net)["head.layers.0"]
    reader = net.head.layers[1]
    size = sum(expert.up.weight.abs().sum(0) for expert in reader.experts.values())
    size = size + sum(row.abs() for row in reader.router.rows.values())
    assert torch.allclose(units.outgoing_size(), size.detach().double(), rtol=1e-6)
