"""iCaRL: herding by brute force, the loss by its formula, the nearest mean, exemplars by class."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from orchestrator.config.file import ConfigError
from tests.fakes import tiny
from tests.methods import build, over
from tests.unit.workers.supervised.loop import stages
from workers.methods.icarl import UNSEEN, ICaRL, herded, mean_of
from workers.streams import Part, TaskData
from workers.supervised.evaluator import SupervisedEvaluator
from workers.supervised.objectives import Classification
from workers.supervised.trainer import SupervisedTrainer


class Net(nn.Module):
    """Three features, six outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
        self.readout = nn.Linear(3, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.readout(self.body(x))
        return outputs


def features(net: Net, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = net.body(x)
    return found / found.norm(dim=1, keepdim=True)


def task(labels: list[int], seed: int, each: int = 15) -> TaskData:
    y = torch.tensor(labels * each)
    x = torch.randn(len(y), 4, generator=torch.Generator().manual_seed(seed)) + y[:, None]
    return TaskData.of(train=Part(x, y), test=Part(x[:1], y[:1]), source="t")


def stage(method: Any, net: Net, data: TaskData) -> None:
    """A stage in which the model does not change."""
    context = replace(over(data), model=net)
    method.begin_stage(context)
    method.end_stage(context)


def brute(rows: list[list[float]], samples: int) -> list[int]:
    """Algorithm 4 by its letter, in Python's floats."""
    width = len(rows[0])
    mean = [sum(row[d] for row in rows) / len(rows) for d in range(width)]
    length = math.sqrt(sum(v * v for v in mean))
    mean = [v / length for v in mean]
    chosen: list[int] = []
    for k in range(1, samples + 1):
        best, least = -1, math.inf
        for place, row in enumerate(rows):
            if place in chosen:
                continue
            total = [row[d] + sum(rows[j][d] for j in chosen) for d in range(width)]
            distance = math.sqrt(sum((m - t / k) ** 2 for m, t in zip(mean, total, strict=True)))
            if distance < least:
                best, least = place, distance
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("samples", [1, 4, 20])
def test_herding_takes_what_brute_force_takes(samples: int) -> None:
    rows = torch.randn(20, 6, generator=torch.Generator().manual_seed(samples))
    rows = rows / rows.norm(dim=1, keepdim=True)
    found = herded(rows, samples).tolist()
    assert found == brute(rows.tolist(), samples)
    assert herded(rows, 99).tolist()[:samples] == found, "the first ones stand for fewer"


def test_exemplars_are_shared_out_over_the_classes_and_cut_from_the_end() -> None:
    method, net = build("icarl", buffer=13), Net()
    stage(method, net, first := task([0, 1], 0))
    held = {k: part.x.clone() for k, part in method.exemplars.items()}
    assert {k: len(part) for k, part in method.exemplars.items()} == {0: 6, 1: 6}
    own = first.train.x[first.train.y == 1]
    places = brute(features(net, own).tolist(), 6)
    assert torch.equal(held[1], own[places])
    stage(method, net, second := task([2, 3], 1))
    assert {k: len(part) for k, part in method.exemplars.items()} == {0: 3, 1: 3, 2: 3, 3: 3}
    assert torch.equal(method.exemplars[1].x, held[1][:3])
    part = method.training_data(second, ())
    assert part.y.bincount().tolist() == [3, 3, 18, 18]


def test_the_loss_is_that_of_the_paper() -> None:
    """Labels decide classes 2 and 3, the model before the stage 0 and 1; 4 and 5 do not count."""
    method, net = build("icarl", buffer=12), Net()
    stage(method, net, task([0, 1], 0))
    data = task([2, 3], 1)
    method.begin_stage(replace(over(data), model=net))
    now = Net()
    with torch.no_grad():
        now.readout.weight.mul_(1.5)
    x, y = data.train.x[:5], torch.tensor([2, 3, 0, 1, 2])
    before, after = net(x).tolist(), now(x).tolist()

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    total = 0.0
    for i, label in enumerate(y.tolist()):
        for k in range(4):
            target = sigmoid(before[i][k]) if k < 2 else float(k == label)
            told = sigmoid(after[i][k])
            total -= target * math.log(told) + (1 - target) * math.log(1 - told)
    assert float(method.loss(now, x, y).detach()) == pytest.approx(total / 5, rel=1e-5)


def test_a_class_that_comes_again_is_learnt_from_its_labels_and_herded_anew() -> None:
    """Class 1 is in both tasks: nothing distils it, and old and new samples stand for it."""
    method, net = build("icarl", buffer=12), Net()
    stage(method, net, task([0, 1], 0))
    held = method.exemplars[1].x.clone()
    data = task([1, 2], 1)
    method.begin_stage(context := replace(over(data), model=net))
    x, y = data.train.x[:4], torch.tensor([1, 2, 0, 1])
    targets = torch.stack([torch.sigmoid(net(x))[:, 0], (y == 1).float(), (y == 2).float()], 1)
    losses = nn.functional.binary_cross_entropy_with_logits(
        net(x)[:, :3], targets.detach(), reduction="none"
    )
    expected = float(losses.sum(1).mean().detach())
    assert float(method.loss(net, x, y).detach()) == pytest.approx(expected, rel=1e-5)
    method.end_stage(context)
    pool = torch.cat([data.train.x[data.train.y == 1], held])
    places = brute(features(net, pool).tolist(), 4)
    assert torch.equal(method.exemplars[1].x, pool[places])
    assert {k: len(part) for k, part in method.exemplars.items()} == {0: 4, 1: 4, 2: 4}


def test_classes_of_other_tasks_do_not_count_where_tasks_are_known() -> None:
    method, net = build("icarl", buffer=12), Net()
    stage(method, net, task([0, 1], 0))
    data = task([2, 3], 1)
    method.begin_stage(replace(over(data), model=net))
    x, y = data.train.x[:1], torch.tensor([2])
    method.objective = Classification(Classification.Config())
    method.objective.know_tasks(lambda: torch.tensor([0, 0, 1, 1, 2, 2]))
    outputs = net(x)[0, 2:4]
    expected = -nn.functional.logsigmoid(outputs[0]) - nn.functional.logsigmoid(-outputs[1])
    assert float(method.loss(net, x, y).detach()) == pytest.approx(float(expected.detach()))


def test_the_nearest_mean_of_exemplars_answers() -> None:
    method, net = build("icarl", buffer=8), Net()
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(7)) + 1.0
    assert torch.equal(method.answer(net, x, None), net(x)), "the model, before there are any"
    stage(method, net, task([0, 1], 0))
    stage(method, net, task([2, 4], 1))
    loaded = build("icarl", buffer=8, seed=3)
    loaded.load_state(method.state(), net)
    with torch.no_grad():
        answers = loaded.answer(net, x, None)
    assert answers[:, [3, 5]].unique().tolist() == [UNSEEN]
    means = [features(net, method.exemplars[k].x).mean(0) for k in (0, 1, 2, 4)]
    means = [mean / mean.norm() for mean in means]
    for row, answer in zip(features(net, x), answers[:, [0, 1, 2, 4]], strict=True):
        squared = [float(((row - mean) ** 2).sum()) for mean in means]
        assert (-answer).tolist() == pytest.approx(squared, abs=1e-5)
    assert torch.equal(mean_of(features(net, method.exemplars[0].x)), means[0])


def trained(folder: Path, again: bool, **changes: Any) -> tuple[list[str], list[float]]:
    """Digests of the checkpoints of three stages, and the last row of R.

    ``again``: after each interval a fresh trainer takes the checkpoint up.
    """
    config = tiny(
        stream={"kind": "split", "dataset": "digits", "train_samples": 120},
        lanes=[{"method": {"kind": "icarl", "buffer": 40}}],
        training={"intervals": 2, "epochs": 4, "batch": 20},
        **changes,
    )
    lane, trainer, found = config.lanes[0].spec(), SupervisedTrainer(), []
    trainer.open(lane, None)
    for spec in stages(config)[:3]:
        trainer.start(spec)
        for n in (1, 2):
            trainer.run_interval(n)
            ref = trainer.save(str(folder / f"{len(found)}-{again}"), len(found) + 1)
            found.append(ref.digest)
            if again:
                trainer = SupervisedTrainer()
                trainer.open(lane, ref)
    tasks = config.lanes[0].tasks()
    return found, SupervisedEvaluator().evaluate(lane, ref, tasks).scores


def test_a_killed_lane_ends_with_the_same_bits_and_remembers_old_classes(tmp_path: Path) -> None:
    whole, scores = trained(tmp_path, False)
    assert trained(tmp_path, True) == (whole, scores)
    assert min(scores[:3]) > 0.5, "plain training is near 0 on the first two"


def test_what_it_cannot_do_is_refused() -> None:
    def problems(**changes: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            tiny(**changes)
        return [str(problem) for problem in caught.value.problems]

    icarl: dict[str, Any] = {"lanes": [{"method": {"kind": "icarl", "buffer": 9}}]}
    assert "each of the stream's 10 classes needs one" in problems(**icarl)[0]
    headless = {"head": {"kind": "big_moe", "hidden": [8]}}
    (told,) = problems(lanes=[{"method": "icarl"}], model=headless)
    assert "the lane's model has no readout" in told
    assert "expanding_mlp, mlp, moe, moe_blocks" in told
    assert ICaRL.answers
