"""PackNet: what a task owns is never changed again, and alone answers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.config.file import ConfigError
from tests.doors.lane import run_lane
from tests.fakes import tiny
from tests.pairs import Pair
from tests.unit.workers.methods.contexts import around, build, net, samples
from tests.unit.workers.supervised.loop import stages
from workers.contract import TaskSpec
from workers.methods import METHODS
from workers.methods.packnet import smallest
from workers.parsing import choose
from workers.supervised.data_parallel import ALONE
from workers.supervised.trainer import SupervisedTrainer

KNOWN = {"kind": "split", "dataset": "digits", "train_samples": 60, "task_known": True}


def lane(**changes: Any) -> Any:
    raw = {
        "stream": KNOWN,
        "model": {"head": {"kind": "mlp", "hidden": [24]}},
        "training": {"steps": 12, "intervals": 3, "batch": 20},
        "lanes": [{"method": {"kind": "packnet", "prune": 0.5}}],
    }
    return {**raw, **changes}


def stage(method: Any, model: nn.Module, number: int, steps: int = 10) -> None:
    """A stage on classes 0 and 1, or 2 and 3, decaying weights all the time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    x, y = samples(20, number)
    method.begin_stage(around(model, optimizer, stage=number, steps=steps))
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(x)[:, 2 * number : 2 * number + 2]
        nn.functional.cross_entropy(logits, y % 2).backward()
        context = around(model, optimizer, stage=number, steps=steps)
        method.after_backward(context)
        optimizer.step()
        method.after_step(context)


def answer(method: Any, model: nn.Module, number: int) -> Tensor:
    task = TaskSpec(index=number, name="t", domain="d")
    return method.answer(model.eval(), samples(9, 7)[0], task)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_weights_and_answers_of_a_task_are_the_same_bits_after_later_ones() -> None:
    method, model = build("packnet"), net()
    stage(method, model, 0)
    model.eval()
    first, own = values(model), {n: k["owner"] == 1 for n, _, k in method.known}
    told = answer(method, model, 0)
    assert torch.equal(told, model(samples(9, 7)[0])), "at its end it is the whole network"
    stage(method, model, 1)
    later = values(model)
    for name, mask in own.items():
        assert torch.equal(first[name][mask], later[name][mask])
    assert torch.equal(answer(method, model, 0), told)
    assert not torch.equal(model(samples(9, 7)[0]), told), "later tasks changed the network"
    assert torch.equal(answer(method, model, 1), model(samples(9, 7)[0]))
    assert not torch.equal(answer(method, model, 1)[:, :2], told[:, :2])


def test_half_of_what_learnt_is_given_back_as_zeros() -> None:
    method, model = build("packnet", prune=0.5, retrain=0.0), net()
    before = values(model)
    stage(method, model, 0)
    owner = {name: known["owner"] for name, _, known in method.known}
    weight = dict(model.named_parameters())
    assert int((owner["0.weight"] == 1).sum()) == 8  # of 15, of which floor(7.5) are given back
    assert int((owner["2.weight"] == 1).sum()) == 5  # of the rows of the two classes
    assert not owner["2.weight"][2:].any(), "rows of other classes learnt nothing"
    assert owner["0.bias"].eq(1).all(), "vectors are not pruned"
    assert owner["2.bias"].tolist() == [1, 1, 0, 0]
    for name, parameter in weight.items():
        assert not parameter[owner[name] == 0].any()
    stage(method, model, 1, steps=0)
    decayed = before["2.weight"][2:]
    assert torch.allclose(weight["2.weight"][2:], decayed, rtol=0.05), "they go on as they were"
    assert not weight["0.weight"][owner["0.weight"] == 0].any(), "pruned ones start from 0"


def test_what_was_given_back_stays_zero_while_the_rest_is_trained() -> None:
    method, model = build("packnet", retrain=0.5), net()
    seen = []
    watched = method._prune
    method._prune = lambda own: (watched(own), seen.append(values(model)))
    stage(method, model, 0)
    (pruned,) = seen
    owner = method.known.of("0.weight")["owner"]
    after = values(model)["0.weight"]
    assert not after[owner == 0].any()
    assert not torch.equal(after[owner == 1], pruned["0.weight"][owner == 1])


