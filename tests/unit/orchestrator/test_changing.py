"""What a run may change where it is resumed, and that the change goes where it must."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.beginning import begin, takeover
from orchestrator.config import changing
from orchestrator.config.file import ConfigError, check
from orchestrator.config.run import RunConfig
from orchestrator.core.controller import fold
from orchestrator.core.journal import JOURNAL_FILE, Journal, read
from orchestrator.core.records import Record
from orchestrator.report.progress import line
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.writes import ReopenRun
from tests.commands import Command
from workers.contract import InputError

JAX = {"stream.engine": "jax"}


def checked(**stream: Any) -> RunConfig:
    return check(
        {
            "name": "games",
            "stream": {"kind": "craftax", "engine": "native", **stream},
            "model": {"kind": "actor_critic"},
            "training": {"kind": "ppo", "steps_per_stage": 8192},
            "lanes": [{"seeds": [0, 1]}],
        },
        "test",
    )


def engines(config: RunConfig) -> list[str]:
    return [lane.spec().settings["stream"]["engine"] for lane in config.lanes]


def test_the_engine_may_be_changed_and_is_in_no_digest() -> None:
    before = checked()
    after = changing.changed(begin(before, "one"), JAX)
    assert engines(before) == ["native", "native"]
    assert engines(after) == ["jax", "jax"]
    for one, other in zip(before.lanes, after.lanes, strict=True):
        assert one.spec().built_from == other.spec().built_from
        assert (one.plan().depends, one.plan().scored_on) == (
            other.plan().depends,
            other.plan().scored_on,
        )
    longer = checked(tasks=[{"name": "survive", "params": {"max_timesteps": 9}}])
    assert longer.lanes[0].spec().built_from != before.lanes[0].spec().built_from


def test_what_results_depend_on_is_refused() -> None:
    with pytest.raises(InputError, match=r"--set stream.tasks: .* may change: stream.engine\."):
        changing.changed(begin(checked(), "one"), {**JAX, "stream.tasks": []})
    plain = check(
        {"name": "x", "stream": {"kind": "split", "dataset": "digits"}, "lanes": [{}]}, "test"
    )
    with pytest.raises(InputError, match="may change: nothing"):
        changing.changed(begin(plain, "one"), JAX)


def test_a_run_whose_digests_have_the_engine_keeps_it() -> None:
    """One that a version began which knew of no such settings."""
    started = begin(checked(), "one")
    lanes = [replace(lane, spec=replace(lane.spec, changeable=())) for lane in started.plan.lanes]
    older = replace(started, plan=replace(started.plan, lanes=tuple(lanes)))
    assert older.plan.lanes[0].spec.built_from != started.plan.lanes[0].spec.built_from
    with pytest.raises(InputError, match="may change: nothing"):
        changing.changed(older, JAX)


@pytest.mark.parametrize(
    ("stream", "engine", "told"),
    [
        ({}, "fast", "stream.engine: got 'fast'; allowed: auto, native, jax"),
        ({}, 3, "stream.engine"),
        (
            {"environment": "Craftax-Classic-Pixels-v1", "engine": "jax"},
            "native",
            "there is no native",
        ),
    ],
)
def test_an_engine_that_cannot_be_is_told(stream: dict[str, Any], engine: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        changing.changed(begin(checked(**stream), "one"), {"stream.engine": engine})


def test_lanes_go_on_with_what_was_changed_last(tmp_path: Path) -> None:
    config = checked()
    resumes = [takeover(1, 0, settings=told) for told in ({}, JAX, {})]
    records = [Record(event=event) for event in (begin(config, "one"), *resumes)]
    with closing(Journal(tmp_path / JOURNAL_FILE)) as journal:
        for record in records:
            journal.append(record)
    known = [record for record, _ in read(tmp_path / JOURNAL_FILE)]
    assert changing.before(tmp_path) == JAX
    state, actions = fold(known)
    assert {lane.plan.spec.settings["stream"]["engine"] for lane in state.lanes.values()} == {"jax"}
    (opened,) = actions  # there is room for one
    assert opened.spec.settings["stream"]["engine"] == "jax"  # type: ignore[union-attr]
    assert opened.spec.built_from == config.lanes[0].spec().built_from  # type: ignore[union-attr]
    assert line(known[2]) == "resumed, stream.engine = jax"


def test_lineage_tells_what_was_changed() -> None:
    projection = Projection()
    told = [begin(checked(), "one"), takeover(1, 0), takeover(1, 0, settings=JAX)]
    writes = [write for event in told for write in projection.add(Record(event=event))]
    reopened = [write for write in writes if isinstance(write, ReopenRun)]
    assert [write.tags for write in reopened] == [{}, {"changed.stream.engine": "jax"}]


def test_a_command_that_changes_more_ends_at_once(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / JOURNAL_FILE)) as journal:
        journal.append(Record(event=begin(checked(), "one")))
    command = Command("orchestrator", "resume", tmp_path, "--set", "training.lr=1.0")
    assert command.wait() == 2
    assert "it may change: stream.engine" in command.err
