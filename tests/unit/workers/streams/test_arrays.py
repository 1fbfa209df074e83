"""The stream of NumPy files: what it reads, and what it says about wrong files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fakes import tiny
from workers.contract import InputError
from workers.models.backbones import BACKBONES
from workers.parsing import choose
from workers.streams import STREAMS, Rows


def build(**settings):
    _, config, problems = choose(STREAMS, {"kind": "arrays", **settings}, "stream")
    assert not problems
    return STREAMS["arrays"](config, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        for part, samples in (("train", 40), ("test", 10)):
            x = rng.integers(0, 255, (samples, 5), dtype=np.uint8)
            np.save(tmp_path / name / f"{part}_x.npy", x)
            np.save(tmp_path / name / f"{part}_y.npy", np.arange(samples) % 3)
    return tmp_path


def test_tasks_are_folders_and_inputs_stay_on_disk(folder: Path) -> None:
    stream = build(path=str(folder), inputs="integer", domain="bytes")
    assert [(task.name, task.domain) for task in stream.tasks()] == [("a", "bytes"), ("b", "bytes")]
    assert (stream.input_shape, stream.input_type, stream.outputs) == ((5,), "integer", 3)
    data = stream.data(stream.tasks()[0])
    assert isinstance(data.train.x, Rows)
    assert data.train.x.dtype == torch.int64
    assert [len(part) for part in data.parts.values()] == [37, 3, 10]
    assert data.source == f"{folder.name}: a"
    assert [task.name for task in build(path=str(folder), tasks=["b"]).tasks()] == ["b"]


def test_a_validation_file_is_the_validation_part(folder: Path) -> None:
    for part in "xy":
        test = np.load(folder / "a" / f"test_{part}.npy")
        np.save(folder / "a" / f"validation_{part}.npy", test)
    data = build(path=str(folder)).data(build(path=str(folder)).tasks()[0])
    assert [len(part) for part in data.parts.values()] == [40, 10, 10]


def test_numbers_are_targets_of_regression(folder: Path) -> None:
    for part, samples in (("train", 40), ("test", 10)):
        for name in "ab":
            np.save(folder / name / f"{part}_y.npy", np.ones((samples, 2)))
    stream = build(path=str(folder), objective="regression")
    assert stream.outputs == 2
    assert stream.data(stream.tasks()[0]).validation.y.shape == (4, 2)
    wrong = build(path=str(folder))
    with pytest.raises(InputError, match="classification needs labels"):
        wrong.data(wrong.tasks()[0])


def test_wrong_files_are_problems_of_the_plan(folder: Path, tmp_path: Path) -> None:
    assert build(path=str(folder)).problems() == []
    assert "missing" in str(build().problems()[0])
    assert "is no folder" in str(build(path=str(tmp_path / "nowhere"), tasks=["a"]).problems()[0])
    (folder / "b" / "test_x.npy").write_bytes(b"damaged")
    (problem,) = build(path=str(folder)).problems()
    assert problem.path == "stream.path"
    assert "b/test_x.npy: cannot be read as an array" in str(problem)


def test_backbones_say_which_inputs_they_read() -> None:
    cls, config, _ = choose(BACKBONES, "mlp", "backbone")
    flat = cls(config, (5,), 0)
    assert flat.outputs == 5
    assert flat(torch.arange(10).reshape(2, 5)).dtype == torch.float32
    cls, config, _ = choose(BACKBONES, "nature_cnn", "backbone")
    with pytest.raises(InputError, match=r"shape \(5,\); it reads images .* use backbone mlp"):
        cls(config, (5,), 0)


@pytest.mark.parametrize(
    ("sections", "path", "cure"),
    [
        ({"model": {"backbone": "nature_cnn"}}, "model.backbone.kind", "use backbone mlp"),
        ({"training": {"augment": "crop_flip"}}, "training.augment.kind", "use augment none"),
    ],
)
def test_what_needs_images_is_refused_when_planned(folder, sections, path, cure) -> None:
    with pytest.raises(InputError) as refused:
        tiny(stream={"kind": "arrays", "path": str(folder)}, **sections)
    assert f"lanes.0.{path}" in str(refused.value)
    assert "inputs of shape (5,)" in str(refused.value)
    assert cure in str(refused.value)
