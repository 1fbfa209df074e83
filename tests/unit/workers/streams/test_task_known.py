"""Task-incremental streams: labels of other tasks are no answers, in training and evaluation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from orchestrator.config.file import ConfigError
from tests.doors.lane import run_killed, run_lane
from tests.fakes import tiny
from workers.parsing import choose
from workers.streams import STREAMS
from workers.supervised.evaluator import SupervisedEvaluator
from workers.supervised.trainer import SupervisedTrainer

SPLIT = {"kind": "split", "dataset": "digits", "task_known": True}


def build(**settings: Any) -> Any:
    chosen = {**SPLIT, **settings}
    if chosen["kind"] == "datasets":
        del chosen["dataset"]
    cls, config, problems = choose(STREAMS, chosen, "stream")
    assert not problems
    return cls(config, 0)


def test_logits_of_other_tasks_are_nothing_and_get_no_gradient() -> None:
    objective = build().objective
    outputs, y = torch.randn(4, 10, requires_grad=True), torch.tensor([0, 3, 9, 2])
    own = torch.tensor([[0, 1], [2, 3], [8, 9], [2, 3]])
    answers = objective.answers(outputs, y)
    assert torch.equal(answers.gather(1, own), outputs.gather(1, own))
    assert int((answers == -math.inf).sum()) == 4 * 8
    loss = objective.loss(outputs, y)
    inside = functional.cross_entropy(outputs.gather(1, own), y % 2)
    assert torch.allclose(loss, inside)
    loss.backward()
    assert int((outputs.grad != 0).sum()) == 4 * 2
    assert torch.allclose(objective.losses(outputs, y).mean(), loss)
    told = (outputs.gather(1, own).argmax(1) == y % 2).float()
    assert torch.equal(objective.score(outputs, y), told)


@pytest.mark.parametrize("order", ["label", "random"])
def test_each_label_belongs_to_its_task(order: str) -> None:
    stream = build(order=order)
    found = stream.objective.task_of_label
    for task in stream.tasks():
        assert found[stream.labels(task)].tolist() == [task.index] * 2
        assert set(stream.data(task).train.y.tolist()) == set(stream.labels(task))


def test_shared_labels_all_stay_answers() -> None:
    objective = build(kind="permuted", tasks=3).objective
    outputs = torch.randn(5, 10)
    assert torch.equal(objective.answers(outputs, torch.arange(5)), outputs)
    hidden = build(task_known=False).objective
    assert hidden.answers(outputs, torch.arange(5)) is outputs


def test_data_sets_with_outputs_of_their_own() -> None:
    stream = build(kind="datasets", datasets=["digits", "digits"])
    assert [list(stream.labels(task)) for task in stream.tasks()] == [
        list(range(10)),
        list(range(10, 20)),
    ]
    shared = build(kind="datasets", datasets=["digits", "digits"], shared_labels=True)
    assert [shared.labels(task) for task in shared.tasks()] == [None, None]


def test_an_evaluation_knows_each_samples_task(tmp_path: Path) -> None:
    lane = tiny(stream=SPLIT).lanes[0]
    trainer = SupervisedTrainer()
    trainer.open(lane.spec(), None)
    saved = trainer.save(str(tmp_path / "untrained"), 1)
    report = SupervisedEvaluator().evaluate(lane.spec(), saved, lane.tasks())
    trainer.model.eval()
    for task, score in zip(lane.tasks(), report.scores, strict=True):
        test = trainer.stream.data(task).test
        own = torch.tensor(task.settings["classes"])
        with torch.no_grad():
            right = own[trainer.model(test.x)[:, own].argmax(1)] == test.y
        assert score == pytest.approx(float(right.double().mean()))


def lane(**stream: Any) -> dict[str, Any]:
    return {
        "stream": {**SPLIT, "train_samples": 100, **stream},
        "model": {"head": {"kind": "moe", "hidden": [16]}},
        "training": {"epochs": 3, "intervals": 3, "batch": 20},
        "policies": {"growth": "periodic"},
        "lanes": [{"method": {"kind": "replay", "buffer": 30, "batch": 8}}],
    }


def test_a_lane_goes_through_kills_and_remembers_more(tmp_path: Path) -> None:
    known = run_lane(tmp_path / "known", lane())
    hidden = run_lane(tmp_path / "hidden", lane(task_known=False))
    assert sum(known.matrix[-1]) > sum(hidden.matrix[-1])
    assert run_killed(tmp_path / "killed", lane()).essence == known.essence


def arrays(folder: Path, *labels: range) -> dict[str, Any]:
    for task, own in enumerate(labels):
        (folder / f"t{task}").mkdir()
        for part in ("train", "test"):
            np.save(folder / f"t{task}" / f"{part}_x.npy", np.zeros((40, 3), np.float32))
            np.save(folder / f"t{task}" / f"{part}_y.npy", np.resize(list(own), 40))
    return {"kind": "arrays", "path": str(folder), "task_known": True}


def test_labels_in_files_are_looked_up(tmp_path: Path) -> None:
    stream = tiny(stream=arrays(tmp_path, range(2), range(2, 5), range(2))).lanes[0].stream()
    assert stream.objective.task_of_label.tolist() == [0, 0, 1, 1, 1]


def test_tasks_that_share_some_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="some labels, but not all, are shared by tasks"):
        tiny(stream=arrays(tmp_path, range(3), range(2, 5)))


def test_a_known_task_tells_its_domain() -> None:
    head = {"kind": "moe", "hidden": [16], "layer": {"router": "per_task_gate"}}
    views = [{"name": "a", "rotate": 90.0}, {"name": "b"}]
    stream = {"kind": "domains", "domains": views, "order": "sequential", "task_known": True}
    model = {"experts": 4, "head": head}
    tiny(stream=stream, model=model)
    with pytest.raises(ConfigError, match="hides a sample's domain"):
        tiny(stream={**stream, "order": "joint"}, model=model)
