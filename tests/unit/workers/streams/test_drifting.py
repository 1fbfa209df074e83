"""Streams that drift by themselves: images that turn on, tasks with classes in common."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from workers.parsing import choose
from workers.streams import STREAMS
from workers.streams.rotated import rotate


def made(kind: str, seed: int = 2, **config: Any) -> Any:
    cls, found, problems = choose(STREAMS, {"kind": kind, **config}, "stream")
    assert cls is not None, problems
    assert not problems, problems
    return cls(found, seed)


def test_each_sample_is_turned_by_the_angle_of_its_place() -> None:
    stream = made("gradual_rotation", first=10.0, last=130.0, stages=4)
    task = stream.tasks()[2]
    plain = stream.dataset.scaled("train", stream.select(task, "train"))
    train = stream.data(task).train
    n = len(train)
    for place in (0, 17, n - 1):
        angle = 10.0 + 120.0 * (2 + (place + 0.5) / n) / 4
        assert torch.equal(train.x[place], rotate(plain[place : place + 1], angle)[0])
    test = stream.dataset.scaled("test", stream.select(task, "test")[:1])
    assert torch.equal(stream.data(task).test.x[:1], rotate(test, 85.0))


def test_stages_share_no_sample_and_time_goes_on_in_groups() -> None:
    stream = made("gradual_rotation", stages=3)
    chosen = np.concatenate([stream.select(task, "train") for task in stream.tasks()])
    assert len(np.unique(chosen)) == len(chosen) == len(stream.dataset.labels("train"))
    task = stream.tasks()[0]
    n, taken = stream.samples(task), 1000
    groups = stream.arrival(task, taken) // 64
    assert n == len(stream.data(task).train)
    assert all(a <= b for a, b in pairwise(groups.tolist()))
    counts = groups.bincount()
    assert int(counts.max() - counts.min()) <= 1, "each stretch of the drift takes as long"
    assert len(stream.arrival(task, taken).unique()) == n


@pytest.mark.parametrize(
    ("overlap", "groups"),
    [
        (0.0, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (0.5, [[0, 1, 2, 3], [2, 3, 4, 5]]),
        (1.0, [[0, 1, 2, 3], [0, 1, 2, 3]]),
    ],
)
def test_neighbours_have_their_share_of_classes_in_common(
    overlap: float, groups: list[list[int]]
) -> None:
    stream = made("overlap", tasks=2, overlap=overlap)
    assert [task.settings["classes"] for task in stream.tasks()] == groups
    chosen = [stream.select(task, "train") for task in stream.tasks()]
    assert not set(chosen[0]) & set(chosen[1]), "no sample comes twice"
    labels = stream.dataset.labels("train")
    assert set(np.concatenate(chosen)) == set(
        np.flatnonzero(np.isin(labels, np.concatenate(groups)))
    )
    for task, own in zip(stream.tasks(), chosen, strict=True):
        assert sorted(set(labels[own].tolist())) == task.settings["classes"]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"overlap": 0.3}, "no whole number"),
        ({"overlap": 0.0, "tasks": 3}, "need 12 classes"),
        ({"tasks": 0}, "at least 1"),
    ],
)
def test_overlaps_that_cannot_be_are_refused(config: dict[str, Any], told: str) -> None:
    assert told in "; ".join(map(str, made("overlap", **config).problems()))
