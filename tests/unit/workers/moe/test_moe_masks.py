"""Gradient masks, phases, duplication: what must not move does not move, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from workers.contract import DivergedError, InputError
from workers.edits import AdaptRouter, Cause, Duplicate, Grow, RefreshMask, SetPhase
from workers.models import HEADS
from workers.models.classifier import Classifier
from workers.moe.domains.masks import Mask
from workers.moe.growth import surgery
from workers.moe.routed import StepContext, observing, routed_layers
from workers.moe.routers import RouterContext
from workers.moe.stepping import drop_gradients, stepping
from workers.moe.tallies import take_counts

CAUSE = Cause(policy="test", trigger="test")
DOMAINS = ("north", "south")
LAYER = "head.layers.0"


def model(head: str = "moe", selector: str = "topk", experts: int = 4, router: str = "linear"):
    from workers.moe import EXPERTS, LAYERS, ROUTERS, SELECTORS

    own = {"expert": EXPERTS["bottleneck"].Config(width=5)} if head == "moe" else {}
    chosen = SELECTORS[selector].Config(**({"k": 2} if selector == "topk" else {}))
    layer = LAYERS["moe"].Config(selector=chosen, router=ROUTERS[router].Config(), **own)
    config = Classifier.Config(experts=experts, head=HEADS[head].Config(hidden=(6,), layer=layer))
    return Classifier(config, (1, 3, 3), 4, seed=3)


def layer_name(net) -> str:
    return next(iter(routed_layers(net)))


def refresh(net, rows, version=1, copies=(), **more) -> RefreshMask:
    name = layer_name(net)
    return RefreshMask(
        id=f"m{version}",
        stage="s",
        after_interval=1,
        revision=1,
        version=version,
        domains=DOMAINS,
        masks={name: rows},
        copies={name: list(copies)} if copies else {},
        seed=1,
        cause=CAUSE,
        **more,
    )


def adapting() -> AdaptRouter:
    return AdaptRouter(id="r", stage="s", after_interval=0, revision=1, seed=4, cause=CAUSE)


def phase(trains, name="p") -> SetPhase:
    return SetPhase(
        id=name,
        stage="s",
        after_interval=0,
        revision=1,
        phase="warmup",
        trains=trains,
        seed=5,
        cause=CAUSE,
    )


def batch(samples: int = 24, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 1, 3, 3, generator=rng)
    return x, torch.arange(samples) % 4, torch.arange(samples) % 2


def step(net, optimizer, x, y, domain_B, progress=0.0) -> None:
    net.train()
    optimizer.zero_grad(set_to_none=True)
    with stepping(net, StepContext(progress, DOMAINS, domain_B)):
        loss = functional.cross_entropy(net(x), y)
        (loss + sum(net.auxiliary_losses().values())).backward()
        drop_gradients(routed_layers(net))
    optimizer.step()


def snapshot(net, optimizer) -> dict[str, torch.Tensor]:
    found = {f"w/{name}": p.detach().clone() for name, p in net.named_parameters()}
    for name, parameter in net.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{key}/{name}"] = torch.as_tensor(value).clone()
    return found


def moved(before, after) -> set[str]:
    """Parameters whose value or optimizer state changed."""
    return {
        key.split("/", 1)[1]
        for key in after
        if key not in before or not torch.equal(before[key], after[key])
    }


def experts_of(names: set[str]) -> set[int]:
    return {int(name.split(".experts.")[1].split(".")[0]) for name in names if ".experts." in name}


@pytest.mark.parametrize("head", ["moe", "big_moe"])
@pytest.mark.parametrize("selector", ["topk", "dense"])
def test_masked_experts_keep_bits_and_adam_state_in_a_batch_of_one_domain(head, selector) -> None:
    net = model(head, selector)
    optimizer = torch.optim.AdamW(net.named_parameters(), lr=0.1, weight_decay=0.1)
    x, y, _ = batch()
    south = torch.ones(24, dtype=torch.int64)
    step(net, optimizer, x, y, south)  # every expert has moments before the mask comes
    surgery.apply(net, optimizer, refresh(net, [[1, 1, 1, 1], [0, 1, 0, 1]]), x)
    before = snapshot(net, optimizer)
    step(net, optimizer, x, y, south)
    changed = moved(before, snapshot(net, optimizer))
    assert experts_of(changed) == {1, 3}
    assert any("router" in name for name in changed), "the router learns from every token"


@pytest.mark.parametrize("head", ["moe", "big_moe"])
@pytest.mark.parametrize("selector", ["topk", "dense"])
def test_token_level_mask_equals_the_sum_of_single_domain_gradients(head, selector) -> None:
    """Equation 8 against its definition: domains one by one, masked experts' gradients dropped."""
    rows = [[1, 0, 1, 0], [0, 1, 1, 0]]
    net = model(head, selector)
    surgery.apply(net, None, refresh(net, rows), None)
    x, y, domain_B = batch()
    free = copy.deepcopy(net)
    for layer in routed_layers(free).values():
        layer.masking.set(None)
    x_masked, x_free = x.clone().requires_grad_(), x.clone().requires_grad_()
    with stepping(net, StepContext(0.0, DOMAINS, domain_B)):
        output = net(x)
        torch.testing.assert_close(output, free(x), rtol=0, atol=1e-6)  # forward values unchanged
        functional.cross_entropy(net(x_masked), y, reduction="sum").backward()
    wanted: dict[str, torch.Tensor] = {}
    inputs = torch.zeros_like(x)
    for domain in (0, 1):
        free.zero_grad(set_to_none=True)
        part = domain_B == domain
        functional.cross_entropy(free(x_free)[part], y[part], reduction="sum").backward()
        for name, parameter in free.named_parameters():
            number = experts_of({name})
            if not number or rows[domain][number.pop()]:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                wanted[name] = wanted.get(name, 0) + gradient
    inputs = x_free.grad
    torch.testing.assert_close(x_masked.grad, inputs, rtol=1e-4, atol=1e-6)
    for name, parameter in net.named_parameters():
        expected = wanted.get(name, torch.zeros_like(parameter))
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_mixed_batch_moves_only_experts_that_some_domain_may_train() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.named_parameters(), lr=0.1)
    x, y, domain_B = batch(64)
    step(net, optimizer, x, y, domain_B)
    surgery.apply(net, optimizer, refresh(net, [[1, 0, 0, 0], [0, 1, 0, 0]]), x)
    before = snapshot(net, optimizer)
    step(net, optimizer, x, y, domain_B)
    assert experts_of(moved(before, snapshot(net, optimizer))) <= {0, 1}


