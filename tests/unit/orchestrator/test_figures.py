"""Figures are PNGs for finished, growing and empty-ish lanes."""

import struct

import pytest

from orchestrator.report import figures
from orchestrator.report.history import report
from tests.journals import story


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


@pytest.mark.parametrize("cut", [7, 12, len(story())])
def test_lane_figures_of_any_state(cut: int) -> None:
    lane = report(story()[:cut])["lanes"][0]
    for draw in (figures.accuracy_matrix, figures.task_curves):
        width, height = size(draw(lane))
        assert 200 < width < 1500
        assert 100 < height < 1200


def test_gate_weights_with_an_expert_born_late() -> None:
    lane = report(story())["lanes"][0]
    usage = [{"a": [1.0]}, {"a": [0.4, 0.6], "b": [1.0, 0.0]}, {"a": [0.5, 0.5]}]
    assert size(figures.gate_weights(lane, usage))[0] > 400


def test_an_episode_through_floors_and_layers() -> None:
    gates = {"layers.0": [[0.9, 0.1], [0.2, 0.8]], "layers.1": [[0.5, 0.5], [0.4, 0.6]]}
    played = {"lane": "a", "stage": 0, "task": "t", "floors": [0, 1], "gates": gates}
    assert size(figures.episode(played))[1] > 300


def test_many_tasks_stay_drawable() -> None:
    tasks = tuple(f"task number {index}" for index in range(60))
    lane = report(story(lanes=(("replay", 0),), tasks=tasks, lose_at=None))["lanes"][0]
    for draw in (figures.accuracy_matrix, figures.task_curves):
        assert size(draw(lane))[0] < 1500


def test_the_same_lane_gives_the_same_bytes() -> None:
    lane = report(story())["lanes"][0]
    assert figures.task_curves(lane) == figures.task_curves(lane)


def test_methods_over_seeds() -> None:
    told = report(story(lanes=(("replay", 0), ("replay", 1), ("finetune", 0)), lose_at=None))
    assert size(figures.methods(told))[0] > 400
