"""Every stream by name: builds from its defaults, plans without data, and is deterministic."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from tests.flights import write_flights
from tests.tokens import text_stream, write_texts
from workers.contract import InputError, TaskSpec
from workers.parsing import choose
from workers.streams import DATASETS, STREAMS, Part, Stream, TaskData, Wrapped, places
from workers.streams.base import INPUT_TYPES, unique
from workers.supervised.objectives import NO_TARGET


def around(kind):
    """Whether it is a stream around another one, which takes the settings of samples."""
    return issubclass(STREAMS[kind], Wrapped)


def build(kind: str, seed: int = 0, **settings):
    if around(kind):
        own = {name: settings.pop(name) for name in OF_SAMPLES if name in settings}
        settings = {"stream": {"kind": "split", **own}, **settings}
    _, config, problems = choose(STREAMS, {"kind": kind, **settings}, "stream")
    assert not problems, [str(problem) for problem in problems]
    return STREAMS[kind](config, seed)


OF_SAMPLES = ("validation", "train_samples", "validation_samples", "test_samples")
NO_CAPS = ("arrays", "text", "linear_clusters", "flights")
BY_SEED = (
    "permuted",
    "chunks",
    "random_labels",
    "domains",
    "linear_clusters",
    "gradual_rotation",
    "overlap",
    "blurred",
    "imbalanced",
    "random_lengths",
    "hidden",
    "flights",
)
"""Streams whose data are drawn by the seed."""
SMALL = {kind: {} for kind in STREAMS} | {"datasets": {"datasets": ["digits", "digits"]}}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Two small tasks as files, for the stream that reads files."""
    rng = np.random.default_rng(0)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        for part in ("train", "test"):
            np.save(tmp_path / name / f"{part}_x.npy", rng.random((40, 3, 2)))
            np.save(tmp_path / name / f"{part}_y.npy", np.arange(40) % 4)
    monkeypatch.setitem(SMALL, "arrays", {"path": str(tmp_path)})
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path.with_name(f"{tmp_path.name}-data")))
    write_flights(tmp_path.with_name(f"{tmp_path.name}-data") / "nycflights13")
    texts = text_stream(write_texts(tmp_path.with_name(f"{tmp_path.name}-texts")))
    del texts["kind"]
    monkeypatch.setitem(SMALL, "text", texts)


@pytest.mark.parametrize("kind", STREAMS)
def test_builds_from_default_config_and_names_tasks(kind):
    assert STREAMS[kind](STREAMS[kind].Config(), 0).problems is not None
    stream = build(kind, **SMALL[kind])
    tasks = stream.tasks()
    assert stream.trainer == "supervised"
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
    settings = {"validation": 0.0, **SMALL[kind]}
    one, two, other = (build(kind, seed, **settings) for seed in (3, 3, 4))
    assert one.tasks() == two.tasks()
    digests = [one.data(task).digest for task in one.tasks()]
    assert digests == [two.data(task).digest for task in reversed(two.tasks())][::-1]
    if kind in BY_SEED:
        assert digests != [other.data(task).digest for task in other.tasks()]
    else:
        assert digests == [other.data(task).digest for task in other.tasks()]


@pytest.mark.parametrize("kind", STREAMS)
def test_data_has_promised_shapes(kind):
    stream = build(kind, **SMALL[kind])
    for task in stream.tasks():
        data = stream.data(task)
        assert list(data.parts) == ["train", "validation", "test"]
        for part in data.parts.values():
            x, y = part.x[:], part.y[:]
            assert x.dtype == INPUT_TYPES[stream.input_type]
            if kind == "linear_clusters":
                assert tuple(y.shape) == (len(x), stream.outputs)
                assert y.is_floating_point()
                continue
            assert y.dtype == torch.int64
            assert tuple(x.shape) == (len(y), *stream.input_shape)
            assert (
                0 <= float(x.min()) <= float(x.max()) <= (stream.outputs if kind == "text" else 1)
            )
            assert (NO_TARGET if kind == "text" else 0) <= int(y.min())
            assert int(y.max()) < stream.outputs
        assert stream.data(task) is data


@pytest.mark.parametrize("kind", STREAMS)
def test_parts_held_out_equal_those_of_data(kind):
    fresh, loaded = build(kind, **SMALL[kind]), build(kind, **SMALL[kind])
    for task in fresh.tasks():
        data = loaded.data(task)
        for name, part in fresh.held_out(task).items():
            known = data.parts[name]
            assert torch.equal(part.x[:], known.x[:])
            assert torch.equal(part.y[:], known.y[:])
            domains = [None if p.domain is None else p.domain.tolist() for p in (part, known)]
            assert domains[0] == domains[1]


@pytest.mark.parametrize(
    "kind",
    [k for k in STREAMS if k not in NO_CAPS and not around(k)],
)
def test_caps_limit_every_task(kind):
    caps = {"train_samples": 20, "validation_samples": 5, "test_samples": 7}
    stream = build(kind, **caps, **SMALL[kind])
    for task in stream.tasks():
        data, mixed = stream.data(task), len(task.domains)
        sizes = [len(part) for part in data.parts.values()]
        assert sizes == [20 * mixed, 5 * mixed, 7 * mixed]


def test_caps_share_samples_between_tasks():
    stream = build("rotated", angles=[0, 360], train_samples=20)
    first, second = (stream.data(task) for task in stream.tasks())
    assert first.digest == second.digest


def test_known_digest_of_the_first_default_task():
    stream = build("split", validation=0.0)
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


# ---------------------------------------------------------------- Stream itself


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
        x = np.linspace(0, 1, 16).reshape(4, 1, 2, 2)
        part = Part(x, np.array(self.labels))
        return TaskData.of(train=part, test=part, source=task.name)


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
        ("input_type", "integer", "inputs of type torch.float32"),
        ("outputs", 1, "labels 0 to 1, but the stream's outputs allow 0 to 0"),
        ("labels", (0, -1, 0, 0), "labels -1 to 0"),
        ("labels", (0.0, 1.0, 0.0, 0.0), "classification needs labels int64 [N]"),
    ],
)
def test_broken_promises_are_refused_by_task(attribute, value, words):
    stream = Mine(Mine.Config(kind="mine", validation=0.0), 0)
    setattr(stream, attribute, value)
    with pytest.raises(InputError) as caught:
        stream.data(stream.tasks()[0])
    assert words in str(caught.value)
    assert "stream mine, task 't0'" in str(caught.value)


def test_validation_of_a_plain_stream_is_drawn_by_class():
    stream = Mine(Mine.Config(kind="mine", validation=0.25), 0)
    stream.labels = (0, 0, 1, 1)
    data = stream.data(stream.tasks()[0])
    assert sorted(data.validation.y.tolist()) == sorted(data.train.y.tolist()) == [0, 1]
    both = torch.cat([data.train.x, data.validation.x])
    assert sorted(both.flatten().tolist()) == sorted(data.test.x.flatten().tolist())
    plain = Mine(Mine.Config(kind="mine", validation=0.0), 0).data(stream.tasks()[0])
    assert plain.digest != data.digest


@pytest.mark.parametrize("name", DATASETS)
def test_data_sets_build_from_default_config(name):
    dataset = DATASETS[name](DATASETS[name].Config())
    assert dataset.config.kind == name
    assert isinstance(dataset.problems("stream.dataset"), list)
