"""Files that unpack to far more than they are, links that lead round or away: refused or left."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.contract import InputError
from workers.streams import idx, packages
from workers.streams.datasets.image_folder import ImageFolder
from workers.streams.packages import Package, take

ALL = Package(manager="pip", name="p", version="1", sha256="", keep=("**/*",))


def _zip(file: Path, files: int, size: int) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(files):
            archive.writestr(f"{number}.txt", b"\0" * size)


def _tar(file: Path, files: int, size: int) -> None:
    with tarfile.open(file, "w:gz") as archive:
        for number in range(files):
            entry = tarfile.TarInfo(f"{number}.txt")
            entry.size = size
            archive.addfile(entry, io.BytesIO(b"\0" * size))


@pytest.mark.parametrize(("write", "suffix"), [(_zip, ".whl"), (_tar, ".tgz")])
def test_packages_that_unpack_to_too_much(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path, int, int], None],
    suffix: str,
) -> None:
    monkeypatch.setattr(packages, "MOST_BYTES", 10_000)
    monkeypatch.setattr(packages, "MOST_FILES", 10)
    for number, (files, size) in enumerate([(1, 10_001), (11, 1), (3, 4_000)]):
        file = tmp_path / f"{number}{suffix}"
        write(file, files, size)
        with pytest.raises(InputError, match="unpacks to more than"):
            take(file, ALL, tmp_path / "unpacked", tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert not (tmp_path / "unpacked").exists(), "known before anything is unpacked"
    write(tmp_path / f"good{suffix}", 10, 1_000)
    take(tmp_path / f"good{suffix}", ALL, tmp_path / "unpacked", tmp_path / "target")
    assert len(list((tmp_path / "target").iterdir())) == 10


def test_a_zip_file_that_lies_about_its_sizes(tmp_path: Path) -> None:
    """An entry gives no more bytes than it declares."""
    file = tmp_path / "p.whl"
    _zip(file, 1, 100_000)
    told, lie = (100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")
    file.write_bytes(file.read_bytes().replace(told, lie))
    with pytest.raises(InputError, match="damaged"):
        take(file, ALL, tmp_path / "unpacked", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_gzip_file_that_unpacks_to_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idx, "MOST_BYTES", 10_000)
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"\0" * 10_001))
    with pytest.raises(InputError, match="unpacks to more than"):
        idx.unpacked(tmp_path / "x.gz", "fetch it again")
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"\0" * 10_000))
    assert len(idx.unpacked(tmp_path / "x.gz", "fetch it again")) == 10_000


def test_links_that_lead_round_are_not_followed(tmp_path: Path) -> None:
    from PIL import Image

    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (2, 2)).save(tmp_path / name / f"{number}.png")
        (tmp_path / name / "round").symlink_to(tmp_path / name)
        (tmp_path / name / "itself.png").symlink_to(tmp_path / name / "itself.png")
    made = ImageFolder(ImageFolder.Config(path=str(tmp_path)))
    assert len(made.labels("train")) + len(made.labels("test")) == 4


def test_links_in_a_package_stay_there(tmp_path: Path) -> None:
    file, secret = tmp_path / "p.tgz", tmp_path / "secret"
    secret.write_text("mine")
    with tarfile.open(file, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO(b""))
        entry = tarfile.TarInfo("b.txt")
        entry.type, entry.linkname = tarfile.SYMTYPE, "a.txt"
        archive.addfile(entry)
    take(file, ALL, tmp_path / "unpacked", tmp_path / "target")
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["a.txt"]
    with tarfile.open(file, "w:gz") as archive:
        entry = tarfile.TarInfo("b.txt")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(entry)
    with pytest.raises(InputError, match="damaged"):
        take(file, ALL, tmp_path / "again", tmp_path / "target")
