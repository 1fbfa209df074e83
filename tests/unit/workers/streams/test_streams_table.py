"""Every stream by name: builds from its defaults, plans without data, and is deterministic."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from workers.contract import InputError, TaskSpec
from workers.parsing import choose
from workers.streams import DATASETS, STREAMS, Stream, TaskData
from workers.streams.base import unique


def build(kind: str, seed: int = 0, **settings):
    _, config, problems = choose(STREAMS, {"kind": kind, **settings}, "stream")
    assert not problems, [str(problem) for problem in problems]
    return STREAMS[kind](config, seed)


SMALL = {kind: {} for kind in STREAMS} | {"datasets": {"datasets": ["digits", "digits"]}}


@pytest.mark.parametrize("kind", STREAMS)
def test_builds_from_default_config_and_names_tasks(kind):
    stream = build(kind)
    tasks = stream.tasks()
    assert stream.engine == "supervised"
    assert [task.index for task in tasks] == list(range(len(tasks)))
    assert len({task.name for task in tasks}) == len(tasks) > 1
    assert json.loads(json.dumps([task.settings for task in tasks])) == [
        task.settings for task in tasks
    ]
    assert STREAMS[kind].__doc__.splitlines()[0].endswith(".")


@pytest.mark.parametrize("kind", STREAMS)
def test_config_survives_json(kind):
    config = build(kind, **SMALL[kind]).config
    plain = json.loads(json.dumps(asdict(config)))
    _, again, problems = choose(STREAMS, plain, "stream")
    assert not problems
    assert again == config


@pytest.mark.parametrize("kind", STREAMS)
def test_same_seed_same_bits(kind):
    one, two, other = (build(kind, seed, **SMALL[kind]) for seed in (3, 3, 4))
    assert one.tasks() == two.tasks()
    digests = [one.data(task).digest for task in one.tasks()]
    assert digests == [two.data(task).digest for task in reversed(two.tasks())][::-1]
    if kind in ("permuted", "chunks", "random_labels", "domains"):
        assert digests != [other.data(task).digest for task in other.tasks()]
    else:
        assert digests == [other.data(task).digest for task in other.tasks()]


@pytest.mark.parametrize("kind", STREAMS)
def test_data_has_promised_shapes(kind):
    stream = build(kind, **SMALL[kind])
    for task in stream.tasks():
        data = stream.data(task)
        for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
            assert x.dtype == torch.float32
            assert y.dtype == torch.int64
            assert tuple(x.shape) == (len(y), *stream.input_shape)
            assert 0 <= float(x.min()) <= float(x.max()) <= 1
            assert 0 <= int(y.min()) <= int(y.max()) < stream.outputs
        assert stream.data(task) is data


@pytest.mark.parametrize("kind", STREAMS)
def test_test_part_alone_equals_that_of_data(kind):
    fresh, loaded = build(kind, **SMALL[kind]), build(kind, **SMALL[kind])
    for task in fresh.tasks():
        x, y = fresh.test(task)
        data = loaded.data(task)
        assert torch.equal(x, data.test_x)
        assert torch.equal(y, data.test_y)


@pytest.mark.parametrize("kind", STREAMS)
def test_caps_limit_every_task(kind):
    stream = build(kind, train_samples=20, test_samples=7, **SMALL[kind])
    for task in stream.tasks():
        data, mixed = stream.data(task), len(task.domains)
        assert (len(data.train_y), len(data.test_y)) == (20 * mixed, 7 * mixed)


def test_caps_share_samples_between_tasks():
    stream = build("rotated", angles=[0, 360], train_samples=20)
    first, second = (stream.data(task) for task in stream.tasks())
    assert first.digest == second.digest


def test_known_digest_of_the_first_default_task():
    stream = build("split")
    data = stream.data(stream.tasks()[0])
    assert data.digest == "3de715e937c50e14"
    assert data.source == "digits: classes 0,1"


@pytest.mark.parametrize(
    ("kind", "settings", "path"),
    [
        ("split", {"classes_per_task": 3}, "stream.classes_per_task"),
        ("split", {"classes_per_task": 0}, "stream.classes_per_task"),
        ("split", {"train_samples": 0}, "stream.train_samples"),
        ("permuted", {"tasks": 0}, "stream.tasks"),
        ("random_labels", {"tasks": -1}, "stream.tasks"),
        ("chunks", {"chunks": 0}, "stream.chunks"),
        ("rotated", {"angles": []}, "stream.angles"),
        ("datasets", {"datasets": []}, "stream.datasets"),
        ("datasets", {"datasets": ["digits", "svhn"]}, "stream.datasets.1.kind"),
        ("datasets", {"datasets": [{"kind": "digits", "x": 1}]}, "stream.datasets.0.x"),
        ("datasets", {"datasets": ["digits"], "size": 4}, "stream.size"),
        ("split", {"dataset": "image_folder"}, "stream.dataset.path"),
        ("domains", {"domains": []}, "stream.domains"),
        ("domains", {"domains": [{"rotate": 90.0}]}, "stream.domains.0.name"),
        ("domains", {"domains": [{"name": "a"}, {"name": "a"}]}, "stream.domains"),
        ("domains", {"domains": [{"name": "base"}]}, "stream.domains"),
        ("domains", {"domains": ["turned"]}, "stream.domains.0"),
        ("domains", {"base": [{"name": "a", "dataset": "svhn"}]}, "stream.base.0.dataset.kind"),
        ("domains", {"size": 4}, "stream.size"),
    ],
)
def test_problems_name_the_setting(kind, settings, path):
    found = build(kind, **settings).problems()
    assert [problem.path for problem in found] == [path]


def test_problem_of_classes_lists_what_is_allowed():
    (problem,) = build("split", classes_per_task=4).problems()
    assert "4 does not divide the 10 classes of digits" in str(problem)
    assert "1, 2, 5, 10" in str(problem)


def test_names_are_made_unique():
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]
    assert [task.name for task in build("rotated", angles=[0, 90, 0]).tasks()] == [
        "rotation 0",
        "rotation 90",
        "rotation 0 (2)",
    ]


# ---------------------------------------------------------------- TaskData and Stream itself


def arrays(n: int = 4, labels=None):
    x = np.linspace(0, 1, n * 4, dtype=np.float64).reshape(n, 1, 2, 2)
    y = np.zeros(n, dtype=np.int32) if labels is None else np.array(labels)
    return {"train_x": x, "train_y": y, "test_x": x, "test_y": y}


def test_digest_depends_on_every_array_and_not_on_the_source():
    base = arrays()
    digest = TaskData.of(**base, source="a").digest
    assert TaskData.of(**base, source="b").digest == digest
    for name in base:
        changed = dict(base) | {name: base[name] + 1}
        assert TaskData.of(**changed, source="a").digest != digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_x": np.zeros((4, 2, 2))}, "training part: inputs (4, 2, 2)"),
        ({"test_y": np.zeros(3)}, "test part: inputs (4, 1, 2, 2) with labels (3,)"),
        ({"train_x": np.zeros((0, 1, 2, 2)), "train_y": np.zeros(0)}, "no samples"),
        ({"test_x": np.full((4, 1, 2, 2), np.nan)}, "nan or inf"),
    ],
)
def test_wrong_arrays_are_refused_by_name(change, words):
    with pytest.raises(InputError) as caught:
        TaskData.of(**(arrays() | change), source="mine")
    assert words in str(caught.value)
    assert "mine" in str(caught.value)


class Mine(Stream):
    """A user's stream whose promises can be broken."""

    input_shape = (1, 2, 2)
    outputs = 2
    labels = (0, 1, 0, 1)
    loads = 0

    def tasks(self):
        return tuple(TaskSpec(index=i, name=f"t{i}", domain="mine") for i in range(9))

    def load(self, task):
        self.loads += 1
        return TaskData.of(**arrays(labels=self.labels), source=task.name)


def test_cache_keeps_the_last_tasks_only():
    stream = Mine(Mine.Config(kind="mine"), 0)
    for task in (*stream.tasks(), stream.tasks()[-1]):
        stream.data(task)
    assert stream.loads == 9
    stream.data(stream.tasks()[0])
    assert stream.loads == 10


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("input_shape", (1, 4, 4), "input_shape is (1, 4, 4)"),
        ("outputs", 1, "labels 0 to 1, but the stream's outputs allow 0 to 0"),
        ("labels", (0, -1, 0, 0), "labels -1 to 0"),
    ],
)
def test_broken_promises_are_refused_by_task(attribute, value, words):
    stream = Mine(Mine.Config(kind="mine"), 0)
    setattr(stream, attribute, value)
    with pytest.raises(InputError) as caught:
        stream.data(stream.tasks()[0])
    assert words in str(caught.value)
    assert "stream mine, task 't0'" in str(caught.value)


@pytest.mark.parametrize("name", DATASETS)
def test_data_sets_build_from_default_config(name):
    dataset = DATASETS[name](DATASETS[name].Config())
    assert dataset.config.kind == name
    assert isinstance(dataset.problems("stream.dataset"), list)
