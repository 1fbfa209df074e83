"""Keeps torch's compiler out of a process that compiles nothing.

Torch marks parts of itself (optimizers, meta kernels written in Python) as not to be compiled, and
imports its compiler, which takes as long as torch, at the first call of each to say so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


@contextmanager
def no_compiler() -> Iterator[None]:
    """Within it, marking costs nothing; after it, everything is as it was.

    Does nothing where the compiler was imported already. Nothing may be compiled within.
    """
    if NAME in sys.modules:
        yield
        return
    marked: list[Any] = []

    def disable(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
        marked.append(fn)
        return fn

    stand_in = ModuleType(NAME)
    stand_in.disable, stand_in.graph_break = disable, lambda: None  # type: ignore[attr-defined]
    sys.modules[NAME] = stand_in
    try:
        yield
    finally:
        del sys.modules[NAME]
        for fn in marked:  # where torch keeps what it was given, so that it will ask again
            fn.__dict__.pop("__dynamo_disable", None)
