"""Gradient accumulation: a step in several parts is the step that it would be at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fakes import tiny
from tests.pairs import Pair
from tests.unit.workers.supervised.loop import ROUTED, digests, grow, opened, stages
from workers.contract import InputError
from workers.moe.growth.surgery import fingerprint
from workers.moe.routed import routed_layers
from workers.supervised.batches import equal_parts
from workers.supervised.data_parallel import ALONE
from workers.supervised.trainer import SupervisedTrainer

DOMAINS = {
    "kind": "domains",
    "train_samples": 96,
    "test_samples": 20,
    "domains": [{"name": "turned", "rotate": 90.0}, {"name": "permuted", "permutation": 1}],
}
PLAIN = {**ROUTED, "head": {**ROUTED["head"], "layer": {"selector": {"kind": "topk", "k": 2}}}}
"""Without balance and z loss, which are not means over samples."""


def stepped(accumulate: int, steps: int = 6, **changes: Any) -> tuple[SupervisedTrainer, Any]:
    """A trainer after one interval of so many steps, and its report."""
    training = {"steps": steps, "intervals": 1, "batch": 24, "accumulate": accumulate}
    training |= changes.pop("training", {})
    trainer = opened(**{"stream": DOMAINS, "model": PLAIN, "training": training, **changes})
    return trainer, trainer.run_interval(1, 0)


def parameters(trainer: SupervisedTrainer) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_step_in_parts_is_the_whole_step_up_to_rounding(parts: int) -> None:
    sgd = {"optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9}}
    (whole, told), (split, found) = (stepped(n, training=sgd) for n in (1, parts))
    torch.testing.assert_close(parameters(split), parameters(whole), rtol=1e-4, atol=1e-6)
    assert found.counts == told.counts
    assert found.tokens == told.tokens
    assert sum(found.tokens.values()) == 6 * 24
    for name in ("loss", "gradient_norm", "learning_rate"):
        assert found.metrics[name] == pytest.approx(told.metrics[name], rel=1e-4)
    for layer, weights in told.gate_weights.items():
        assert found.gate_weights[layer] == pytest.approx(weights, rel=1e-4)


def test_losses_of_layers_are_weighted_and_each_part_is_counted() -> None:
    (_, told), (_, found) = (stepped(n, model=ROUTED) for n in (1, 4))
    names = [name for name in told.metrics if name.startswith("loss/")]
    assert len(names) == 2
    for name in names:
        assert found.metrics[name] == pytest.approx(told.metrics[name], rel=0.1)
    terms = sum(found.metrics[name] for name in names)
    assert terms > 1e-4
    _, bare = stepped(4)
    assert found.metrics["loss"] - bare.metrics["loss"] == pytest.approx(terms, rel=0.2)


def test_an_expert_learns_if_any_part_chose_it() -> None:
    """Tokens of the first part go to experts 0 and 1, of the second to 2 and 3, none to 4."""
    training = {"steps": 1, "intervals": 1, "batch": 24, "accumulate": 2}
    model = {**PLAIN, "experts": 5, "max_experts": 5}
    trainer = opened(stream=DOMAINS, model=model, training=training)
    (layer,) = routed_layers(trainer.model).values()
    before = {name: p.detach().clone() for name, p in layer.experts.named_parameters()}
    passes: list[int] = []

    def choose(router: Any, inputs: Any, logits_TE: Tensor) -> Tensor:
        if not router.training:
            return logits_TE
        first = 2 * len(passes)
        passes.append(first)
        others = torch.ones_like(logits_TE, dtype=torch.bool)
        others[:, first : first + 2] = False
        return logits_TE.masked_fill(others, -100.0)

    layer.router.register_forward_hook(choose)
    trainer.run_interval(1, 0)
    assert passes == [0, 2]
    moved = {
        name.partition(".")[0]
        for name, p in layer.experts.named_parameters()
        if not torch.equal(p, before[name])
    }
    assert moved == {"0", "1", "2", "3"}


def test_what_rises_once_a_step_rises_with_the_first_part() -> None:
    suppressing = {"kind": "logit_offset", "steps": 8}
    found = []
    for accumulate in (1, 4):
        training = {"steps": 4, "intervals": 1, "batch": 24, "accumulate": accumulate}
        trainer = opened(stream=DOMAINS, model=PLAIN, training=training)
        trainer.apply(grow(4, 1, initialiser=suppressing))
        trainer.run_interval(1, 1)
        (layer,) = routed_layers(trainer.model).values()
        found.append(layer.router.offset)
    assert found[0][3] < 0
    assert torch.equal(*found)


@pytest.mark.parametrize(("samples", "parts"), [(12, 4), (7, 3), (2, 5), (1, 1)])
def test_parts_hold_every_sample_once(samples: int, parts: int) -> None:
    found = equal_parts(samples, parts)
    assert [i for part in found for i in range(part.start, part.stop)] == list(range(samples))
    sizes = {part.stop - part.start for part in found}
    assert max(sizes) - min(sizes) <= 1
    assert len(found) == min(samples, parts)


@pytest.mark.parametrize(("batch", "accumulate", "workers"), [(64, 3, 1), (64, 16, 8)])
def test_a_batch_that_cannot_be_split_is_refused(batch: int, accumulate: int, workers: int) -> None:
    training = {"batch": batch, "accumulate": accumulate}
    with pytest.raises(InputError, match=r"training\.batch.*make it a multiple of their product"):
        tiny(training=training, lanes=[{"workers": workers}])


def test_taken_up_again_it_gives_the_same_bits(tmp_path: Path) -> None:
    changes = {
        "stream": DOMAINS,
        "model": ROUTED,
        "training": {"epochs": 2, "intervals": 3, "batch": 20, "accumulate": 4, "clip": 1.0},
    }
    assert digests(tmp_path, True, **changes) == digests(tmp_path, False, **changes)


# ---------------------------------------------------------------- several workers


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def interval_of(replicas: Any, changes: dict[str, Any]) -> tuple[str, Any]:
    """Fingerprint and report of a worker's first interval."""
    config = tiny(**changes)
    trainer = SupervisedTrainer(replicas)
    trainer.open(config.lanes[0].spec(), None)
    trainer.start(stages(config)[0])
    report = trainer.run_interval(1, 0)
    return fingerprint(trainer.model), (report.metrics, report.counts, report.tokens)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_workers_in_parts_take_the_steps_of_one_at_once(pair: Pair, precision: str) -> None:
    training = {"steps": 5, "intervals": 1, "batch": 24, "precision": precision}
    changes = {"stream": DOMAINS, "model": PLAIN, "training": training}
    split = {**changes, "training": {**training, "accumulate": 3}}
    (one, told), (other, same) = pair.run(interval_of, split)
    assert (one, told) == (other, same), "replicas hold the same bits"
    _, (metrics, counts, tokens) = interval_of(ALONE, changes)
    assert told[2] == tokens
    tolerance = 1e-4 if precision == "float32" else 0.02
    for name in ("loss", "gradient_norm"):
        assert told[0][name] == pytest.approx(metrics[name], rel=tolerance)
    if precision == "float32":
        assert told[1] == counts