def test_counts_are_integers_by_domain_and_taken_once() -> None:
    net = model(selector="topk")
    x, _, domain_B = batch(24)
    net.train()
    with stepping(net, StepContext(0.0, DOMAINS, domain_B)):
        net(x)
        net(x)
    counts, tokens = take_counts(net)
    assert tokens == {"north": 24, "south": 24}
    assert all(isinstance(n, int) for row in counts[LAYER].values() for n in row)
    assert sum(counts[LAYER]["north"]) == 2 * 24, "two experts for each token"
    assert take_counts(net) == ({}, {})
    with torch.no_grad():
        net(x)
    assert take_counts(net) == ({}, {}), "evaluation does not count"


def test_replicas_drop_the_gradients_that_no_replica_has_a_token_for() -> None:
    """Data-parallel copies see different tokens; an expert learns if it learns in any of them."""
    net = model(selector="topk")
    surgery.apply(net, None, refresh(net, [[1, 1, 1, 1], [0, 1, 1, 1]]), None)
    net.train()
    bank = routed_layers(net)[LAYER]
    x, y, _ = batch(samples=1)
    south = torch.ones(1, dtype=torch.int64)
    told: list[list[bool]] = []

    def anywhere(own_E: torch.Tensor) -> torch.Tensor:
        told.append(own_E.tolist())
        return torch.tensor([False, True, False, True])

    with stepping(net, StepContext(0.0, DOMAINS, south)):
        functional.cross_entropy(net(x), y).backward()
        drop_gradients({LAYER: bank}, anywhere)
    assert len(told) == 1
    assert not told[0][0], "the masked expert learns nowhere"
    assert sum(told[0]) <= 2, "one token has two experts"
    with_gradient = {
        int(n.split(".")[0]) for n, p in bank.experts.named_parameters() if p.grad is not None
    }
    assert with_gradient == {1, 3}


