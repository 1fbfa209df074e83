"""Cache folders that code is loaded from: whose they are, and what killed builds leave."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ops import build, caches
from ops.build import BuildError
from workers.contract import InputError
from workers.machine import own_cache


def test_a_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = caches.made(tmp_path / "c")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert caches.untrusted(folder) is None


def test_folders_around_it_are_made_for_their_owner_too(tmp_path: Path) -> None:
    """Under the umask of many systems a group could write into what was made on the way."""
    before = os.umask(0o002)
    try:
        folder = caches.made(tmp_path / ".cache" / "growstage" / "ops")
    finally:
        os.umask(before)
    assert [place.stat().st_mode & 0o777 for place in (folder, *folder.parents[:2])] == [0o700] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other groups")
def test_a_group_that_may_write_is_another_one_unless_it_is_the_user_s_alone(
    tmp_path: Path,
) -> None:
    folder = caches.made(tmp_path / "c")
    folder.chmod(0o770)
    assert caches.untrusted(folder) is None, "root's own group"
    os.chown(folder, -1, 54321)
    assert "can be written by others (mode 770)" in (caches.untrusted(folder) or "")


@pytest.mark.parametrize("inside", ["", "k", "k/lib.so"])
def test_what_others_can_write_is_not_loaded(tmp_path: Path, inside: str) -> None:
    folder = caches.made(tmp_path / "c")
    (folder / "k").mkdir()
    library = folder / "k" / "lib.so"
    library.touch()
    assert caches.untrusted(library) is None
    open_to_all = folder / inside
    open_to_all.chmod(0o777)
    told = caches.untrusted(library)
    assert told is not None
    assert f"{open_to_all} can be written by others (mode 777)" in told
    assert f"chmod go-w {open_to_all}" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("given", ["", "lib.so"])
def test_what_another_user_owns_is_not_loaded(tmp_path: Path, given: str) -> None:
    folder = caches.made(tmp_path / "c")
    (folder / "lib.so").touch()
    os.chown(folder / given, 12345, -1)
    told = caches.untrusted(folder / "lib.so")
    assert told is not None
    assert "belongs to user 12345" in told


def test_links_are_followed_to_where_the_code_lies(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    (tmp_path / "c").symlink_to(theirs)
    assert "can be written by others" in (caches.untrusted(tmp_path / "c") or "")


def test_a_build_is_neither_taken_from_nor_put_where_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROWSTAGE_OPS_CACHE", str(tmp_path / "c"))
    tools = build.Toolchain(compiler="/bin/false", nvcc=None, architectures=())
    library = caches.made(tmp_path / "c" / tools.key()) / build.LIBRARY
    library.touch()
    assert build.built(tools) == library
    (tmp_path / "c").chmod(0o777)
    with pytest.raises(BuildError, match="can be written by others"):
        build.built(tools)
    with pytest.raises(BuildError, match="can be written by others"):
        build.build(tools, again=True)
    with pytest.raises(InputError, match="can be written by others"):
        own_cache(tmp_path / "c")


def test_scratch_of_killed_builds_is_swept_and_that_of_others_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROWSTAGE_OPS_CACHE", str(tmp_path))
    for name in ("tmpdead", "tmpbusy", "0123"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.o").touch()
    long_ago = time.time() - 2 * caches.STALE_S
    os.utime(tmp_path / "tmpdead", (long_ago, long_ago))
    os.utime(tmp_path / "0123", (long_ago, long_ago))
    with pytest.raises(BuildError):
        build.build(build.Toolchain(compiler="/bin/false", nvcc=None, architectures=()), again=True)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"tmpbusy", "0123"}
