"""The guide's examples are what door tests run, or work as they are printed; its paths exist."""

from __future__ import annotations

import ast
import builtins
import re
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.config.file import check
from tune_spaces.stream_file import single_lane, trial_config
from workers.contract import StageSpec, TaskSpec
from workers.methods import METHODS, MethodContext
from workers.models import BACKBONES, CORES, HEADS, MODELS, capability_problem
from workers.models.cores import Past
from workers.moe.growth.schedules import SCHEDULES, Place, places
from workers.parsing import choose
from workers.streams import STREAMS
from workers.supervised.augmentations import AUGMENTATIONS
from workers.supervised.optimizers import OPTIMIZERS
from workers.units.finding import units_of
from workers.units.renewal import renew

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLE = ROOT / "examples" / "own_stream"
PAGES = [DOCS / "adding.md", *sorted((DOCS / "adding").glob("*.md"))]
GUIDE = "\n".join(page.read_text() for page in PAGES)
MARK = re.compile(r"<!-- door: (\S+) ([\w ]+) -->\n```python\n(.*?)```", re.DOTALL)
DOORS = [(path, names.split(), code) for path, names, code in MARK.findall(GUIDE)]
TABLES = {path.removeprefix("test_").removesuffix("_door.py") for path, _, _ in DOORS}
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
ROOMS = ("benchmarks", "configs", "docs", "examples", "growstage", "kernels", "ops", "orchestrator",
         "tests", "tune_spaces", "workers")  # fmt: skip
PATH = re.compile(rf"`((?:{'|'.join(ROOMS)})/[\w./-]*)`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[\w-]+)?\)")

# ---------------------------------------------------------------- what door tests run


def sources(path: Path) -> dict[str, str]:
    """Source of each class and function at the top of a file, decorators included."""
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = "".join(lines[first - 1 : node.end_lineno])
    return found


each_door = pytest.mark.parametrize(
    ("path", "names", "code"), DOORS, ids=["-".join(names) for _, names, _ in DOORS]
)


@each_door
def test_the_guide_prints_what_the_door_tests_run(path: str, names: list[str], code: str) -> None:
    door = ROOT / "tests" / "doors" / path
    known = sources(door)
    for name in names:
        assert known[name] in code, f"the guide prints another {name} than {door} runs"


@each_door
def test_what_is_printed_is_whole(path: str, names: list[str], code: str) -> None:
    """Every name it uses is imported or defined in the block itself."""
    module = types.ModuleType(f"guide_{path.removesuffix('.py')}")
    exec(compile(code, f"guide:{path}", "exec", dont_inherit=True), module.__dict__)
    assert all(hasattr(module, name) for name in names)
    free = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    known = {*dir(builtins), *vars(module)} | _bound(code)
    assert free <= known, sorted(free - known)


def _bound(code: str) -> set[str]:
    """Names that functions, classes, loops and assignments of a block bind."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
    return found


def test_every_door_is_shown() -> None:
    doors = {
        path.name.removeprefix("test_").removesuffix("_door.py")
        for path in (ROOT / "tests" / "doors").glob("test_*_door.py")
    }
    assert doors <= TABLES, f"the guide does not show: {sorted(doors - TABLES)}"


# ---------------------------------------------------------------- paths and links


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    named = {path for path in PATH.findall(text) if not (ROOT / path).exists()}
    linked = {link for link in LINK.findall(text) if not (page.parent / link).exists()}
    assert not named | linked, sorted(named | linked)


# ---------------------------------------------------------------- examples of their own


def block(mark: str) -> str:
    """The Python block below an HTML comment of the guide."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```python\n(.*?)```", GUIDE, re.DOTALL)
    assert found, f"the guide has no block {mark}"
    return found.group(1)


Guide = Callable[[str], types.ModuleType]


@pytest.fixture
def guide(monkeypatch: pytest.MonkeyPatch) -> Guide:
    """Makes a block of the guide importable as a module of its name."""

    def load(name: str) -> types.ModuleType:
        module = types.ModuleType(f"guide_{name}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(
            compile(block(f"test: {name}"), f"guide:{name}", "exec", dont_inherit=True),
            module.__dict__,
        )
        return module

    return load


