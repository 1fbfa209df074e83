"""Training in bfloat16 with float32 master weights: saved, restored, grown, frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.fakes import tiny
from tests.unit.workers.supervised.loop import (
    ROUTED,
    assert_unchosen_keeps_its_bits,
    digests,
    grow,
    opened,
    stages,
)
from workers.moe.growth.optimizer_state import load_named_state, named_state
from workers.supervised.evaluator import SupervisedEvaluator
from workers.supervised.optimizers import SGD, AdamW
from workers.supervised.precision import MASTER, MasterWeights, lower, total_norm
from workers.supervised.trainer import SupervisedTrainer

OPTIMIZERS = {
    "adamw": AdamW.Config(lr=1e-3, weight_decay=0.1),
    "fused": AdamW.Config(lr=1e-3, implementation="fused"),
    "sgd": SGD.Config(lr=0.1),
    "momentum": SGD.Config(lr=0.1, momentum=0.9, implementation="foreach"),
}


def made(config: Any, model: nn.Module) -> MasterWeights:
    kind = AdamW if isinstance(config, AdamW.Config) else SGD
    return MasterWeights(kind(config).build(model))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    (model(x) - 1.0).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_small_updates_add_up(kind: str) -> None:
    """Where bfloat16 alone would round each of them away."""
    model, exact = network(), network()
    lower(model)
    optimizer = made(OPTIMIZERS[kind], model)
    reference = (AdamW if "lr=0.001" in str(OPTIMIZERS[kind]) else SGD)(OPTIMIZERS[kind])
    other = reference.build(exact)
    for seed in range(200):
        step(model, optimizer, seed)
        step(exact, other, seed)
    start = network()
    for p, q, first in zip(model.parameters(), exact.parameters(), start.parameters(), strict=True):
        assert p.dtype is torch.bfloat16
        moved, wanted = p.float() - first, q - first
        assert (moved - wanted).norm() < 0.1 * wanted.norm()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_parameters_are_the_master_weights_rounded(kind: str) -> None:
    model = network()
    lower(model)
    optimizer = made(OPTIMIZERS[kind], model)
    for seed in range(3):
        step(model, optimizer, seed)
    for parameter in model.parameters():
        kept = optimizer.state[parameter]
        assert torch.equal(kept[MASTER].bfloat16(), parameter)
        assert all(value.dtype is torch.float32 for value in kept.values())
        assert parameter.grad is not None
        assert parameter.grad.dtype is torch.bfloat16


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_saved_and_restored_it_goes_on_with_the_same_bits(kind: str) -> None:
    model = network()
    lower(model)
    optimizer = made(OPTIMIZERS[kind], model)
    for seed in range(3):
        step(model, optimizer, seed)
    saved = {name: tensor.clone() for name, tensor in named_state(model, optimizer).items()}
    assert {name for name in saved if name.endswith(MASTER)} == {
        f"{name}/{MASTER}" for name, _ in model.named_parameters()
    }
    again = network(1)
    lower(again)
    again.load_state_dict(model.state_dict())
    fresh = made(OPTIMIZERS[kind], again)
    load_named_state(again, fresh, saved)
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(again, fresh, seed)
    after, other = named_state(model, optimizer), named_state(again, fresh)
    assert all(torch.equal(after[name], other[name]) for name in after)


def test_what_has_no_gradient_never_moves_and_has_no_copy() -> None:
    model = network()
    lower(model)
    model[0].requires_grad_(False)
    optimizer = made(AdamW.Config(weight_decay=0.5), model)
    before = [p.clone() for p in model[0].parameters()]
    step(model, optimizer, 0)
    assert all(torch.equal(p, q) for p, q in zip(model[0].parameters(), before, strict=True))
    assert not any(p in optimizer.state for p in model[0].parameters())
    assert all(MASTER in optimizer.state[p] for p in model[2].parameters())


def test_entries_that_somebody_else_changes_count_as_they_are() -> None:
    model = network()
    lower(model)
    optimizer = made(SGD.Config(lr=0.1), model)
    step(model, optimizer, 0)
    weight = model[2].weight
    master = optimizer.state[weight][MASTER]
    kept = master[1:].clone()
    with torch.no_grad():
        weight[0] = 7.0
    optimizer.zero_grad()
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(master[0], torch.full_like(master[0], 7.0))
    assert torch.equal(master[1:], kept), "the rest keeps what bfloat16 does not show"
    assert not torch.equal(kept.bfloat16().float(), kept)


def test_the_model_reads_and_answers_in_float32() -> None:
    model = network()
    lower(model)
    seen = []
    model[0].register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0].dtype))
    assert model(torch.randn(2, 6)).dtype is torch.float32
    assert seen == [torch.bfloat16]


def test_norms_are_summed_in_float32() -> None:
    gradients = [torch.full((3000,), 0.01, dtype=torch.bfloat16), torch.ones(3).bfloat16()]
    exact = torch.cat([g.double() for g in gradients]).norm()
    assert float(total_norm(gradients)) == pytest.approx(float(exact), rel=1e-6)
    floats = [torch.randn(5), torch.randn(2, 3)]
    assert torch.equal(total_norm(floats), nn.utils.get_total_norm(floats))
    assert float(total_norm([])) == 0.0


# ---------------------------------------------------------------- in the loop

LAYERS = {
    "routed": {"selector": {"kind": "topk", "k": 2}, "losses": ["balance", "z"]},
    "dense": {"selector": "dense", "grad_max_k": 1},
    "chain": {
        "kind": "chain",
        "shared": 1,
        "selector": {"kind": "topk", "k": 1, "weights": "full"},
    },
    "residual": {"kind": "residual", "inner": {"kind": "moe", "expert": "mlp"}},
}


def lowered(**more: Any) -> dict[str, Any]:
    training = {"steps": 12, "intervals": 3, "batch": 16, "precision": "bfloat16", **more}
    return {"model": ROUTED, "training": training}


@pytest.mark.parametrize("initialiser", ["random", "clone_split", "logit_offset"])
@pytest.mark.parametrize("implementation", ["default", "foreach", "fused"])
def test_taken_up_again_it_gives_the_same_bits(
    tmp_path: Path, implementation: str, initialiser: str
) -> None:
    changes = lowered(clip=0.5, optimizer={"kind": "adamw", "implementation": implementation})
    straight = digests(tmp_path, False, initialiser, **changes)
    assert digests(tmp_path, True, initialiser, **changes) == straight


def test_growth_keeps_master_weights_and_moments() -> None:
    trainer = opened(**lowered())
    trainer.run_interval(1, 0)
    before = {n: t.clone() for n, t in named_state(trainer.model, trainer.optimizer).items()}
    assert any(name.endswith(MASTER) for name in before)
    trainer.apply(grow(4, 1))
    after = named_state(trainer.model, trainer.optimizer)
    assert after.keys() == before.keys(), "the newcomers have nothing yet"
    assert all(torch.equal(after[name], before[name]) for name in before)
    trainer.run_interval(2, 1)
    new = [n for n in named_state(trainer.model, trainer.optimizer) if n not in before]
    assert any(".experts.3." in name and name.endswith(MASTER) for name in new)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.bfloat16}


def test_rescaled_experts_keep_the_copies_of_what_is_left() -> None:
    model = {"experts": 2, "head": {"kind": "moe", "hidden": [24]}}
    trainer = opened(**{**lowered(), "model": model})
    trainer.run_interval(1, 0)
    trainer.apply(grow(4, 1, reading="rescale"))
    for parameter, kept in trainer.optimizer.state.items():
        assert kept[MASTER].shape == parameter.shape
    trainer.run_interval(2, 1)
    for parameter, kept in trainer.optimizer.state.items():
        assert torch.equal(kept[MASTER].bfloat16(), parameter)


def test_a_masked_expert_keeps_its_bits_and_gets_no_state() -> None:
    trainer = opened(**lowered(optimizer={"kind": "adamw", "weight_decay": 0.5}))
    assert_unchosen_keeps_its_bits(trainer)


@pytest.mark.parametrize("layer", LAYERS)
def test_all_kinds_of_layers_learn_nearly_as_in_float32(layer: str) -> None:
    losses, sums = [], []
    for precision in ("float32", "bfloat16"):
        head = {"kind": "moe", "hidden": [24, 24], "layer": LAYERS[layer], "dense_last": True}
        model = {"experts": 3, "head": head, "backbone": {"kind": "mlp", "hidden": [24]}}
        training = {"steps": 30, "intervals": 1, "batch": 16, "precision": precision}
        report = opened(model=model, training=training).run_interval(1, 0)
        losses.append(report.metrics["loss"])
        sums.append([sum(weights) for weights in report.gate_weights.values()])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert sums[1] == pytest.approx(sums[0], rel=0.02)


def test_an_evaluator_measures_everything(tmp_path: Path) -> None:
    changes = lowered(diagnostics=["all"])
    config = tiny(**changes)
    lane, trainer = config.lanes[0].spec(), SupervisedTrainer()
    trainer.open(lane, None)
    trainer.start(stages(config)[0])
    trainer.run_interval(1, 0)
    ref = trainer.save(str(tmp_path / "c"), 1)
    report = SupervisedEvaluator().evaluate(lane, ref, config.lanes[0].tasks())
    assert len(report.scores) == 5
    names = {name.partition("/")[0] for name in report.figures[config.lanes[0].tasks()[0].name]}
    assert {"loss", "effective_rank", "load_cv"} <= names
