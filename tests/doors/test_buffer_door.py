"""The door of buffers: one that keeps the latest samples, through kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.doors.lane import run_killed, run_lane
from workers.methods.buffers import Buffer


class Latest(Buffer):
    """The samples that came last, the oldest being replaced first."""

    def slot(self, label, accept, which):
        return (sum(self.seen.values()) - 1) % self.size


def config() -> dict[str, Any]:
    storage = "tests.doors.test_buffer_door:Latest"
    return {
        "stream": {"kind": "split", "dataset": "digits", "train_samples": 80},
        "model": {"head": {"kind": "moe", "hidden": [16]}},
        "training": {"epochs": 3, "intervals": 3, "batch": 20},
        "policies": {"growth": "periodic"},
        "lanes": [{"method": {"kind": "der++", "buffer": 50, "batch": 20, "storage": storage}}],
    }


def test_a_buffer_goes_through_kills(tmp_path: Path) -> None:
    straight = run_lane(tmp_path / "straight", config())
    assert run_killed(tmp_path / "killed", config()).essence == straight.essence


def test_it_keeps_what_it_says() -> None:
    buffer = Latest(Latest.Config(kind="latest"), 3, torch.Generator())
    kept: dict[int, int] = {}
    for first in (0, 5):
        slots, samples = buffer.offer(torch.zeros(5, dtype=torch.int64), 0)
        kept |= dict(zip(slots.tolist(), (samples + first).tolist(), strict=True))
    assert sorted(kept.values()) == [7, 8, 9]
