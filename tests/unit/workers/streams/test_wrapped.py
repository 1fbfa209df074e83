"""Streams around others: which samples come when, against counts and places worked out here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from tests.fakes import tiny
from workers.contract import TaskSpec
from workers.parsing import choose
from workers.streams import STREAMS, Part, Stream, TaskData

INSIDE = "tests.unit.workers.streams.test_wrapped:Numbered"


class Numbered(Stream):
    """Samples that are numbers: task t has those from 1000 t on, its label is t."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        kind: str = INSIDE
        sizes: tuple[int, ...] = (400, 400, 400)

    input_shape = (1,)

    @property
    def outputs(self) -> int:
        return len(self.config.sizes)

    def tasks(self):
        return tuple(
            TaskSpec(index=i, name=f"t{i}", domain=f"d{i}") for i in range(len(self.config.sizes))
        )

    def load(self, task):
        return TaskData.of(
            train=self._part(task, 0, self.config.sizes[task.index]),
            validation=self._part(task, 800, 20),
            test=self._part(task, 900, 30),
            source=task.name,
        )

    def _part(self, task, first, count):
        numbers = torch.arange(count).float() + 1000 * task.index + first
        return Part(numbers[:, None], torch.full((count,), task.index))


def made(kind: str, seed: int = 3, sizes: tuple[int, ...] = (400, 400, 400), **config: Any) -> Any:
    inside = {"kind": INSIDE, "sizes": sizes}
    cls, found, problems = choose(STREAMS, {"kind": kind, "stream": inside, **config}, "stream")
    assert cls is not None, problems
    assert not problems, problems
    return cls(found, seed)


def arriving(stream: Any, task: TaskSpec, samples: int) -> torch.Tensor:
    """Numbers in the order in which they come."""
    return stream.data(task).train.x[stream.arrival(task, samples)].flatten()


def problems(kind: str, **config: Any) -> str:
    cls, found, wrong = choose(STREAMS, {"kind": kind, **config}, "stream")
    return "; ".join(map(str, wrong or cls(found, 0).problems()))  # type: ignore[union-attr]


# ---------------------------------------------------------------- blurred


