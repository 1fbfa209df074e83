"""The code in docs/adding.md and docs/examples works as it is printed there."""

import re
import sys
import tomllib
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from workers.contract import derive_seed
from workers.methods import METHODS, MethodContext
from workers.parsing import choose
from workers.streams import STREAMS

DOCS = Path(__file__).parents[4] / "docs"
TEXT = (DOCS / "adding.md").read_text()


def block(mark: str) -> str:
    """The Python block below an HTML comment of the guide."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert found, f"docs/adding.md has no block {mark}"
    return found.group(1)


@pytest.fixture
def guide(monkeypatch):
    """Makes a block of the guide importable as a module of its name."""

    def load(name: str) -> types.ModuleType:
        module = types.ModuleType(f"guide_{name}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(block(f"test: {name}"), f"docs/adding.md:{name}", "exec"), module.__dict__)
        return module

    return load


@pytest.fixture
def moons(monkeypatch):
    """The example stream, found the way a user's config finds it."""
    monkeypatch.syspath_prepend(str(DOCS / "examples"))
    monkeypatch.delitem(sys.modules, "my_stream", raising=False)
    raw = tomllib.loads((DOCS / "examples" / "my_stream.toml").read_text())
    cls, config, problems = choose(STREAMS, raw["stream"], "stream")
    assert not problems, [str(problem) for problem in problems]
    return raw, cls(config, 0)


def test_the_guide_prints_the_example_file():
    assert block("file: examples/my_stream.py") == (DOCS / "examples" / "my_stream.py").read_text()


def test_example_stream_is_built_from_its_import_path(moons):
    raw, stream = moons
    assert raw["stream"]["kind"] == "my_stream:TwoMoons"
    assert stream.problems() == []
    assert [task.name for task in stream.tasks()] == ["at -3", "at 0", "at 3"]
    data = stream.data(stream.tasks()[1])
    assert data.train.x.shape == (1800, 2)
    assert len(data.validation) == 200
    assert stream.load(stream.tasks()[1]).train.x.shape == (2000, 2)


def test_example_lanes_forget_and_remember(moons):
    raw, stream = moons
    finals = {}
    for lane in raw["lanes"]:
        cls, config, problems = choose(METHODS, lane["method"], "method")
        assert not problems
        finals[lane["name"]] = final_accuracy(cls(config, 0, stream.objective), stream)
    assert finals["replay"] > finals["finetune"] + 0.1
    assert finals["replay"] > 0.8


def final_accuracy(method, stream) -> float:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tasks = [stream.data(task) for task in stream.tasks()]
    for task in tasks:
        part = method.training_data(task, ())
        x, y = part.x, part.y
        for _ in range(5):
            for index in torch.randperm(len(y)).split(64):
                optimizer.zero_grad()
                method.loss(model, *method.extend_batch(x[index], y[index])).backward()
                optimizer.step()
        method.end_stage(context(model, task))
    right = [(model(task.test.x).argmax(1) == task.test.y).double().mean() for task in tasks]
    return float(torch.stack(right).mean())


def context(model, data) -> MethodContext:
    return MethodContext(
        model=model,
        optimizer=None,
        stage=None,
        data=data,
        domains=(),
        device=torch.device("cpu"),
        objective=None,
        seed=0,
    )


def test_stream_of_the_guide(guide):
    cls, config, problems = choose(
        STREAMS, {"kind": f"{guide('noisy').__name__}:Noisy", "train_samples": 50}, "stream"
    )
    assert not problems
    stream = cls(config, 0)
    clean, _, noisy = (stream.data(task) for task in stream.tasks())
    assert torch.equal(clean.train.y, noisy.train.y)
    assert len(clean.train.y) == 50
    assert 0.05 < float((clean.train.x - noisy.train.x).abs().mean()) < 0.3


def test_data_set_of_the_guide(guide, tmp_path):
    path = tmp_path / "shapes.npz"
    dataset = {"kind": f"{guide('npz').__name__}:Npz", "path": str(path)}
    settings = {"kind": "split", "dataset": dataset, "validation": 0.0}
    cls, config, problems = choose(STREAMS, settings, "stream")
    assert not problems
    (problem,) = cls(config, 0).problems()
    assert problem.path == "stream.dataset.path"
    x = np.arange(8, dtype=np.uint8)[:, None, None] * np.ones((1, 16, 16), np.uint8)
    y = np.arange(8) % 4
    np.savez(path, train_x=x, train_y=y, test_x=x, test_y=y)
    stream = cls(config, 0)
    assert stream.problems() == []
    data = stream.data(stream.tasks()[1])
    assert data.source == "shapes: classes 2,3"
    assert (data.train.x[:, 0, 0, 0] * 255).round().tolist() == [2, 3, 6, 7]


def test_method_of_the_guide(guide, moons):
    _, stream = moons
    raw = {"kind": f"{guide('keep_first').__name__}:KeepFirst", "per_class": 5}
    cls, config, problems = choose(METHODS, raw, "method")
    assert not problems
    method = cls(config, 0)
    first, second, third = (stream.data(task) for task in stream.tasks())
    assert method.training_data(first, ()) is first.train
    method.end_stage(context(None, first))
    resumed = cls(config, 0)
    resumed.load_state(method.state(), None)
    for one in (method, resumed):
        one.end_stage(context(None, second))
        part = one.training_data(third, ())
        x, y = part.x, part.y
        assert len(x) == len(y) == 1820
        assert torch.equal(x[:5], first.train.x[first.train.y == 0][:5])
    assert torch.equal(method.state()["x"], resumed.state()["x"])


def test_model_of_the_guide(guide):
    cls, config, problems = choose(
        {}, {"kind": f"{guide('linear_model').__name__}:LinearModel"}, "model"
    )
    assert not problems
    one, two = (cls(config, (1, 8, 8), 10, derive_seed(0, "model")) for _ in range(2))
    x = torch.rand(3, 1, 8, 8)
    assert one(x).shape == (3, 10)
    assert torch.equal(one(x), two(x))