def test_the_smallest_among_some() -> None:
    weight = torch.tensor([[3.0, -1.0, 2.0], [-0.5, 1.0, 9.0]])
    among = torch.tensor([[True, True, True], [False, True, True]])
    assert smallest(weight, among, 0.5).tolist() == [[False, True, False]] * 2
    assert not smallest(weight, among, 0.1).any()


def test_what_is_frozen_from_the_start_belongs_to_all() -> None:
    method, model = build("packnet"), net()
    model[0].requires_grad_(False)
    before = values(model)
    stage(method, model, 0)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert "0.weight" not in method.known
    assert torch.equal(answer(method, model, 0), model(samples(9, 7)[0]))


def test_evaluations_of_old_tasks_give_the_same_scores(tmp_path: Path) -> None:
    """Cells of the matrix after the diagonal do not move: nothing is forgotten, bit for bit."""
    fast = {"kind": "adamw", "lr": 1e-2}
    training = {"steps": 40, "intervals": 2, "batch": 20, "optimizer": fast}
    outcome = run_lane(tmp_path, lane(training=training))
    rows = outcome.matrix[-5:]
    for task in range(5):
        assert len({row[task] for row in rows[task:]}) == 1
    assert sum(rows[-1]) / 5 > 0.6


def run(replicas: Any, folder: Path | None, **changes: Any) -> tuple[list[str], dict[str, Tensor]]:
    """Digests after each interval of two stages, taken up again where there is a folder."""
    config = tiny(**lane(**changes))
    spec, trainer = config.lanes[0].spec(), SupervisedTrainer(replicas)
    trainer.open(spec, None)
    found, seq = [], 0
    for one in stages(config)[:2]:
        trainer.start(one)
        for n in range(1, one.intervals + 1):
            trainer.run_interval(n, 0)
            if folder is not None:
                seq += 1
                ref = trainer.save(str(folder / str(seq)), seq)
                found.append(ref.digest)
                if folder.name == "again" and n < one.intervals:
                    trainer = SupervisedTrainer()
                    trainer.open(spec, ref)
    return found, {name: value.detach() for name, value in trainer.model.state_dict().items()}


def run_in(replicas: Any, training: dict[str, Any]) -> dict[str, Tensor]:
    return run(replicas, None, training=training)[1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_taken_up_again_it_gives_the_same_bits(tmp_path: Path, precision: str) -> None:
    training = {**lane()["training"], "precision": precision, "accumulate": 2, "clip": 1.0}
    straight, _ = run(ALONE, tmp_path / "straight", training=training)
    assert run(ALONE, tmp_path / "again", training=training)[0] == straight


def test_two_workers_train_as_one() -> None:
    training = {**lane()["training"], "optimizer": {"kind": "sgd", "lr": 0.1}}
    pair = Pair()
    try:
        one, other = pair.run(run_in, training)
    finally:
        pair.close()
    alone = run_in(ALONE, training)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.allclose(one[name], alone[name], atol=1e-5) for name in one)


PERCENTILE = {"selector": "percentile_batch"}
REFUSED = {
    "hidden": ({"stream": {**KNOWN, "task_known": False}}, "set stream.task_known = true"),
    "growing": ({"policies": {"growth": "periodic"}}, "policies that change the model"),
    "statistics": (
        {"model": {"experts": 3, "head": {"kind": "moe", "hidden": [24], "layer": PERCENTILE}}},
        "packnet with running statistics",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_a_task_s_weights_is_refused(name: str) -> None:
    changes, why = REFUSED[name]
    with pytest.raises(ConfigError, match=why):
        tiny(**lane(**changes))


@pytest.mark.parametrize(("name", "value"), [("prune", 0.0), ("prune", 1.0), ("retrain", 1.0)])
def test_shares_are_below_1(name: str, value: float) -> None:
    _, config, problems = choose(METHODS, {"kind": "packnet", name: value}, "method")
    assert config is None
    assert name in str(problems[0])
