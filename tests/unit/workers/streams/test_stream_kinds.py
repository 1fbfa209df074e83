"""What each kind of stream promises about its tasks."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.parsing import choose
from workers.streams import DATASETS, STREAMS
from workers.streams.data import arrays_digest
from workers.streams.rotated import rotate
from workers.streams.sequence import padded, resized
from workers.streams.split import class_range


def build(kind: str, seed: int = 0, **options):
    """A stream without a validation part, if nothing else is said."""
    settings = {"kind": kind, "validation": 0.0, **options}
    _, config, problems = choose(STREAMS, settings, "stream")
    assert not problems, [str(problem) for problem in problems]
    return STREAMS[kind](config, seed)


def datas(stream):
    return [stream.load(task) for task in stream.tasks()]


def rows(x: torch.Tensor) -> list[bytes]:
    return sorted(row.numpy().tobytes() for row in x)


# ---------------------------------------------------------------- split


@pytest.mark.parametrize("order", ["label", "random"])
@pytest.mark.parametrize("size", [1, 2, 5, 10])
def test_split_covers_every_sample_once(order, size):
    stream = build("split", seed=5, order=order, classes_per_task=size)
    classes = [label for task in stream.tasks() for label in task.settings["classes"]]
    assert sorted(classes) == list(range(10))
    parts = datas(stream)
    for task, data in zip(stream.tasks(), parts, strict=True):
        wanted = set(task.settings["classes"])
        assert set(data.train.y.tolist()) == set(data.test.y.tolist()) == wanted
    (whole,) = datas(build("split", classes_per_task=10))
    assert rows(torch.cat([data.train.x for data in parts])) == rows(whole.train.x)
    assert rows(torch.cat([data.test.x for data in parts])) == rows(whole.test.x)


def test_split_random_order_follows_the_seed():
    orders = {tuple(t.name for t in build("split", s, order="random").tasks()) for s in range(5)}
    assert len(orders) == 5
    assert [task.name for task in build("split", 9).tasks()][:2] == ["classes 0,1", "classes 2,3"]


@pytest.mark.parametrize(
    ("classes", "name"),
    [
        ([7], "class 7"),
        ([0, 1], "classes 0,1"),
        ([0, 1, 2, 3], "classes 0-3"),
        ([1, 4, 5, 6, 9], "classes 1,4-6,9"),
    ],
)
def test_class_range(classes, name):
    assert class_range(classes) == name


def test_digits_hold_out_a_fifth_of_each_class():
    (data,) = datas(build("split", classes_per_task=10))
    train, test = torch.bincount(data.train.y), torch.bincount(data.test.y)
    assert int(train.sum() + test.sum()) == 1797
    assert torch.equal(test, (train + test) // 5)
    assert not set(rows(data.train.x)) & set(rows(data.test.x))


# ---------------------------------------------------------------- permuted and rotated


def test_permuted_moves_pixels_and_starts_with_the_identity():
    plain = build("split", classes_per_task=10)
    stream = build("permuted", tasks=3)
    first, second, third = datas(stream)
    (original,) = datas(plain)
    assert torch.equal(first.train.x, original.train.x)
    for moved in (second, third):
        assert not torch.equal(moved.train.x, original.train.x)
        assert torch.equal(moved.train.y, original.train.y)
        assert torch.equal(
            moved.train.x.flatten(1).sort().values, original.train.x.flatten(1).sort().values
        )
    assert not torch.equal(second.train.x, third.train.x)
    order = second.train.x[:, 0].flatten(1).T
    same = second.test.x[:, 0].flatten(1).T
    pixels = {tuple(column.tolist()): i for i, column in enumerate(original.train.x.flatten(1).T)}
    mapping = [pixels[tuple(column.tolist())] for column in order]
    busy = [i for i, column in enumerate(order) if column.any()]
    assert torch.equal(same[busy], original.test.x.flatten(1).T[[mapping[i] for i in busy]])


@pytest.mark.parametrize("angle", [0, 90, 180, 270, 360, -90, 450])
def test_quarter_turns_are_exact(angle):
    x = torch.rand(3, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(rotate(x, angle), torch.rot90(x, (angle // 90) % 4, (2, 3)))


def test_other_angles_turn_the_same_way_as_quarter_turns():
    x = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(1)).mul(255).round().div(255)
    near = rotate(x, 89.9999)
    assert torch.allclose(near, torch.rot90(x, 1, (2, 3)), atol=0.01)


def test_rotation_by_45_degrees_keeps_the_centre_and_blackens_corners():
    x = torch.ones(1, 1, 9, 9)
    turned = rotate(x, 45)
    assert turned[0, 0, 4, 4] == 1
    assert turned[0, 0, 0, 0] == turned[0, 0, 8, 8] == 0
    levels = turned * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_rotating_there_and_back_nearly_restores_a_smooth_image():
    line = torch.linspace(-1, 1, 28)
    smooth = torch.exp(-4 * (line[None] - 0.2) ** 2 - 4 * line[:, None] ** 2)[None, None]
    assert (rotate(rotate(smooth, 30), -30) - smooth).abs().mean() < 0.01


# ---------------------------------------------------------------- chunks


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 40),
    seed=st.integers(0, 5),
    kind=st.sampled_from(["chunks", "class_ordered"]),
)
def test_chunks_hold_every_sample_once(count, seed, kind):
    separate = build(kind, seed, chunks=count, cumulative=False)
    cumulative = build(kind, seed, chunks=count, cumulative=True)
    picked = [separate.select(task, "train") for task in separate.tasks()]
    sizes = [len(index) for index in picked]
    assert max(sizes) - min(sizes) <= 1
    assert np.array_equal(np.sort(np.concatenate(picked)), np.arange(1442))
    for t, task in enumerate(cumulative.tasks()):
        wanted = np.sort(np.concatenate(picked[: t + 1]))
        assert np.array_equal(cumulative.select(task, "train"), wanted)


def test_chunks_are_random_and_class_ordered_ones_are_not():
    for data in datas(build("chunks", cumulative=False)):
        assert len(set(data.train.y.tolist())) == 10
        assert len(set(data.test.y.tolist())) == 10
    ordered = datas(build("class_ordered"))
    for data in ordered:
        assert len(set(data.train.y.tolist())) <= 3
        assert len(set(data.test.y.tolist())) == 10
    assert all(
        int(before.train.y.max()) <= int(after.train.y.min()) for before, after in pairwise(ordered)
    )


# ---------------------------------------------------------------- random labels


def test_random_labels_change_labels_only_and_test_on_training_samples():
    first, second = datas(build("random_labels", tasks=2))
    assert torch.equal(first.train.x, second.train.x)
    assert len(first.train.y) == 768
    for data in (first, second):
        assert torch.equal(data.train.x, data.test.x)
        assert torch.equal(data.train.y, data.test.y)
        counts = torch.bincount(data.train.y, minlength=10).double()
        assert float(((counts - 76.8) ** 2 / 76.8).sum()) < 33.7  # chi-square, 9 df, p = 1e-4
    agreement = (first.train.y == second.train.y).double().mean()
    assert 0.05 < float(agreement) < 0.16


# ---------------------------------------------------------------- one data set after another


@pytest.mark.parametrize(("shared", "outputs", "lowest"), [(True, 10, 0), (False, 20, 10)])
def test_datasets_share_labels_or_have_their_own(shared, outputs, lowest):
    stream = build("datasets", datasets=["digits", "digits"], shared_labels=shared)
    first, second = datas(stream)
    assert stream.outputs == outputs
    assert int(first.train.y.min()) == 0
    assert int(second.train.y.min()) == lowest
    assert [task.name for task in stream.tasks()] == ["digits", "digits (2)"]
    assert [task.domain for task in stream.tasks()] == ["digits", "digits"]


def test_padding_centres_and_resizing_scales():
    x = torch.ones(2, 1, 2, 2)
    frame = padded(x, 5, 4)
    assert frame.shape == (2, 1, 5, 4)
    assert torch.equal(frame[:, :, 1:3, 1:3], x)
    assert float(frame.sum()) == float(x.sum())
    assert resized(x, 2, 2) is x
    assert torch.equal(resized(x, 6, 4), torch.ones(2, 1, 6, 4))


def test_datasets_are_brought_to_a_common_size():
    for fit in ("pad", "resize"):
        stream = build("datasets", datasets=["digits"], fit=fit, size=12)
        assert stream.input_shape == (1, 12, 12)
        (data,) = datas(stream)
        assert data.test.x.shape[1:] == (1, 12, 12)
    assert build("datasets", datasets=["digits"], fit="resize", size=4).problems() == []


# ---------------------------------------------------------------- validation


def indices(stream, task, part):
    """Samples of the data set's training part that a part of a task is made of."""
    dataset = stream.dataset_of(task)
    kept = dataset._place(part)[1]
    chosen = stream._capped(stream.select(task, part), part)
    return set((chosen if kept is None else kept[chosen]).tolist())


