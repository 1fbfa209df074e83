"""The stream of linear ground truths, against its definition and a solution in closed form."""

from __future__ import annotations

import numpy as np
import torch

from workers.streams.linear_clusters import LinearClusters


def stream(seed: int = 0, **settings: object) -> LinearClusters:
    return LinearClusters(LinearClusters.Config(**settings), seed)


def test_a_task_is_linear_in_its_cluster_and_linear_regression_solves_it() -> None:
    made = stream(clusters=3, dimensions=10, validation=0.0)
    truths, features = made.truths()
    assert np.allclose(np.linalg.norm(truths, axis=1), 1.0)
    assert np.allclose(features @ features.T, np.eye(3))
    assert np.allclose(features @ truths.T, 0.0)
    for task in made.tasks():
        data = made.data(task)
        cluster = task.settings["cluster"]
        x = data.train.x.double().numpy()
        assert np.allclose(x @ features.T, 3.0 * np.eye(3)[cluster], atol=1e-5)
        answers = x @ truths[cluster]
        assert np.allclose(answers, data.train.y[:, 0].numpy(), atol=1e-5)


def test_no_single_linear_map_answers_two_clusters() -> None:
    made = stream(clusters=2, dimensions=12, tasks=2, validation=0.0)
    parts = [made.data(task).train for task in made.tasks()]
    x, y = torch.cat([p.x for p in parts]).double(), torch.cat([p.y for p in parts]).double()
    rest = x @ torch.linalg.lstsq(x, y).solution - y
    assert rest.square().mean() > 0.3
    alone = parts[0].x.double()
    best = alone @ torch.linalg.lstsq(alone, parts[0].y.double()).solution
    assert (best - parts[0].y).square().mean() < 1e-8


def test_clusters_by_turns_or_drawn_by_the_seed() -> None:
    turns = [task.domain for task in stream(tasks=5, clusters=2).tasks()]
    assert turns == ["cluster 0", "cluster 1"] * 2 + ["cluster 0"]
    drawn = [stream(seed, order="random", tasks=40).tasks() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    same = stream(4).data(stream(4).tasks()[1])
    assert torch.equal(same.train.x, stream(4).data(stream(4).tasks()[1]).train.x)


def test_what_cannot_be_is_refused() -> None:
    paths = [str(p) for p in stream(dimensions=3, clusters=3, tasks=0).problems()]
    assert any("stream.dimensions" in p for p in paths)
    assert any("stream.tasks" in p for p in paths)
