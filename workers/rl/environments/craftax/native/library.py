"""Builds and loads the compiled games, or says why they cannot be had.

The library is built like the kernels of the ops: on first use, into the same cache, and switched
off by the same GROWSTAGE_OPS=off. Its functions are plain C on memory of the caller.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ops.build import BuildError, Project, build, built, toolchain
from ops.library import OpsUnavailableError, mode

PROJECT = Project(
    library="libgrowstage_craftax.so",
    folder=Path(__file__).parent,
    # Sums and products are fused where XLA fuses them, which the sources write out; vectors never
    # cross the border of a library, so what their ABI is does not matter.
    options=("-ffp-contract=off", "-fno-math-errno", "-Wno-psabi"),
)


@dataclass(frozen=True, slots=True)
class Native:
    """The loaded library, or why there is none."""

    functions: ctypes.CDLL | None
    why: str


@cache
def load() -> Native:
    """Load the library into this process, building it first if need be; once per process."""
    if mode() == "off":
        return Native(None, "switched off by GROWSTAGE_OPS=off")
    try:
        tools = toolchain(PROJECT)
        path = built(tools) or build(tools, again=False)
        functions = ctypes.CDLL(str(path))
    except (BuildError, OSError) as error:
        return Native(None, f"no compiled games: {error}")
    return Native(functions, f"loaded {path}")


def require() -> ctypes.CDLL:
    """The library, or OpsUnavailableError that says why it cannot be had."""
    native = load()
    if native.functions is None:
        raise OpsUnavailableError(
            f"the native Craftax engine cannot be used: {native.why}. Install a C++ compiler, or "
            "choose engine = 'jax'"
        )
    return native.functions