def test_a_fingerprint_can_leave_out_what_a_replica_does_not_have() -> None:
    net, other = model(), model()
    with torch.no_grad():
        next(other.head.layers[0].experts.parameters()).add_(1.0)
    assert surgery.fingerprint(net) != surgery.fingerprint(other)
    kept = [surgery.fingerprint(part, without=("head.layers",)) for part in (net, other)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("trains", "still"),
    [
        (("router", "backbone"), "experts"),
        (("router", "experts"), "backbone"),
        (("experts",), "router"),
    ],
)
def test_what_a_phase_does_not_train_is_identical_after_steps(trains, still) -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.named_parameters(), lr=0.1, weight_decay=0.1)
    x, y, domain_B = batch()
    step(net, optimizer, x, y, domain_B)
    surgery.apply(net, optimizer, phase(trains), x)
    before = snapshot(net, optimizer)
    for _ in range(3):
        step(net, optimizer, x, y, domain_B)
    changed = moved(before, snapshot(net, optimizer))
    roles = {
        "experts" if ".experts." in name else "router" if ".router." in name else "backbone"
        for name in changed
    }
    assert roles == set(trains)
    assert still not in roles


def test_phase_and_mask_travel_with_the_architecture_and_bind_grown_experts() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.named_parameters())
    surgery.apply(net, optimizer, refresh(net, [[1, 1, 0, 0], [0, 0, 1, 1]]), None)
    surgery.apply(net, optimizer, phase(("router",)), None)
    grow = Grow(id="g", stage="s", after_interval=0, revision=1, experts=5, seed=1, cause=CAUSE)
    surgery.apply(net, optimizer, grow, None)
    assert not any(p.requires_grad for n, p in net.named_parameters() if ".experts.4." in n)
    fresh = model()
    surgery.ensure_arch(fresh, surgery.arch(net))
    fresh.load_state_dict(net.state_dict())
    assert surgery.fingerprint(fresh) == surgery.fingerprint(net)
    assert {layer.mask.version for layer in routed_layers(fresh).values()} == {1}
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, p in fresh.named_parameters() if not p.requires_grad}


def test_duplication_keeps_the_function_and_the_owner_alone_chooses_the_copy() -> None:
    net = model(selector="dense")
    x, _, domain_B = batch()
    copies = [
        Duplicate(expert=4, parent=1, owner="south"),
        Duplicate(expert=5, parent=1, owner="north"),
    ]
    rows = [[1, 0, 1, 0, 0, 1], [0, 0, 1, 0, 1, 0]]
    edit = refresh(net, rows, copies=copies, exclusive=True)
    optimizer = torch.optim.AdamW(net.named_parameters())
    report = surgery.apply(net, optimizer, edit, x)
    assert report.probe_change < 1e-5
    assert report.parents == {LAYER: [1, 1]}
    again = surgery.apply(net, optimizer, edit, x)
    assert again.fingerprint == report.fingerprint, "applied twice is applied once"
    net.train()
    with stepping(net, StepContext(0.0, DOMAINS, domain_B)), observing(net) as seen:
        net(x)
    gates_TE = seen[LAYER][0].weights
    assert gates_TE[domain_B == 0, 4].abs().max() == 0
    assert gates_TE[domain_B == 1, 4].min() > 0
    assert gates_TE[domain_B == 1, 5].abs().max() == 0


