"""The course of the learning rate: warm-up, shapes, over a stage or over the stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.fakes import tiny
from tests.unit.workers.supervised.loop import digests, opened, stages
from workers.contract import InputError
from workers.supervised.learning_rates import LEARNING_RATES, Course
from workers.supervised.settings import SupervisedTraining


def course(stages: int = 1, warmup: float = 0.0, **rate: Any) -> Course:
    kind = rate.pop("kind", "constant")
    config = LEARNING_RATES[kind].Config(**rate)
    training = SupervisedTraining.Config(learning_rate=config, warmup=warmup, steps=10)
    return Course(training, stages)


def shares(of: Course, steps: int, stage: int = 0) -> list[float]:
    return [of.share(stage, step, steps) for step in range(steps)]


@pytest.mark.parametrize("kind", LEARNING_RATES)
def test_every_course_begins_with_the_full_rate_and_never_rises(kind: str) -> None:
    found = shares(course(kind=kind), 20)
    assert found[0] == 1.0
    assert found == sorted(found, reverse=True)
    assert min(found) > 0.0, "no step is for nothing"


def test_cosine_is_half_way_in_the_middle_and_ends_near_its_share() -> None:
    found = shares(course(kind="cosine", final=0.2), 1000)
    assert found[500] == pytest.approx(0.6)
    assert found[-1] == pytest.approx(0.2, abs=1e-5)


def test_wsd_is_level_until_it_falls() -> None:
    found = shares(course(kind="wsd", decay=0.4, final=0.1), 10)
    assert found[:7] == [1.0] * 7
    assert found[7:] == pytest.approx([0.775, 0.55, 0.325])
    fast = shares(course(kind="wsd", decay=0.4, shape="sqrt"), 10)
    assert fast[7:] == pytest.approx([0.5, 1 - 0.5**0.5, 1 - 0.75**0.5])


def test_the_warm_up_comes_first_and_the_course_fills_the_rest() -> None:
    found = shares(course(warmup=0.4, kind="wsd", decay=0.5), 10)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[4:] == shares(course(kind="wsd", decay=0.5), 6)


def test_over_the_stream_it_is_warmed_up_once() -> None:
    whole = course(3, 0.2, kind="cosine", over="stream")
    found = [share for stage in range(3) for share in shares(whole, 10, stage)]
    assert found == shares(course(1, 0.2, kind="cosine"), 30)
    anew = course(3, 0.2, kind="cosine")
    assert shares(anew, 10, 2) == shares(anew, 10, 0)


def test_a_level_rate_without_warm_up_is_left_alone() -> None:
    assert not course().moves
    assert course(warmup=0.1).moves
    assert course(kind="cosine").moves


@pytest.mark.parametrize(
    ("kind", "setting", "words"),
    [
        ("cosine", {"final": 1.5}, "final must lie between 0 and 1"),
        ("wsd", {"decay": 0.0}, "decay must be above 0"),
        ("wsd", {"final": -0.1}, "final must lie between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_refused(kind: str, setting: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        tiny(training={"learning_rate": {"kind": kind, **setting}})


def test_over_the_stream_needs_steps() -> None:
    rate = {"kind": "cosine", "over": "stream"}
    with pytest.raises(InputError, match=r"learning_rate.over.*give\s+training.steps"):
        tiny(training={"learning_rate": rate, "epochs": 1})
    tiny(training={"learning_rate": rate, "steps": 10})


def test_the_rate_that_is_reported_is_the_one_of_the_last_step() -> None:
    training = {"steps": 10, "intervals": 2, "learning_rate": {"kind": "cosine"}, "warmup": 0.2}
    trainer = opened(1, training=training)
    found = [trainer.run_interval(n, 0).metrics["learning_rate"] for n in (1, 2)]
    told = course(warmup=0.2, kind="cosine")
    assert found == [1e-3 * told.share(1, step, 10) for step in (4, 9)]


def test_groups_of_an_optimizer_keep_their_ratio() -> None:
    model = nn.Linear(2, 2)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    falling = course(kind="wsd", decay=1.0)
    for step in (1, 2):
        falling.set(optimizer, 0, step, 4)
        share = 1 - step / 4
        assert [group["lr"] for group in optimizer.param_groups] == [0.1 * share, 0.5 * share]


@pytest.mark.parametrize("over", ["stage", "stream"])
def test_taken_up_again_it_gives_the_same_bits(tmp_path: Path, over: str) -> None:
    training = {
        "steps": 12,
        "intervals": 3,
        "warmup": 0.25,
        "learning_rate": {"kind": "cosine", "over": over},
    }
    straight = digests(tmp_path, False, training=training)
    assert digests(tmp_path, True, training=training) == straight
    level = {**training, "learning_rate": {"kind": "constant", "over": over}}
    assert digests(tmp_path, False, training=level) != straight


def test_stages_are_counted_over_the_whole_stream() -> None:
    rate = {"kind": "wsd", "over": "stream", "decay": 1.0}
    training = {"steps": 10, "intervals": 1, "learning_rate": rate}
    trainer = opened(3, training=training)
    assert len(stages(tiny(training=training))) == 5
    assert trainer.course.share(3, 0, 10) == pytest.approx(1 - 30 / 50)