@pytest.mark.parametrize("kind", ["split", "permuted", "rotated", "chunks", "class_ordered"])
def test_no_task_trains_on_what_another_one_validates_on(kind):
    stream = build(kind, validation=0.2)
    trained = set.union(*(indices(stream, task, "train") for task in stream.tasks()))
    validated = set.union(*(indices(stream, task, "validation") for task in stream.tasks()))
    assert not trained & validated
    assert len(trained) + len(validated) == 1442


@pytest.mark.parametrize("kind", ["split", "permuted", "domains"])
def test_validation_holds_its_share_of_each_class_and_domain(kind):
    plain, stream = build(kind), build(kind, validation=0.1)
    for task in stream.tasks():
        whole = torch.bincount(plain.data(task).train.y, minlength=10)
        part = stream.data(task).validation
        taken = torch.bincount(part.y, minlength=10)
        assert bool(((taken - 0.1 * whole).abs() <= len(task.domains)).all())
        if part.domain is not None:
            assert len(set(torch.bincount(part.domain).tolist())) == 1, "views of one data set"


def test_all_chunks_are_validated_alike():
    parts = [stream_data.validation for stream_data in datas_of("chunks", validation=0.1)]
    assert len({arrays_digest([part.x, part.y]) for part in parts}) == 1
    assert len(set(parts[0].y.tolist())) == 10