def test_growth_counts_experts_without_copies() -> None:
    net = model(experts=2)
    copies = [Duplicate(expert=2, parent=0, owner="south")]
    surgery.apply(net, None, refresh(net, [[1, 1, 0], [0, 1, 1]], copies=copies), None)
    grow = Grow(id="g", stage="s", after_interval=0, revision=1, experts=3, seed=1, cause=CAUSE)
    report = surgery.apply(net, None, grow, None)
    assert report.after.layers[LAYER].experts == 4
    assert surgery.apply(net, None, grow, None).after.layers[LAYER].experts == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": {"nowhere": [[1] * 4] * 2}}, "routed layers"),
        ({"masks": {LAYER: [[1] * 5, [1] * 5]}}, "the layer has 4"),
        ({"masks": {LAYER: [[0] * 4, [1] * 4]}}, "leave at least one"),
        ({"masks": {LAYER: [[1] * 4]}}, "1 rows for 2 domains"),
        (
            {"copies": {LAYER: [Duplicate(expert=4, parent=9, owner="south")]}},
            "allowed: experts 0, 1, 2, 3 and",
        ),
        ({"copies": {LAYER: [Duplicate(expert=7, parent=0, owner="south")]}}, "ids must be"),
    ],
)
def test_impossible_masks_are_refused_and_change_nothing(change, message) -> None:
    from dataclasses import replace

    net = model()
    before = surgery.fingerprint(net)
    with pytest.raises(InputError, match=message):
        surgery.apply(net, None, replace(refresh(net, [[1] * 4] * 2), **change), None)
    assert surgery.fingerprint(net) == before


def test_an_older_mask_is_refused() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.named_parameters())
    surgery.apply(net, optimizer, refresh(net, [[1, 1, 0, 0], [0, 0, 1, 1]], version=3), None)
    with pytest.raises(DivergedError, match="trains under version 3"):
        surgery.apply(net, optimizer, refresh(net, [[1] * 4, [1] * 4], version=2), None)


def test_experts_born_after_a_mask_are_trained_by_every_domain() -> None:
    mask = Mask(version=1, domains=DOMAINS, rows=((1, 0), (0, 1)))
    assert [mask.trains("north", expert) for expert in range(4)] == [True, False, True, True]
    assert mask.trains("elsewhere", 1), "a domain the mask does not know"


def test_a_phase_drops_the_gradients_of_what_it_freezes() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.named_parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    surgery.apply(net, optimizer, phase(("router",)), None)
    kept = {name for name, p in net.named_parameters() if p.grad is not None}
    assert kept == {name for name, p in net.named_parameters() if p.requires_grad}
    assert 0 < len(kept) < len(list(net.parameters()))


def test_phase_without_routed_layers_is_refused() -> None:
    net = Classifier(Classifier.Config(head=HEADS["mlp"].Config()), (1, 3, 3), 4, seed=0)
    with pytest.raises(InputError, match="routed head"):
        surgery.apply(net, None, phase(("experts",)), None)


# ---------------------------------------------------------------- the adaptive router


def adapted(start: str, seed: int = 0):
    from workers.moe import EXPERTS, LAYERS, ROUTERS

    config = Classifier.Config(
        experts=3,
        head=HEADS["moe"].Config(
            hidden=(6,),
            layer=LAYERS["moe"].Config(
                expert=EXPERTS["bottleneck"].Config(width=5),
                router=ROUTERS["adaptive"].Config(start=start),
            ),
        ),
    )
    net = Classifier(config, (1, 3, 3), 4, seed=seed)
    optimizer = torch.optim.AdamW(net.named_parameters(), lr=0.01)
    x, _, _ = batch(64)
    report = surgery.apply(net, optimizer, adapting(), x)
    surgery.apply(net, optimizer, phase(("router", "backbone")), None)
    return net, optimizer, report, routed_layers(net)[LAYER].router


@pytest.mark.parametrize("start", ["exact", "residual"])
def test_adapting_keeps_the_router_s_answers(start) -> None:
    _, _, report, router = adapted(start)
    assert report.probe_change < 1e-5
    assert float(router.divergence(torch.randn(256, 9))) < 1e-6


