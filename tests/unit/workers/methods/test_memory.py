"""What a memory keeps of samples: copies, in their slots, drawn without repeats."""

from __future__ import annotations

import torch

from workers.methods.buffers import Reservoir
from workers.methods.memory import Memory, rows_of
from workers.streams import Part


def memory(size: int = 6, seed: int = 0) -> Memory:
    return Memory(Reservoir.Config(), size, seed)


def part(first: int, count: int) -> Part:
    y = torch.arange(first, first + count)
    return Part(y[:, None].float() * 2, y)


def test_columns_stay_together() -> None:
    kept = memory()
    for first in (0, 20, 40):
        kept.offer(torch.zeros(20, dtype=torch.int64), 0, rows_of(part(first, 20)))
    assert len(kept) == 6
    drawn = kept.draw(4)
    assert len(set(drawn["y"].tolist())) == 4
    assert torch.equal(drawn["x"][:, 0], 2 * drawn["y"].float())
    assert sorted(kept.draw(99)["y"].tolist()) == sorted(kept.columns["y"].tolist())


def test_rows_are_asked_for_once_and_only_for_what_is_kept() -> None:
    kept, asked = memory(3), []

    def rows(at: torch.Tensor) -> dict[str, torch.Tensor]:
        asked.append(at.tolist())
        return {"y": at}

    kept.offer(torch.zeros(3, dtype=torch.int64), 0, rows)
    assert asked == [[0, 1, 2]]
    for _ in range(200):
        kept.offer(torch.zeros(1, dtype=torch.int64), 0, rows)
    assert len(asked) < 40, "3 of n samples on average: 3 * ln(203 / 3) in all"


def test_an_empty_memory_draws_nothing_and_travels() -> None:
    empty = memory()
    assert empty.draw(3) == {}
    again = memory(seed=4)
    again.load_state(empty.state())
    for kept in (empty, again):
        kept.offer(torch.zeros(30, dtype=torch.int64), 0, rows_of(part(0, 30)))
    assert torch.equal(empty.draw(6)["y"], again.draw(6)["y"])