def datas_of(kind, **options):
    stream = build(kind, **options)
    return [stream.data(task) for task in stream.tasks()]


def test_validation_follows_the_seed_and_leaves_the_test_part_alone():
    task = build("split").tasks()[0]
    one, same, other = (build("split", seed, validation=0.1).data(task) for seed in (1, 1, 2))
    assert torch.equal(one.validation.x, same.validation.x)
    assert not torch.equal(one.validation.x, other.validation.x)
    assert torch.equal(one.test.x, build("split").data(task).test.x)


def test_without_validation_the_training_part_is_whole():
    data = build("split").data(build("split").tasks()[0])
    assert data.validation is None
    assert len(data.train) == 289


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_outside_the_range_are_refused(share):
    _, config, problems = choose(STREAMS, {"kind": "split", "validation": share}, "stream")
    assert config is None
    assert "validation must be at least 0 and below 1" in str(problems[0])


def test_chunks_say_whether_they_hold_one_another():
    assert build("chunks").cumulative
    assert not build("class_ordered").cumulative
    assert not build("split").cumulative


def test_streams_of_images_refuse_other_data_sets():
    class Flat(DATASETS["digits"]):
        shape = (64,)

    stream = build("rotated")
    stream.dataset.dataset = Flat(Flat.Config())
    (problem,) = stream.problems()
    assert problem.path == "stream.dataset"
    assert "inputs of shape (64,)" in str(problem)


def test_numbers_cannot_be_learnt_from_labels():
    (problem,) = build("split", objective="regression").problems()
    assert problem.path == "stream.objective"
    assert "labelled samples" in str(problem)


def domains(**settings):
    base = {"train_samples": 60, "domains": [{"name": "a", "rotate": 90.0}, {"name": "b"}]}
    return build("domains", 3, **{**base, **settings})


def same_base(one, other):
    """Whether the first tasks are equal, which their data must bear out."""
    first, second = one.tasks()[0], other.tasks()[0]
    equal = one.identity(first) == other.identity(second)
    if equal:
        assert one.data(first).digest == other.data(second).digest
    return equal


def test_a_task_s_identity_leaves_out_what_other_tasks_are_made_of():
    known = domains()
    assert same_base(known, domains(order="sequential"))
    assert same_base(known, domains(domains=[{"name": "c", "invert": True}]))
    assert not same_base(known, domains(base=[{"name": "upright", "mirror": True}]))
    assert not same_base(known, domains(train_samples=61))
    assert not same_base(known, domains(validation=0.2))
    assert not same_base(known, domains(size=9)), "images of another size"
    one, other = domains(order="sequential"), domains(order="sequential", domains=[{"name": "a"}])
    assert one.identity(one.tasks()[1]) != other.identity(other.tasks()[1]), "not turned"


def test_other_streams_tasks_are_equal_where_all_settings_are():
    known, other = build("split"), build("split", test_samples=7)
    first, second, *_ = known.tasks()
    assert known.identity(first) == build("split").identity(first)
    assert known.identity(first) != known.identity(second)
    assert known.identity(first) != other.identity(first)