def test_literal_start_does_not_keep_them() -> None:
    _, _, report, router = adapted("literal")
    assert report.probe_change > 1e-3
    assert float(router.divergence(torch.randn(256, 9))) > 1e-4


@pytest.mark.parametrize("start", ["exact", "residual", "literal"])
def test_teacher_is_frozen_and_the_whole_second_router_learns(start) -> None:
    net, optimizer, _, _ = adapted(start)
    x, y, domain_B = batch()
    before = snapshot(net, optimizer)
    for _ in range(3):
        step(net, optimizer, x, y, domain_B, progress=0.5)
    changed = moved(before, snapshot(net, optimizer))
    teacher = (f"{LAYER}.router.rows.", f"{LAYER}.router.biases.")
    assert not any(name.startswith(teacher) for name in changed)
    assert {f"{LAYER}.router.up.weight", f"{LAYER}.router.second_rows.0"} <= changed


def test_task_gradient_of_the_router_is_scaled_and_that_of_its_input_is_not() -> None:
    net, _, _, router = adapted("exact")
    router.train()
    grads = {}
    for share in (0.25, 1.0):
        x = torch.randn(8, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
        router.zero_grad()
        router(x, RouterContext(progress=share)).square().sum().backward()
        grads[share] = (router.up.weight.grad.clone(), x.grad.clone())
    torch.testing.assert_close(grads[0.25][0], 0.25 * grads[1.0][0])
    torch.testing.assert_close(grads[0.25][1], grads[1.0][1])
    with torch.no_grad():
        router.second_rows["0"].add_(0.1)
    with stepping(net, StepContext(0.25)):
        net(x.reshape(8, 1, 3, 3))
        (loss,) = net.auxiliary_losses().items()
    assert loss[0] == f"loss/distillation/{LAYER}"
    torch.testing.assert_close(loss[1], 0.75 * router.divergence(x))


def test_grown_and_copied_rows_after_adapting_and_back_from_the_architecture() -> None:
    net, optimizer, _, router = adapted("exact")
    copies = [Duplicate(expert=3, parent=1, owner="south")]
    edit = refresh(net, [[1, 1, 1, 0], [1, 0, 1, 1]], copies=copies)
    x, _, _ = batch()
    assert surgery.apply(net, optimizer, edit, x).probe_change < 1e-5
    assert router.teacher_experts == [0, 1, 2, 3]
    assert float(router.divergence(torch.randn(99, 9))) < 1e-6
    grow = Grow(id="g", stage="s", after_interval=0, revision=1, experts=4, seed=1, cause=CAUSE)
    surgery.apply(net, optimizer, grow, x)
    assert router.teacher_experts == [0, 1, 2, 3], "the teacher does not know the newcomer"
    assert float(router.divergence(torch.randn(99, 9))) < 1e-6
    fresh = Classifier(net.config, (1, 3, 3), 4, seed=9)
    surgery.ensure_arch(fresh, surgery.arch(net))
    fresh.load_state_dict(net.state_dict())
    assert surgery.fingerprint(fresh) == surgery.fingerprint(net)
    surgery.ensure_arch(fresh, surgery.arch(Classifier(net.config, (1, 3, 3), 4, seed=9)))
    assert routed_layers(fresh)[LAYER].router.up is None


def test_share_of_three_copies_is_a_third_each() -> None:
    net = model(selector="dense", experts=1)
    copies = [Duplicate(expert=n, parent=0, owner=d) for n, d in ((1, "north"), (2, "south"))]
    surgery.apply(net, None, refresh(net, [[1, 1, 0], [0, 0, 1]], copies=copies), None)
    router = routed_layers(net)[LAYER].router
    gates = torch.softmax(router(torch.randn(5, 9), RouterContext()), -1).detach()
    torch.testing.assert_close(gates, torch.full((5, 3), 1 / 3))
