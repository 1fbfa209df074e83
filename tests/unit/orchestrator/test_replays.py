"""Replays: a frame a step, with what the routers did; what cannot be drawn is told."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.report.figures import COLOURS
from orchestrator.report.replays import Reel, gif, save, watching
from workers.contract import InputError
from workers.rl.environments.gymnasium import environment

PLAYED = {
    "lane": "agent-s0",
    "stage": 1,
    "task": "all",
    "floors": [0, 0, 1],
    "gates": {"layers.0": [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]},
}


def share(frame: Image.Image, colour: str) -> float:
    """Of a frame's pixels, those near a colour."""
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    away = np.abs(np.asarray(frame.convert("RGB"), int) - wanted).sum(-1)
    return float((away < 60).mean())


def test_every_step_is_a_frame_with_its_weights() -> None:
    pictures = [np.full((14, 18, 3), 40 * step, np.uint8) for step in range(3)]
    made = Image.open(io.BytesIO(gif(pictures, PLAYED)))
    assert made.n_frames == 3
    shares = []
    for number in range(3):
        made.seek(number)
        shares.append([share(made, colour) for colour in COLOURS[:2]])
    assert shares[0][0] > shares[1][0] > shares[2][0]
    assert shares[0][1] < shares[1][1] < shares[2][1]


def test_what_cannot_be_drawn_is_told(tmp_path: Path) -> None:
    drawn = environment("CartPole-v1", {"render_mode": "rgb_array"}).build(1)
    drawn.reset()
    reel = Reel()
    watching(reel)(0, 10, drawn.picture)
    assert reel.pictures[0].shape == (400, 600, 3)
    blind = environment("CartPole-v1", {}).build(1)
    blind.reset()
    with pytest.raises(InputError, match="render_mode"):
        watching(Reel())(0, 10, blind.picture)
    with pytest.raises(InputError, match="a text is read at once"):
        save(Reel(), PLAYED, tmp_path / "x.gif")
