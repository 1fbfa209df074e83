"""GDumb: trains on its memory alone, and offers a stage's samples once."""

from __future__ import annotations

import pytest
import torch

from tests.methods import NOTHING, build, over
from workers.methods import METHODS
from workers.streams import Part, TaskData


def task(labels: list[int], first: int) -> TaskData:
    """Samples numbered from ``first``, with these labels over and over."""
    y = torch.tensor(labels * 20)
    x = torch.arange(first, first + len(y)).float()[:, None]
    return TaskData.of(train=Part(x, y), test=Part(x[:1], y[:1]), source="t")


def test_a_stage_trains_on_the_memory_alone() -> None:
    method = build("gdumb", buffer=12)
    assert type(method).starts_afresh
    for first, labels in enumerate(([0, 1], [2, 3], [4, 5])):
        data = task(labels, 100 * first)
        part = method.training_data(data, ())
        method.end_stage(over(data))
        seen = 2 * (first + 1)
        assert part.y.bincount().tolist() == [12 // seen] * seen
        assert (part.x[:, 0].long() // 100 == part.y // 2).all(), "inputs stay with their labels"


def test_a_stage_that_is_taken_up_has_the_same_samples() -> None:
    method, second = build("gdumb", buffer=12), task([2, 3], 100)
    method.training_data(task([0, 1], 0), ())
    method.end_stage(over(task([0, 1], 0)))
    part = method.training_data(second, ())
    resumed = build("gdumb", seed=5, buffer=12)
    resumed.load_state(method.state(), NOTHING)
    again = resumed.training_data(second, ())
    assert torch.equal(part.x, again.x)
    assert torch.equal(part.y, again.y)
    for one in (method, resumed):
        one.end_stage(over(second))
    first, other = method.state(), resumed.state()
    assert all(torch.equal(first[name], other[name]) for name in first)
    assert (first["y"] >= 2).any(), "the memory is that of the stage that has ended"


@pytest.mark.parametrize(
    ("storage", "of_each_task"),
    [("greedy", [12, 0, 0]), ("task_balanced", [4, 4, 4]), ("class_balanced", None)],
)
def test_where_all_classes_come_again_the_storage_decides(
    storage: str, of_each_task: list[int] | None
) -> None:
    """The paper's memory is full of the first task; others hold samples of every task."""
    method = build("gdumb", buffer=12, storage=storage)
    for first in (0, 100, 200):
        data = task([0, 1, 2], first)
        part = method.training_data(data, ())
        method.end_stage(over(data))
        resumed = build("gdumb", seed=9, buffer=12, storage=storage)
        resumed.load_state(method.state(), NOTHING)
        method = resumed
    tasks = (part.x[:, 0].long() // 100).bincount(minlength=3).tolist()
    if of_each_task is None:
        assert min(tasks) > 0
        assert part.y.bincount().tolist() == [4, 4, 4]
    else:
        assert tasks == of_each_task


def test_it_is_no_plain_start() -> None:
    assert not METHODS["gdumb"].starts_plainly(), "its first stage trains on the memory too"
    assert METHODS["scratch"].starts_plainly()
