"""The compiled kernels as a cluster node meets them: built once, shared, switched off, broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ops import build

ROOT = Path(__file__).parents[2]
ARCHITECTURES = build.ARCHITECTURES if "GROWSTAGE_CHAOS" in os.environ else ("90",)
"""What the CUDA part is compiled for: a minute of one core each."""
NAMES = ("route", "permute", "combine", "expert_mlp", "usage", "row_sum", "row_sum_backward")
USERS = (
    "tests/unit/ops",
    "tests/unit/workers/moe/test_moe_tables.py",
    "tests/unit/workers/moe/test_moe_masks.py",
    "tests/scenarios/test_masked_run.py",
)
"""Tests of the ops and of what calls them."""
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
)
needs_nvcc = pytest.mark.skipif(build.find_nvcc() is None, reason="no nvcc")

TINY = """
import json, ops, torch
generator = torch.Generator().manual_seed(0)
logits = torch.randn(64, 40, generator=generator, requires_grad=True)
up = [torch.randn(width, 37, generator=generator) for width in (2, 50, 33, 16)]
up = [weight.requires_grad_() for weight in up]
down = [w.detach().t().contiguous() for w in up]
selected, gate, _ = ops.route(logits[:, :4], selector="topk", k=2)
rows, position, offsets = ops.permute(logits[:, 3:], selected, 4)
bias, out = [w.new_zeros(w.shape[0]) for w in up], [w.new_zeros(37) for w in up]
y = ops.combine(ops.expert_mlp(rows, offsets, up, bias, down, out), position, gate)
y.square().sum().backward()
print(json.dumps({**ops.status().as_json(), "sum": y.sum().item(),
                  "grad": logits.grad.abs().sum().item(),
                  "weights": sum(weight.grad.abs().sum().item() for weight in up)}))
"""


def _start(cache: Path, code: str = TINY, **settings: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GROWSTAGE_OPS")}
    env = {**clean, "GROWSTAGE_OPS_CACHE": str(cache), "OMP_NUM_THREADS": "1", **settings}
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True)


def _finish(process: subprocess.Popen[str]) -> dict:
    out, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ops")


@pytest.mark.slow
@needs_compiler
def test_two_workers_that_start_at_once_build_one_library(cache: Path) -> None:
    first, second = [_finish(process) for process in [_start(cache), _start(cache)]]
    assert first["backend"] == second["backend"] == "compiled"
    assert first["cpu_kernels"] is True
    assert first["library"] == second["library"]
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == [
        Path(first["library"]).parent.name
    ]
    assert all("cpu" in first["ops"][f"growstage::{name}"] for name in NAMES)
    assert first["sum"] == second["sum"]


@needs_compiler
@pytest.mark.slow
def test_reference_and_both_matrix_products_give_the_same_numbers(cache: Path) -> None:
    own, blas = (_finish(_start(cache, GROWSTAGE_OPS_GEMM=name)) for name in ("own", "blas"))
    off = _finish(_start(cache, GROWSTAGE_OPS="off"))
    assert own["backend"] == blas["backend"] == "compiled"
    assert off["backend"] == "reference"
    assert off["why"] == "switched off by GROWSTAGE_OPS=off"
    for key in ("sum", "grad", "weights"):
        assert own[key] == pytest.approx(off[key], rel=1e-4)
        assert blas[key] == pytest.approx(off[key], rel=1e-4)


def test_without_a_compiler_the_reference_answers_and_says_why(tmp_path: Path) -> None:
    bare = {"PATH": "/nonexistent", "CXX": ""}
    status = _finish(_start(tmp_path, **bare))
    assert status["backend"] == "reference"
    assert status["cpu_kernels"] is False
    assert "no C++ compiler found" in status["why"]
    env = {**os.environ, **bare, "GROWSTAGE_OPS_CACHE": str(tmp_path), "GROWSTAGE_OPS": "auto"}
    command = [sys.executable, "-m", "orchestrator", "ops"]
    line = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert line.stdout.startswith(
        "ops: reference (no CUDA kernels): no compiled kernels: no C++ compiler found"
    )
    strict = _start(tmp_path, GROWSTAGE_OPS="require", **bare)
    _, error = strict.communicate(timeout=100)
    assert strict.returncode != 0
    assert "compiled kernels are demanded and not in use: no compiled kernels: no C++" in error


@needs_compiler
def test_a_packaged_library_is_loaded_where_it_fits_and_named_where_not(
    cache: Path, tmp_path: Path
) -> None:
    """The import package of `make wheel`, made of a library built here; the compiler is hidden."""
    built = Path(_finish(_start(cache))["library"])
    package = tmp_path / build.PACKAGE
    shutil.copytree(built.parent, package)
    (package / "__init__.py").touch()
    bare = {"PATH": "/nonexistent", "CXX": "", "PYTHONPATH": str(tmp_path)}
    status = _finish(_start(tmp_path / "cache", **bare))
    assert status["backend"] == "compiled"
    assert status["library"] == str(package / build.LIBRARY)
    info = json.loads((package / "build.json").read_text())
    stale = {**info, "sources": "0", "needs": ["another"]}
    (package / "build.json").write_text(json.dumps(stale))
    status = _finish(_start(tmp_path / "cache", **bare))
    assert status["backend"] == "reference"
    assert "no C++ compiler" in status["why"]
    assert "was made for other sources, another processor" in status["why"]


def test_a_failed_build_is_tried_once_and_told(tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho called >> $CALLS\necho 'x.cpp: error: no' >&2\nexit 1\n")
    broken.chmod(0o755)
    calls = tmp_path / "calls"
    settings = {"CXX": str(broken), "CALLS": str(calls)}
    first, second = (_finish(_start(tmp_path / "cache", **settings)) for _ in range(2))
    assert first["backend"] == second["backend"] == "reference"
    assert "c++ failed: x.cpp: error: no" in first["why"]
    assert "tried before" in second["why"]
    assert len(calls.read_text().splitlines()) <= len(build.OPS.sources(cuda=False))
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_a_wrong_mode_is_named(tmp_path: Path) -> None:
    process = _start(tmp_path, GROWSTAGE_OPS="always")
    _, error = process.communicate(timeout=100)
    assert "GROWSTAGE_OPS is 'always'; allowed: auto, off, require" in error


@pytest.mark.slow
def test_what_uses_the_ops_passes_with_the_build_switched_off() -> None:
    env = {**os.environ, "GROWSTAGE_OPS": "off", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *USERS, "-p", "no:cacheprovider"]
    result = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert "passed" in result.stdout


@pytest.mark.slow
@needs_compiler
@needs_nvcc
def test_the_cuda_part_compiles_without_warnings_and_is_registered(tmp_path: Path) -> None:
    """Warnings are errors; the keys are there on a torch without CUDA too."""
    wanted = ",".join(ARCHITECTURES)
    status = _finish(_start(tmp_path, GROWSTAGE_OPS_CUDA="on", GROWSTAGE_OPS_ARCHS=wanted))
    assert status["backend"] == "compiled", status["why"]
    assert status["cuda_kernels"] is True
    assert status["archs"] == list(ARCHITECTURES)
    assert all(status["ops"][f"growstage::{name}"] == ["cpu", "cuda"] for name in NAMES)
    assert "-Werror" in build._NVCC
    needed = subprocess.run(
        ["readelf", "-d", status["library"]], capture_output=True, text=True, check=True
    ).stdout
    assert "libtorch_cuda" not in needed
    assert "libcudart" not in needed
    assert "libpython" not in needed
