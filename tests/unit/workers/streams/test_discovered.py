"""Domains that are found: agreement by its formula, planted clusters, wrong labels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import adjusted_rand_score as adjusted_rand

from tests.doors.lane import run_lane
from workers.contract import TaskSpec
from workers.parsing import choose
from workers.streams import STREAMS, Part, Stream, TaskData
from workers.streams.discovery.dp_means import DPMeans

INSIDE = "tests.unit.workers.streams.test_discovered:Places"


class Places(Stream):
    """Three domains at three places of the plane; the label is the side of the place's middle."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        kind: str = INSIDE
        apart: float = 8.0

    input_shape, outputs = (2,), 2

    def tasks(self):
        return tuple(TaskSpec(index=i, name=f"t{i}", domain=f"d{i}") for i in range(3))

    def load(self, task):
        parts = {name: self._part(task, name, n) for name, n in (("train", 120), ("test", 40))}
        return TaskData.of(validation=self._part(task, "validation", 20), source=task.name, **parts)

    def _part(self, task, name, count):
        seed = self.seed + 100 * task.index + len(name)
        x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
        middle = self.config.apart * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[task.index]
        return Part(x + middle, (x[:, 0] > 0).long())


def made(by: Any, apart: float = 8.0, seed: int = 1) -> Any:
    raw = {"kind": "discovered", "by": by, "stream": {"kind": INSIDE, "apart": apart}}
    cls, config, problems = choose(STREAMS, raw, "stream")
    assert cls is not None, problems
    assert not problems, problems
    return cls(config, seed)


def by_pairs(one: list[int], other: list[int]) -> float:
    """The adjusted index from the Rand index of all pairs, and its mean over permutations."""
    pairs = list(combinations(range(len(one)), 2))
    a = sum(one[i] == one[j] for i, j in pairs)
    b = sum(other[i] == other[j] for i, j in pairs)
    s = sum(one[i] == one[j] and other[i] == other[j] for i, j in pairs)
    expected = a * b / len(pairs)
    return (s - expected) / ((a + b) / 2 - expected)


def test_adjusted_rand_by_counting_pairs() -> None:
    generator = torch.Generator().manual_seed(4)
    for _ in range(5):
        one, other = torch.randint(0, 4, (2, 30), generator=generator).tolist()
        assert adjusted_rand(one, other) == pytest.approx(by_pairs(one, other))
    assert adjusted_rand([0, 0, 1, 1, 2], [5, 5, 3, 3, 4]) == 1.0
    assert adjusted_rand([0, 0, 0], [1, 1, 1]) == 1.0
    assert adjusted_rand([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(-0.5)


@pytest.mark.parametrize("by", ["kmeans", {"kind": "dp_means", "spread": 12.0}], ids=str)
def test_planted_domains_are_found(by: Any) -> None:
    """lam = 24 in the plane: e^-12 of a domain's samples lie beyond it, the others 64 away."""
    stream = made(by)
    found = {}
    for task in stream.tasks():
        data = stream.data(task)
        assert float(data.notes["adjusted_rand"]) > 0.97
        found[task.name] = int(data.train.domain.mode().values)
        assert (data.test.domain == found[task.name]).double().mean() > 0.95
        assert data.validation.domain is not None
    assert len(set(found.values())) == 3, "one each"
    assert {task.domains for task in stream.tasks()} == {stream.tasks()[0].domains}


def test_what_lies_together_is_not_told_apart() -> None:
    stream = made({"kind": "kmeans", "domains": 5}, apart=0.0)
    notes = [float(stream.data(task).notes["adjusted_rand"]) for task in stream.tasks()]
    assert abs(notes[-1]) < 0.05
    assert len(stream.tasks()[0].domains) == 5


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_so_many_labels_are_wrong(share: float) -> None:
    stream = made({"kind": "corrupted", "share": share})
    for task in stream.tasks():
        data = stream.data(task)
        for part in (data.train, data.test):
            wrong = int((part.domain != task.index).sum())
            assert wrong == round(share * len(part))
    agreement = float(data.notes["adjusted_rand"])
    assert agreement == 1.0 if share == 0.0 else 0.0 < agreement < 0.7


def test_dp_means_step_by_step() -> None:
    one = DPMeans(DPMeans.Config(spread=1.0, warmup=4, most=2), 0, 9)
    x = torch.tensor([[0.0], [1.0], [9.0], [10.0], [30.0]], dtype=torch.float64)
    first = x[:4].flatten()
    lam = float((first - first.mean()).square().mean())
    assert one.learn(x, torch.zeros(5), 0).tolist() == [0, 0, 1, 1, 1], "the third may not be"
    assert one.lam == pytest.approx(lam)
    assert one.centres_KD.flatten().tolist() == pytest.approx([0.5, (9 + 10 + 30) / 3])
    assert one.found(torch.tensor([[7.0], [20.0]]).double(), torch.zeros(2), 0).tolist() == [0, 1]


def test_held_out_parts_do_not_depend_on_who_asked_before() -> None:
    """An evaluator asks for all tasks at once, a trainer for one after another."""
    ahead, step = made("dp_means"), made("dp_means")
    last = [ahead.held_out(task)["test"].domain for task in reversed(ahead.tasks())][::-1]
    for task, domain in zip(step.tasks(), last, strict=True):
        assert torch.equal(step.data(task).test.domain, domain)


def test_masks_go_by_found_domains(tmp_path: Path) -> None:
    config = {
        "stream": {"kind": "discovered", "by": "kmeans", "stream": {"kind": INSIDE}},
        "model": {
            "experts": 4,
            "head": {
                "kind": "moe",
                "hidden": [16],
                "layer": {"expert": "linear", "selector": {"kind": "topk", "k": 2}},
            },
        },
        "training": {"epochs": 6, "intervals": 2, "batch": 40},
        "policies": {"masks": {"kind": "usage_masks", "from_stage": 1}},
        "lanes": [{"method": "finetune"}],
    }
    straight = run_lane(tmp_path / "straight", config)
    masks = [edit for edit in straight.edits if edit["kind"] == "refresh_mask"]
    assert masks
    assert list(masks[0]["domains"]) == ["found 1", "found 2", "found 3"]
    assert straight.lane["stages"][-1]["data"]["source"].endswith("domains by kmeans")
