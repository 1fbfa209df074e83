"""Checkpoints: atomic, digested by content, refused when damaged or foreign."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from workers import checkpoint
from workers.contract import InputError, LaneSpec

TENSORS = {
    "model": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0)},
    "rng": {"torch": torch.get_rng_state()},
}


def write(path: Path, **changes: object):  # type: ignore[no-untyped-def]
    return checkpoint.write(str(path), {**TENSORS, **changes}, {"a": [1]}, seq=3, stage="s")  # type: ignore[dict-item]


def test_round_trip(tmp_path: Path) -> None:
    ref = write(tmp_path / "deep" / "c")
    saved = checkpoint.read(ref)
    assert saved.state == {"a": [1]}
    assert torch.equal(saved.tensors["model"]["w"], TENSORS["model"]["w"])
    assert checkpoint.describe(ref.uri) == ref
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["c"]


def test_equal_contents_give_equal_digests(tmp_path: Path) -> None:
    assert write(tmp_path / "a").digest == write(tmp_path / "b").digest
    other = write(tmp_path / "c", model={"w": torch.ones(2, 3)})
    assert other.digest != write(tmp_path / "a").digest


def test_written_twice_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "c", model={"w": torch.ones(1)})
    ref = write(tmp_path / "c")
    assert torch.equal(checkpoint.read(ref).tensors["model"]["w"], TENSORS["model"]["w"])
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_damage_is_found(tmp_path: Path, name: str) -> None:
    ref = write(tmp_path / "c")
    file = tmp_path / "c" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged or foreign"):
        checkpoint.read(ref)


def test_a_state_that_says_something_else_is_damage(tmp_path: Path) -> None:
    ref = write(tmp_path / "c")
    file = tmp_path / "c" / "state.json"
    file.write_text(file.read_text().replace('"a": [1]', '"a": [2]'))
    assert checkpoint.describe(ref.uri) != ref
    with pytest.raises(InputError, match="damaged or foreign"):
        checkpoint.read(ref)


def test_a_write_that_fails_leaves_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = write(tmp_path / "c")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "c", model={"w": torch.ones(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert checkpoint.describe(ref.uri) == ref


def test_a_checkpoint_of_a_lane_with_other_settings_is_refused(tmp_path: Path) -> None:
    lane = LaneSpec(lane="a", trainer="t", method="finetune", seed=0, settings={"model": 1})
    other = LaneSpec(lane="b", trainer="t", method="finetune", seed=0, settings={"model": 2})
    state = {"trainer": "t", "settings_digest": lane.built_from}
    ref = checkpoint.write(str(tmp_path / "c"), TENSORS, state, seq=3, stage="s")
    assert checkpoint.read_of(ref, lane).state == state
    with pytest.raises(InputError, match="other settings than 'b'"):
        checkpoint.read_of(ref, other)


def test_what_else_lies_in_the_folder_is_none_of_it(tmp_path: Path) -> None:
    ref = write(tmp_path / "c")
    (tmp_path / "c" / ".DS_Store").write_bytes(b"\0\1")
    (tmp_path / "c" / "notes.safetensors").write_bytes(b"mine")
    assert checkpoint.read(ref).state == {"a": [1]}
    assert checkpoint.describe(ref.uri) == ref


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 3}', '{"groups": [[]]}'])
def test_a_state_that_is_none_is_damage(tmp_path: Path, text: str) -> None:
    ref = write(tmp_path / "c")
    (tmp_path / "c" / "state.json").write_text(text)
    with pytest.raises(InputError, match="damaged or foreign"):
        checkpoint.read(ref)


def test_missing_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no state\.json"):
        checkpoint.describe(str(tmp_path))
    (tmp_path / "state.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="another program or version"):
        checkpoint.describe(str(tmp_path))
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        checkpoint.describe(str(tmp_path))
