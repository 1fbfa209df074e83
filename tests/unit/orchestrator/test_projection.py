"""What is written per record: keys, names, step axes, and nothing twice."""

import shlex
from collections import Counter
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.core.events import RunInterrupted, RunResumed, RunStarted
from orchestrator.core.records import Record
from orchestrator.report.colours import lane_colours
from orchestrator.tracking.naming import flatten, metric_name, task_keys
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.views import HEADLINES, links, saved_views
from orchestrator.tracking.writes import (
    CloseRun,
    LogModel,
    LogPoints,
    OpenRun,
    Point,
    ReopenRun,
    Write,
)
from tests.journals import RUN_ID, story


def writes(records: list[Record]) -> list[Write]:
    projection = Projection()
    return [write for record in records for write in projection.add(record)]


def points(found: list[Write], key: str, name: str) -> list[Point]:
    return [
        point
        for write in found
        if isinstance(write, LogPoints) and write.key == key
        for point in write.points
        if point.name == name
    ]


def test_the_tree_is_run_lanes_stages() -> None:
    opened = [write for write in writes(story()) if isinstance(write, OpenRun)]
    keys = Counter(write.key for write in opened)
    assert set(keys) == {
        RUN_ID,
        *(f"{RUN_ID}/{lane}" for lane in ("replay-s0", "finetune-s0")),
        *(f"{RUN_ID}/{x}-s0/{i:03d}" for x in ("replay", "finetune") for i in range(3)),
    }
    assert {w.parent for w in opened if w.tags["level"] == "stage"} == {
        f"{RUN_ID}/replay-s0",
        f"{RUN_ID}/finetune-s0",
    }
    assert len({write.name for write in opened}) == len(keys)


def test_models_are_chained_down_to_the_untrained_one() -> None:
    models = {w.key: w for w in writes(story()) if isinstance(w, LogModel)}
    lane = f"{RUN_ID}/replay-s0"
    assert models[f"{lane}/002"].parents == (f"{lane}/001",)
    assert models[f"{lane}/000"].parents == (lane,)
    assert models[lane].parents == ()
    assert models[f"{lane}/001"].params["experts"] == "2"


def test_a_repeat_writes_no_points() -> None:
    found = writes(story(lose_at=1))
    loss = points(found, f"{RUN_ID}/replay-s0/001", "loss")
    assert [point.step for point in loss] == [10, 20]


def test_cells_lie_on_the_axis_of_stages_learnt() -> None:
    found = points(writes(story()), f"{RUN_ID}/replay-s0", "task/shoes_ boots")
    assert [(point.step, point.value) for point in found] == [
        (0, 0.1),
        (1, 0.1),
        (2, 0.91),
        (3, 0.79),
    ]


def test_sums_are_written_once_per_row_even_where_rows_arrive_out_of_order() -> None:
    records = story(lanes=(("replay", 0),), lose_at=None)
    rows = [i for i, r in enumerate(records) if r.event.type == "EvaluationDone"]
    moved = [*records]
    moved.insert(rows[2], moved.pop(rows[1]))
    key = f"{RUN_ID}/replay-s0"
    for name in (*HEADLINES, "task/tops"):
        straight = {(p.step, p.value) for p in points(writes(records), key, name)}
        mixed = points(writes(moved), key, name)
        assert {(p.step, p.value) for p in mixed} == straight
        assert len(mixed) == len(straight)


def test_every_point_is_the_same_whenever_rows_arrive() -> None:
    """Evaluations run beside training: whether a later stage has grown the model, or a later row is
    known already, changes nothing."""

    def probed(record: Record) -> Record:
        event = record.event
        if event.type != "EvaluationDone":
            return record
        drifting = [0.5, 0.5] if event.index < 2 else [0.9, 0.1]
        probes = {"tops": {"body": [drifting]}, "bags": {"body": [drifting]}}
        return replace(record, event=replace(event, report=replace(event.report, probes=probes)))

    records = [probed(record) for record in story(lanes=(("replay", 0),), lose_at=None)]
    rows = [i for i, r in enumerate(records) if r.event.type == "EvaluationDone"]

    def shown(told: list[Record]) -> Counter[tuple[str, str, int, float]]:
        logged = [write for write in writes(told) if isinstance(write, LogPoints)]
        return Counter((w.key, p.name, p.step, p.value) for w in logged for p in w.points)

    straight = shown(records)
    names = {name for _, name, _, _ in straight}
    assert {"routing/age_share/body/-1", "routing/routing_drift/tops"} <= names
    for place, row in enumerate(rows):
        for later in rows[place + 1 :]:
            moved = [*records]
            moved.insert(later, moved.pop(row))
            assert shown(moved) == straight, (place, later)