def chosen(table: Any, module: types.ModuleType, name: str, **settings: Any) -> tuple[Any, Any]:
    """(class, Config) of a class of the guide, named as a user's config names it."""
    kind = f"{module.__name__}:{name}"
    cls, config, problems = choose(table, {"kind": kind, **settings}, "section")
    assert not problems, [str(problem) for problem in problems]
    return cls, config


@pytest.fixture
def moons(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The example stream, found the way a user's config finds it."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.delitem(sys.modules, "my_stream", raising=False)
    raw = tomllib.loads((EXAMPLE / "stream.toml").read_text())
    cls, config, problems = choose(STREAMS, raw["stream"], "stream")
    assert cls is not None, [str(problem) for problem in problems]
    return raw, cls(config, 0)


def test_the_guide_prints_the_example_file() -> None:
    assert block("file: own_stream/my_stream.py") == (EXAMPLE / "my_stream.py").read_text()


def test_example_stream_is_built_from_its_import_path(moons: tuple[Any, Any]) -> None:
    raw, stream = moons
    assert raw["stream"]["kind"] == "my_stream:TwoMoons"
    assert stream.problems() == []
    assert [task.name for task in stream.tasks()] == ["at -3", "at 0", "at 3"]
    data = stream.data(stream.tasks()[1])
    assert data.train.x.shape == (1800, 2)
    assert len(data.validation) == 200
    assert stream.load(stream.tasks()[1]).train.x.shape == (2000, 2)


def test_example_lanes_forget_and_remember(moons: tuple[Any, Any]) -> None:
    raw, stream = moons
    finals = {}
    for lane in raw["lanes"]:
        cls, config, problems = choose(METHODS, lane["method"], "method")
        assert cls is not None, problems
        finals[lane["name"]] = final_accuracy(cls(config, 0, stream.objective), stream)
    assert finals["replay"] > finals["finetune"] + 0.1
    assert finals["replay"] > 0.8


def final_accuracy(method: Any, stream: Any) -> float:
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
        method.end_stage(context(model, optimizer, task))
    right = [(model(task.test.x).argmax(1) == task.test.y).double().mean() for task in tasks]
    return float(torch.stack(right).mean())


def context(model: Any, optimizer: Any, data: Any) -> MethodContext:
    stage = StageSpec(
        index=0,
        task=TaskSpec(index=0, name="t", domain="d"),
        intervals=1,
        seed=0,
        parent=None,
        settings_digest="",
    )
    return MethodContext(
        model=model,
        optimizer=optimizer,
        stage=stage,
        data=data,
        domains=(),
        device=torch.device("cpu"),
        objective=None,
        seed=0,
    )


def test_stream_of_the_guide(guide: Guide) -> None:
    cls, config = chosen(STREAMS, guide("noisy"), "Noisy", train_samples=50)
    stream = cls(config, 0)
    clean, _, noisy = (stream.data(task) for task in stream.tasks())
    assert torch.equal(clean.train.y, noisy.train.y)
    assert len(clean.train.y) == 50
    assert 0.05 < float((clean.train.x - noisy.train.x).abs().mean()) < 0.3


def test_data_set_of_the_guide(guide: Guide, tmp_path: Path) -> None:
    path = tmp_path / "shapes.npz"
    dataset = {"kind": f"{guide('npz').__name__}:Npz", "path": str(path)}
    settings = {"kind": "split", "dataset": dataset, "validation": 0.0}
    cls, config, problems = choose(STREAMS, settings, "stream")
    assert cls is not None, problems
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


def test_a_model_of_the_guide_tells_its_units(guide: Guide) -> None:
    cls, config = chosen(MODELS, guide("told_units"), "TwoMaps", width=6)
    model = cls(config, (1, 4, 4), 3, 0)
    (units,) = units_of(model).values()
    x = torch.rand(5, 1, 4, 4)
    kept = torch.tanh(model.first(x.flatten(1)))
    kept[:, 2] = 0.0
    wanted = model.last(kept).detach()
    renew([(units, torch.tensor([2]))], torch.Generator().manual_seed(0))
    assert torch.allclose(model(x), wanted, atol=1e-6)
    assert torch.equal(model.untrained(4).first.weight, cls(config, (1, 4, 4), 3, 4).first.weight)


def test_method_of_the_guide(guide: Guide, moons: tuple[Any, Any]) -> None:
    _, stream = moons
    cls, config = chosen(METHODS, guide("keep_first"), "KeepFirst", per_class=5)
    method = cls(config, 0)
    first, second, third = (stream.data(task) for task in stream.tasks())
    assert method.training_data(first, ()) is first.train
    method.end_stage(context(None, None, first))
    resumed = cls(config, 0)
    resumed.load_state(method.state(), None)
    for one in (method, resumed):
        one.end_stage(context(None, None, second))
        part = one.training_data(third, ())
        x, y = part.x, part.y
        assert len(x) == len(y) == 1820
        assert torch.equal(x[:5], first.train.x[first.train.y == 0][:5])
    assert torch.equal(method.state()["x"], resumed.state()["x"])


def test_model_of_the_guide(guide: Guide) -> None:
    cls, config = chosen(MODELS, guide("linear_model"), "LinearModel")
    assert capability_problem(config.kind, "labels", "model.kind") is None
    one, two = (cls(config, (1, 8, 8), 10, 3) for _ in range(2))
    x = torch.rand(3, 1, 8, 8)
    assert one(x).shape == (3, 10)
    assert torch.equal(one(x), two(x))


def test_parts_of_models_of_the_guide(guide: Guide) -> None:
    module = guide("parts")
    cls, config = chosen(BACKBONES, module, "RandomFeatures", width=16)
    backbone = cls(config, (1, 8, 8), 3)
    features = backbone(torch.rand(5, 1, 8, 8))
    assert features.shape == (5, backbone.outputs) == (5, 16)
    cls, config = chosen(HEADS, module, "CosineHead")
    head = cls(config, 16, 4, experts=1, max_experts=2, seed=0)
    assert head(features).shape == (5, 4)
    assert head(features).abs().max() <= config.scale + 1e-4
    cls, config = chosen(CORES, module, "Decay", rate=0.5)
    core = cls(config, 16, 0)
    x, begins = torch.rand(2, 3, 16), torch.zeros(2, 3, dtype=torch.bool)
    begins[0, 2] = True
    y, state = core(x, Past(torch.zeros(2, core.state_size), begins))
    assert y.shape == x.shape
    assert torch.equal(state, y[:, -1])
    assert torch.allclose(y[0, 2], 0.5 * x[0, 2])
    parts = {
        "backbone": {"kind": f"{module.__name__}:RandomFeatures"},
        "head": f"{module.__name__}:CosineHead",
    }
    assert check({"name": "g", "stream": "split", "model": parts, "lanes": [{}]}, "g").lanes


def test_schedule_of_the_guide(guide: Guide) -> None:
    cls, config = chosen(SCHEDULES, guide("schedule"), "LastHalf", minimum=2)
    schedule = cls(config)
    assert [Place(schedule, i, 4).count(6) for i in range(4)] == [2, 2, 6, 6]
    assert [place.count(1) for place in places(schedule, [(8, 8)] * 4)] == [1, 1, 1, 1]


def test_optimizer_and_augmentation_of_the_guide(guide: Guide) -> None:
    cls, config = chosen(OPTIMIZERS, guide("optimizer"), "RMSprop", lr=0.1)
    model = nn.Linear(2, 1)
    optimizer, before = cls(config).build(model), model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)
    cls, config = chosen(AUGMENTATIONS, guide("augmentation"), "Jitter")
    x = torch.zeros(4, 1, 8, 8)
    assert 0.05 < float(cls(config)(x).std()) < 0.2


def test_metric_of_the_guide(guide: Guide) -> None:
    worst = guide("metric").acc_worst
    assert worst([[0.9, 0.1], [0.6, 0.8]]) == 0.6
    assert worst([]) is None


def test_space_of_the_guide(guide: Guide) -> None:
    space = guide("space").Replay
    raw = single_lane(ROOT / space.base, space.lane, "replay")
    settings = {**space.fixed, "method.buffer": 50, "training.optimizer.lr": 1e-3}
    (lane,) = trial_config(raw, settings).lanes
    assert lane.sections["method"].buffer == 50
    assert not lane.policies