@pytest.mark.parametrize("width", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("samples", [400, 1733])
def test_shares_of_neighbours_rise_linearly(width: float, samples: int) -> None:
    stream = made("blurred", width=width)
    task = stream.tasks()[1]
    of = (arriving(stream, task, samples) // 1000).long()
    expected = {0: 0.0, 2: 0.0}
    for place in range(samples):
        p = (place + 0.5) / samples
        expected[0] += max(0.0, 0.5 - p / width)
        expected[2] += max(0.0, 0.5 - (1 - p) / width)
        for other, count in expected.items():
            assert abs(int((of[: place + 1] == other).sum()) - count) <= 0.5 + 1e-6
    assert expected[0] == pytest.approx(samples * width / 8, abs=0.2), "the area of the ramp"


def test_one_pass_shows_each_sample_once() -> None:
    stream = made("blurred", width=0.6)
    whole = torch.cat([stream.data(task).train.x.flatten() for task in stream.tasks()])
    assert len(whole) == len(whole.unique()) == 1200
    middle = (stream.data(stream.tasks()[1]).train.x.flatten() // 1000).long()
    assert middle.bincount().tolist() == [30, 340, 30], "0.6 / 8 of 400 from each side"
    assert [stream.samples(task) for task in stream.tasks()] == [400, 400, 400]


def test_ends_of_the_stream_are_sharp_and_a_width_of_nothing_is_too() -> None:
    stream = made("blurred", width=0.4)
    first, last = stream.tasks()[0], stream.tasks()[-1]
    assert set((arriving(stream, first, 100) // 1000).tolist()) == {0, 1}
    assert set((arriving(stream, last, 100) // 1000).tolist()) == {1, 2}
    sharp = made("blurred", width=0.0)
    for task in sharp.tasks():
        assert set((arriving(sharp, task, 500) // 1000).tolist()) == {task.index}
        assert task.domains == (f"d{task.index}",)


def test_each_sample_keeps_its_own_domain_and_held_out_parts_stay() -> None:
    stream = made("blurred", width=0.5)
    task = stream.tasks()[1]
    assert task.domains == ("d1", "d0", "d2")
    data = stream.data(task)
    names = [task.domains[place] for place in data.train.domain.tolist()]
    assert names == [f"d{int(label)}" for label in data.train.y]
    assert stream.scored_tasks() == stream.inner.tasks()
    for part, first in (("validation", 1800), ("test", 1900)):
        assert float(stream.held_out(task)[part].x[0]) == first
    assert float(data.validation.x[0]) == 1800


def test_neighbours_of_unequal_size_lend_no_more_than_a_quarter() -> None:
    stream = made("blurred", width=1.0, sizes=(40, 4000, 40))
    counts = (stream.data(stream.tasks()[1]).train.x.flatten() // 1000).long()
    small = stream.data(stream.tasks()[1]).train
    lent = int((small.y == 0).sum())
    assert lent == 10
    assert int(stream.samples(stream.tasks()[1])) == len(counts)
    of = small.y[stream.arrival(stream.tasks()[1], 800)]
    assert int((of == 0).sum()) == 100, "the share holds: they come again"


# ---------------------------------------------------------------- recurring, sizes, time


def test_tasks_come_again() -> None:
    stream = made("recurring", pattern="ABAC")
    assert [task.name for task in stream.tasks()] == ["t0", "t1", "t0 (2)", "t2"]
    assert [task.domain for task in stream.tasks()] == ["d0", "d1", "d0", "d2"]
    first, again = (stream.data(stream.tasks()[place]) for place in (0, 2))
    assert torch.equal(first.train.x, again.train.x)
    assert torch.equal(stream.held_out(stream.tasks()[2])["test"].x, first.test.x)


def test_fresh_visits_share_no_sample() -> None:
    stream = made("recurring", pattern="ABABA", fresh=True)
    visits = [stream.data(stream.tasks()[place]).train.x.flatten() for place in (0, 2, 4)]
    assert sorted(map(len, visits)) == [133, 133, 134]
    assert torch.equal(torch.cat(visits).sort().values, torch.arange(400).float())


@pytest.mark.parametrize(("exponent", "sizes"), [(0, [400] * 3), (1, [400, 200, 133])])
def test_sizes_after_zipf(exponent: float, sizes: list[int]) -> None:
    stream = made("imbalanced", exponent=exponent)
    assert [len(stream.data(task).train) for task in stream.tasks()] == sizes
    assert [stream.samples(task) for task in stream.tasks()] == sizes
    rising = made("imbalanced", exponent=exponent, order="rising")
    assert [rising.samples(task) for task in rising.tasks()] == sizes[::-1]
    random = made("imbalanced", exponent=exponent, order="random")
    assert sorted(random.samples(task) for task in random.tasks()) == sorted(sizes)
    assert len(stream.data(stream.tasks()[2]).test) == 30


def test_lengths_are_truncated_geometric() -> None:
    lengths = [
        made("random_lengths", seed, sizes=(400,), stop=0.02, least=50).samples(
            TaskSpec(index=0, name="t0", domain="d0")
        )
        for seed in range(400)
    ]
    chances = 0.98 ** np.arange(351)
    mean = 50 + float((np.arange(351) * chances).sum() / chances.sum())
    spread = float(np.sqrt((chances * (np.arange(351) + 50 - mean) ** 2).sum() / chances.sum()))
    assert min(lengths) >= 50
    assert max(lengths) <= 400
    assert abs(np.mean(lengths) - mean) < 4 * spread / 20
    stream = made("random_lengths", stop=0.02)
    assert len({stream.samples(task) for task in stream.tasks()}) > 1


def test_time_goes_by_as_samples_lie() -> None:
    stream = made("time_ordered")
    numbers = arriving(stream, stream.tasks()[1], 900)
    assert torch.equal(numbers, 1000.0 + torch.arange(900) % 400)


# ---------------------------------------------------------------- hidden


def test_slices_are_equal_and_together_the_whole_row() -> None:
    stream = made("hidden", slices=7, sizes=(100, 300, 230))
    row = torch.cat([stream.data(task).train.x.flatten() for task in stream.tasks()])
    assert {len(stream.data(task).train) for task in stream.tasks()} == {90}
    assert ((row // 1000).long()).tolist() == [0] * 100 + [1] * 300 + [2] * 230
    assert len(row.unique()) == 630
    assert {task.domain for task in stream.tasks()} == {"hidden"}
    assert not stream.config.domain_given
    assert all(stream.data(task).train.domain is None for task in stream.tasks())


def test_scores_are_of_the_true_tasks_learnt_by_the_slice_of_their_last_sample() -> None:
    stream = made("hidden", slices=7, sizes=(100, 300, 230))
    assert [task.name for task in stream.scored_tasks()] == ["t0", "t1", "t2"]
    assert stream.learnt_after() == (1, 4, 6), "samples 100, 400 and 630 of slices of 90"
    assert made("hidden", slices=3).learnt_after() == (0, 1, 2)
    assert float(stream.held_out(stream.scored_tasks()[1])["test"].x[0]) == 1900
    second = stream.data(stream.tasks()[1])
    assert (second.validation.x.flatten() // 1000).long().bincount().tolist() == [20, 20]


def test_slices_keep_the_order_of_the_stream_inside() -> None:
    blurred = {"kind": "blurred", "width": 0.5, "stream": {"kind": INSIDE}}
    cls, config, _ = choose(STREAMS, {"kind": "hidden", "slices": 6, "stream": blurred}, "stream")
    stream: Any = cls(config, 3)  # type: ignore[misc]
    inner = stream.inner
    rows = [arriving(inner, task, inner.samples(task)) for task in inner.tasks()]
    parts = [arriving(stream, task, stream.samples(task)) for task in stream.tasks()]
    assert torch.equal(torch.cat(parts), torch.cat(rows))
    assert torch.equal(arriving(stream, stream.tasks()[2], 350), parts[2][torch.arange(350) % 200])


def test_what_does_not_stand_inside_each_other_is_refused() -> None:
    chunks = {"kind": "chunks", "chunks": 3}
    assert "before" in problems("hidden", stream=chunks)
    assert "itself in which order" in problems("blurred", stream={"kind": "gradual_rotation"})
    assert "outside" in problems("imbalanced", stream={"kind": "hidden", "stream": "split"})
    told = {"kind": "split", "domain_given": True}
    assert "nobody is told" in problems("hidden", stream=told)
    assert "nobody is told" in problems("hidden", stream={"kind": "split", "task_known": True})
    assert "'D' of 3 tasks" in problems("recurring", stream={"kind": INSIDE}, pattern="ABD")
    wrong = problems("blurred", stream={"kind": "split", "classes_per_task": 3})
    assert "stream.stream.classes_per_task" in wrong
    assert "letters" in problems("recurring", pattern="aB")


def test_a_hidden_lane_plans_and_a_policy_of_domains_is_refused() -> None:
    stream = {"kind": "hidden", "slices": 4, "stream": {"kind": "permuted", "tasks": 3}}
    plan = tiny(stream=stream).lanes[0].plan()
    assert [task.name for task in plan.columns] == [f"permutation {i}" for i in range(3)]
    assert len(plan.tasks) == 4
    assert plan.ends[-1] == 3
    with pytest.raises(Exception, match="domain"):
        tiny(stream=stream, policies={"masks": "usage_masks"})