def test_figures_and_validation_scores_of_a_row_are_points_of_its_stage() -> None:
    def told(record: Record) -> Record:
        if record.event.type != "EvaluationDone":
            return record
        report = replace(
            record.event.report, validation=[0.5, 0.25, 0.125], model_figures={"dormant": 3.0}
        )
        return replace(record, event=replace(record.event, report=report))

    found = writes([told(record) for record in story(lanes=(("replay", 0),), lose_at=None)])
    key = f"{RUN_ID}/replay-s0/001"
    assert [(p.step, p.value) for p in points(found, key, "model/dormant")] == [(2, 3.0)]
    assert [p.value for p in points(found, key, "validation/shoes_ boots")] == [0.25]
    assert points(found, key, "eval/tops/loss")


def test_ends() -> None:
    found = writes(story())
    closed = {write.key: write.status for write in found if isinstance(write, CloseRun)}
    assert len(closed) == 9
    assert set(closed.values()) == {"FINISHED"}
    assert [w.key for w in found if isinstance(w, ReopenRun)] == [f"{RUN_ID}/replay-s0"]


def test_a_run_that_ends_twice_shows_the_means_of_its_methods_once() -> None:
    """A signal between the last lane's end and the run's had them written twice."""
    *before, last = story()
    at = last.event.at
    cut = Record(event=RunInterrupted(at=at, reason="SIGTERM"))
    again = Record(event=RunResumed(at=at + 1.0, code_version="abc1234", cpus=2, gpus=0))
    whole = points(writes([*before, last]), RUN_ID, "method/replay.acc.final")
    assert len(whole) == 1
    for ends in ([cut, again, last], [last, again, last]):
        found = points(writes([*before, *ends]), RUN_ID, "method/replay.acc.final")
        assert [(one.step, one.value) for one in found] == [(0, whole[0].value)]


def test_flatten_puts_a_kind_under_its_section() -> None:
    nested = {"method": {"kind": "replay", "buffer": {"size": 5}}, "seed": 0, "engine": "rl"}
    assert flatten(nested) == {
        "method": "replay",
        "method.buffer.size": "5",
        "seed": "0",
        "engine": "rl",
    }


@given(st.lists(st.text(max_size=8), max_size=12))
@example(["a-02", "a", "a"])
def test_task_keys_are_names_mlflow_takes_and_all_different(tasks: list[str]) -> None:
    keys = task_keys(tuple(tasks))
    assert len(set(keys)) == len(tasks)
    assert all(metric_name(key) == key and "/" not in key for key in keys)


def test_colours_share_a_hue_per_method_and_differ_by_seed() -> None:
    lanes = [("a", "a-s0"), ("a", "a-s1"), ("b", "b-s0")]
    colours = lane_colours(lanes)
    assert len(set(colours.values())) == 3
    assert all(len(c) == 7 and c.startswith("#") for c in colours.values())


def test_saved_views_and_links_agree_on_keys() -> None:
    found = links("sqlite:////x/mlflow.db", "3")
    keys = {tag.rpartition(".")[2] for tag in saved_views(0)}
    for link in (found.tree, found.lanes, found.methods):
        key = link.partition("viewStateShareKey=")[2].partition("&")[0]
        assert key in keys
        assert link.startswith("http://127.0.0.1:5000/#/experiments/3/runs?")
        assert "workflowType=machine_learning" in link
    assert found.command is not None
    assert links("http://host:1/", "3").command is None
    spaced = links("sqlite:////my runs/mlflow.db", "3").command
    assert spaced is not None
    assert shlex.split(spaced)[-1] == "sqlite:////my runs/mlflow.db"


def test_a_run_that_was_begun_anew_is_shown_once() -> None:
    """What nothing ever acted on stood in the store as a run that goes on for ever."""
    first, *rest = story()
    assert isinstance(first.event, RunStarted)
    other = replace(first, event=replace(first.event, run_id="other", config_digest="x"))
    projection = Projection()
    writes = [write for record in (other, first, *rest) for write in projection.add(record)]
    opened = [write.key for write in writes if isinstance(write, OpenRun)]
    assert opened.count(first.event.run_id) == 1
    assert "other" not in opened
