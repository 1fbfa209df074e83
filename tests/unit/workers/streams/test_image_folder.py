"""Folders of images: layouts that are understood, and damage that is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workers.contract import InputError
from workers.parsing import choose
from workers.streams import DATASETS, STREAMS


def picture(path: Path, value: int, size: tuple[int, int] = (6, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 255 - value)).save(path)


def folder(path: Path, **settings):
    _, config, problems = choose(
        DATASETS, {"kind": "image_folder", "path": str(path), **settings}, "dataset"
    )
    assert not problems
    return DATASETS["image_folder"](config)


@pytest.fixture
def cifar_like(tmp_path: Path) -> Path:
    root = tmp_path / "cifar"
    for part, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("airplane", "bird")):
            for i in range(count):
                picture(root / part / name / f"{i:04}.png", 100 * label + i)
    (root / "train" / "bird" / ".DS_Store").write_text("not an image")
    return root


def test_train_and_test_folders(cifar_like):
    data = folder(cifar_like)
    assert (data.label, data.shape, data.classes) == ("cifar", (3, 6, 6), 2)
    assert data.labels("train").tolist() == [0, 0, 0, 1, 1, 1]
    assert data.labels("test").tolist() == [0, 0, 1, 1]
    pixels = data.inputs("train", np.array([5, 0]))
    assert pixels[:, 0, 0, 0].tolist() == [102, 0]
    assert pixels[:, 2, 5, 5].tolist() == [153, 255]
    assert np.array_equal(data.inputs("train", np.array([5, 0])), pixels)


def test_val_stands_in_for_test(cifar_like):
    (cifar_like / "test").rename(cifar_like / "val")
    assert folder(cifar_like).labels("test").tolist() == [0, 0, 1, 1]


def test_val_beside_test_is_the_validation_part(cifar_like):
    assert not folder(cifar_like).own_validation
    for label, name in enumerate(("airplane", "bird")):
        picture(cifar_like / "val" / name / "0.png", 50 + label)
    data = folder(cifar_like)
    assert data.own_validation
    assert data.labels("validation").tolist() == [0, 1]
    settings = {"kind": "split", "dataset": {"kind": "image_folder", "path": str(cifar_like)}}
    _, config, _ = choose(STREAMS, settings, "stream")
    stream = STREAMS["split"](config, 0)
    first = stream.data(stream.tasks()[0])
    assert [len(part) for part in first.parts.values()] == [6, 2, 4], "nothing is drawn"


def test_tiny_imagenet_layout(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for label, name in enumerate(("n01", "n02")):
        for i in range(2):
            picture(root / "train" / name / "images" / f"{name}_{i}.JPEG", 90 * label)
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
    lines = []
    for i, name in enumerate(("n02", "n01", "n02")):
        picture(root / "val" / "images" / f"val_{i}.JPEG", i)
        lines.append(f"val_{i}.JPEG\t{name}\t0\t0\t62\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    picture(root / "test" / "images" / "test_0.JPEG", 0)
    data = folder(root)
    assert data.labels("train").tolist() == [0, 0, 1, 1]
    assert data.labels("test").tolist() == [0, 1, 1]
    (root / "val" / "images" / "val_2.JPEG").unlink()
    with pytest.raises(InputError, match=r"val_annotations.txt: line 3 names 'val_2.JPEG'"):
        folder(root).labels("test")


def test_one_level_is_held_out_by_seed(tmp_path):
    for label, name in enumerate(("a", "b")):
        for i in range(10):
            picture(tmp_path / name / f"{i}.png", 100 * label + i)
    data, again = folder(tmp_path), folder(tmp_path)
    assert data.labels("train").tolist() == [0] * 8 + [1] * 8
    assert data.labels("test").tolist() == [0] * 2 + [1] * 2

    def values(dataset):
        parts = (("train", 16), ("test", 4))
        return [dataset.inputs(part, np.arange(n))[:, 0, 0, 0].tolist() for part, n in parts]

    assert values(data) == values(again)
    assert sorted(v for part in values(data) for v in part) == [*range(10), *range(100, 110)]
    others = {str(values(folder(tmp_path, holdout_seed=seed))) for seed in range(5)}
    assert len(others) > 1


def test_grey_and_resized(cifar_like):
    picture(cifar_like / "train" / "bird" / "large.png", 9, size=(13, 7))
    data = folder(cifar_like, size=4, grey=True)
    assert data.shape == (1, 4, 4)
    assert data.inputs("train", np.arange(7)).shape == (7, 1, 4, 4)


def test_other_size_needs_a_setting(cifar_like):
    picture(cifar_like / "train" / "bird" / "large.png", 9, size=(13, 7))
    with pytest.raises(InputError, match=r"large.png: is 13x7, .* 6x6; set dataset.size"):
        folder(cifar_like).inputs("train", np.arange(7))


def test_corrupt_images_are_named(cifar_like):
    cut = cifar_like / "train" / "bird" / "0001.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    text = cifar_like / "test" / "bird" / "0000.png"
    text.write_text("hello")
    data = folder(cifar_like)
    with pytest.raises(InputError, match=r"train/bird/0001.png: is not a readable image"):
        data.inputs("train", np.arange(6))
    with pytest.raises(InputError, match=r"test/bird/0000.png: is not a readable image"):
        data.inputs("test", np.arange(4))


def test_wrong_folders_are_problems_of_the_plan(tmp_path, cifar_like):
    def problem(path, **settings):
        (found,) = folder(path, **settings).problems("stream.dataset")
        return str(found)

    assert "is no folder" in problem(tmp_path / "nowhere")
    assert "stream.dataset.holdout: got 1.5" in problem(cifar_like, holdout=1.5)
    (cifar_like / "train" / "cat").mkdir()
    assert "train/cat: class folder without images" in problem(cifar_like)
    picture(cifar_like / "train" / "cat" / "0.png", 0)
    assert "class 'cat' is not in all of the parts train, test" in problem(cifar_like)
    (tmp_path / "flat").mkdir()
    assert "has no sub-folders" in problem(tmp_path / "flat")
    picture(tmp_path / "flat" / "one" / "0.png", 0)
    assert "class with a single image" in problem(tmp_path / "flat")
    picture(tmp_path / "lonely" / "train" / "x" / "0.png", 0)
    assert "neither test/ nor val/" in problem(tmp_path / "lonely")


def test_streams_run_on_a_folder(cifar_like):
    dataset = {"kind": "image_folder", "path": str(cifar_like), "name": "planes"}
    settings = {"kind": "split", "classes_per_task": 1, "dataset": dataset, "validation": 0.0}
    _, config, problems = choose(STREAMS, settings, "stream")
    assert not problems
    stream = STREAMS["split"](config, 0)
    assert stream.problems() == []
    first, second = (stream.data(task) for task in stream.tasks())
    assert first.source == "planes: airplane"
    assert first.train.x.shape == (3, 3, 6, 6)
    assert float(second.train.x[2, 0, 0, 0]) == pytest.approx(102 / 255)


def chosen(path: Path, classes: list[list[str | int]], **settings):
    dataset = {"kind": "image_folder", "path": str(path)}
    given = {"kind": "split", "dataset": dataset, "classes": classes, **settings}
    _, config, problems = choose(STREAMS, given, "stream")
    assert not problems
    return STREAMS["split"](config, 0)


def test_classes_chosen_by_hand(tmp_path):
    """By name or number; tasks are called by them, and the rest is left out."""
    for label, name in enumerate(("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")):
        for i in range(2):
            picture(tmp_path / name / f"{i}.png", 30 * label + i)
    stream = chosen(tmp_path, [["dog", "bee"], [0], ["cat", 4, "fox", "gnu", "hen"]])
    assert stream.problems() == []
    assert [task.name for task in stream.tasks()] == ["bee, dog", "ant", "classes 2,4-7"]
    data = [stream.data(task) for task in stream.tasks()]
    assert [sorted(set(part.test.y.tolist())) for part in data] == [[1, 3], [0], [2, 4, 5, 6, 7]]
    assert stream.outputs == 8
    assert [task.name for task in chosen(tmp_path, [["hen"]]).tasks()] == ["hen"]
    wrong = chosen(tmp_path, [["dog", "cow", 8], [], [3]], order="random")
    told = [str(problem) for problem in wrong.problems()]
    assert [said.partition(";")[0].partition(": ")[2] for said in told] == [
        f"{tmp_path.name} has no class 'cow'",
        f"{tmp_path.name} has no class 8",
        "a task without classes",
        "class 'dog' is in more than one place",
        "got 'random' with classes chosen by hand",
    ]
    assert told[0].endswith("has ant, bee, cat, dog, eel, fox, gnu, hen")


def test_rotating_pictures_that_are_not_square_is_refused(tmp_path):
    for name in "ab":
        for i in range(3):
            picture(tmp_path / name / f"{i}.png", i, size=(6, 4))
    dataset = {"kind": "image_folder", "path": str(tmp_path)}
    _, config, _ = choose(STREAMS, {"kind": "rotated", "dataset": dataset}, "stream")
    (problem,) = STREAMS["rotated"](config, 0).problems()
    assert "got [90.0, 270.0]" in str(problem)


@pytest.mark.parametrize(
    ("size", "settings", "path"),
    [
        ((12, 12), {"size": 8, "fit": "pad"}, "stream.size"),
        ((6, 8), {}, "stream.domains.rotate"),
    ],
)
def test_all_views_of_domains_must_fit_the_frame(tmp_path, size, settings, path):
    for part in ("train", "test"):
        for name in ("airplane", "bird"):
            picture(tmp_path / part / name / "0.png", 7, size)
    images = {"kind": "image_folder", "path": str(tmp_path)}
    domain = "digits" if "size" in settings else images
    views = {
        "base": [{"name": "photographs", "dataset": images}],
        "domains": [{"name": "turned", "dataset": domain, "rotate": 90.0}],
    }
    _, config, problems = choose(STREAMS, {"kind": "domains", **views, **settings}, "stream")
    assert not problems
    assert [problem.path for problem in STREAMS["domains"](config, 0).problems()] == [path]
