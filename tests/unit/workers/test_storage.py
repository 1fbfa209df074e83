"""Places by path and by URI, through a file system that lives in memory."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import torch

from workers import checkpoint
from workers.contract import InputError
from workers.storage import RemoteFolder, is_remote, join, local_path


@pytest.fixture
def uri() -> str:
    return f"memory://{uuid.uuid4().hex}"


def test_what_is_remote() -> None:
    assert is_remote("s3://bucket/x")
    assert is_remote("memory://x")
    assert not is_remote("/tmp/x")
    assert not is_remote("file:///tmp/x")
    assert local_path("file:///tmp/x") == local_path("/tmp/x") == Path("/tmp/x")


def test_names_go_before_a_query() -> None:
    assert join("/tmp/x", "y") == "/tmp/x/y"
    assert join("s3://b/x?region=eu", "y/z") == "s3://b/x/y/z?region=eu"
    assert join("/tmp/odd?name", "y") == "/tmp/odd?name/y"


def test_files_of_a_remote_folder(uri: str) -> None:
    folder = RemoteFolder(uri)
    assert folder.names() == []
    folder.write("b", b"2")
    folder.write("a", b"1")
    folder.write("a", b"3")
    assert folder.names() == ["a", "b"]
    assert folder.holds("a")
    assert not folder.holds("c")
    assert RemoteFolder(uri).read("a") == b"3"
    folder.remove("a")
    assert folder.names() == ["b"]
    with pytest.raises(InputError, match="storage"):
        folder.read("a")


def test_no_such_file_system() -> None:
    with pytest.raises(InputError, match="no file system"):
        RemoteFolder("nonsense://x")


def test_a_checkpoint_is_the_same_wherever_it_lies(uri: str, tmp_path: Path) -> None:
    tensors = {"model": {"w": torch.arange(4.0)}, "optimizer": {}}
    here = checkpoint.write(str(tmp_path / "c"), tensors, {"a": 1}, seq=3, stage="s")
    there = checkpoint.write(join(uri, "c"), tensors, {"a": 1}, seq=3, stage="s")
    assert there.digest == here.digest
    again = checkpoint.write(join(uri, "c"), tensors, {"a": 1}, seq=3, stage="s")
    assert again == there == checkpoint.describe(there.uri)
    saved = checkpoint.read(there)
    assert torch.equal(saved.tensors["model"]["w"], tensors["model"]["w"])
    assert saved.state == {"a": 1}


def test_damaged_and_missing_checkpoints_behind_a_uri(uri: str) -> None:
    ref = checkpoint.write(uri, {"model": {"w": torch.ones(2)}}, {}, seq=1, stage=None)
    RemoteFolder(uri).write("model.safetensors", b"x")
    with pytest.raises(InputError, match="damaged or foreign"):
        checkpoint.read(ref)
    with pytest.raises(InputError, match=r"no state\.json"):
        checkpoint.describe(join(uri, "nothing"))


def test_adopted_checkpoints_hold_the_same_tensors_and_say_whose(uri: str, tmp_path: Path) -> None:
    state = {"settings_digest": "old", "arch": {"experts": 3}}
    ref = checkpoint.write(uri, {"model": {"w": torch.ones(2)}}, state, seq=7, stage="s")
    own = checkpoint.adopt(ref, str(tmp_path / "own"), {"settings_digest": "new"})
    assert (own.seq, own.stage) == (7, "s")
    assert own.digest != ref.digest
    saved = checkpoint.read(own)
    assert saved.state == {**state, "settings_digest": "new", "adopted_from": ref.digest}
    assert torch.equal(saved.tensors["model"]["w"], torch.ones(2))
