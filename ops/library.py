"""Loads the compiled kernels where they can be had, and says what is in use and why.

Nothing here fails a run: without kernels the plain-torch references answer.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ops import registry
from ops.build import BuildError, build, built, packaged, toolchain

MODES = ("auto", "off", "require")


class OpsUnavailableError(RuntimeError):
    """Compiled kernels were demanded and there are none; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What answers the ops in this process."""

    backend: str
    """``compiled`` or ``reference``: on the CPU."""
    cpu_kernels: bool
    cuda_kernels: bool
    """Are the kernels registered (not: is there a device)?"""
    archs: tuple[str, ...]
    """Compute capabilities that the CUDA kernels were built for."""
    why: str
    """Where the kernels come from, or why some are missing."""
    library: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields as a JSON object, with the devices that each op has a kernel for."""
        devices = {device: registry.compiled(device) for device in ("cpu", "cuda")}
        by_op = {
            name: [device for device, found in devices.items() if name in found]
            for name in registry.names()
        }
        return {**asdict(self), "ops": by_op}

    def line(self) -> str:
        """One line for people."""
        cuda = f"CUDA for sm_{', sm_'.join(self.archs)}" if self.cuda_kernels else "no CUDA kernels"
        return f"ops: {self.backend} ({cuda}): {self.why}"


def mode() -> str:
    """GROWSTAGE_OPS: ``auto`` (load, or build once), ``off`` (reference), ``require`` (or fail)."""
    chosen = os.environ.get("GROWSTAGE_OPS", "auto")
    if chosen not in MODES:
        raise OpsUnavailableError(
            f"GROWSTAGE_OPS is {chosen!r}; allowed: {', '.join(MODES)}. Unset it for auto."
        )
    return chosen


@cache
def load() -> Status:
    """Load the library into this process, building it first if need be; once per process."""
    chosen = mode()
    if chosen == "off":
        return _status("switched off by GROWSTAGE_OPS=off")
    try:
        path = _library()
    except (BuildError, OSError) as error:
        status = _status(f"no compiled kernels: {error}")
    else:
        status = _status(*_loaded(path))
    if chosen == "require":
        _demand(status)
    return status


def rebuild() -> Status:
    """Build again if an earlier build failed, load, and say what is in use."""
    if mode() != "off" and load().library is None:
        try:
            build(toolchain(), again=True)
        except BuildError as error:
            return _status(f"no compiled kernels: {error}")
        load.cache_clear()
    return load()


def require() -> Status:
    """The status, or OpsUnavailableError if the kernels of this machine's devices are missing."""
    status = load()
    _demand(status)
    return status


def _demand(status: Status) -> None:
    cuda_missing = torch.cuda.is_available() and not status.cuda_kernels
    if status.backend == "compiled" and not cuda_missing:
        return
    missing = "CUDA kernels" if status.backend == "compiled" else "kernels"
    raise OpsUnavailableError(
        f"compiled {missing} are demanded and not in use: {status.why}. Install a C++ compiler "
        "(and nvcc for a GPU), see `growstage ops`, or stop demanding them"
    )


def _library() -> Path:
    try:
        ready = packaged()
    except BuildError as misfit:
        try:
            return _own()
        except BuildError as error:
            raise BuildError(f"{error}; {misfit}") from error
    return ready or _own()


def _own() -> Path:
    """What was or is built on this machine."""
    tools = toolchain()
    ready = built(tools)
    if ready:
        return ready
    return build(tools, again=False)


def _loaded(path: Path) -> tuple[str, Path | None, tuple[str, ...]]:
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"no compiled kernels: {path} does not load: {error}", None, ()
    info = json.loads((path.parent / "build.json").read_text())
    return f"loaded {path}", path, tuple(info["architectures"])


def _status(why: str, path: Path | None = None, archs: tuple[str, ...] = ()) -> Status:
    status = Status(
        backend=registry.backend("cpu"),
        cpu_kernels=registry.backend("cpu") == "compiled",
        cuda_kernels=registry.backend("cuda") == "compiled",
        archs=archs,
        why=why,
        library=None if path is None else str(path),
    )
    if status.cpu_kernels and not status.cuda_kernels:
        return replace(status, why=f"{why}; CUDA kernels left out: {_why_no_cuda()}")
    return status


def _why_no_cuda() -> str:
    if os.environ.get("GROWSTAGE_OPS_CUDA") == "off":
        return "GROWSTAGE_OPS_CUDA=off"
    return "this torch has no CUDA" if torch.version.cuda is None else "no nvcc found"
