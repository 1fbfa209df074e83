"""Activation checkpointing: blocks of a model run again in the backward pass instead of keeping
what they computed.

Chen et al., arXiv 1604.06174. The second pass only gives back what the first one computed: it
counts no token, adds no loss and moves no running statistic. Knows no loop and no data.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workers.models.base import Model
from workers.moe.routed import Record, RoutedLayer


def recompute_blocks(model: Model) -> None:
    """Have the model's blocks keep their inputs only, in training forwards.

    A block's class is replaced by a subclass of it, so that names of parameters, copies of the
    model and ``isinstance`` stay as they are.
    """
    assert model.has_blocks, type(model)
    for block in model.blocks:
        own: Any = type(block)
        block.__class__ = _recomputed(own)


class _Recomputed:
    """Put before a block's class: its forward runs under a checkpoint."""

    training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        run = super().forward  # type: ignore[misc]
        if not (self.training and torch.is_grad_enabled()):
            return run(*args, **kwargs)
        return checkpoint(
            run, *args, use_reentrant=False, context_fn=lambda: _passes(self), **kwargs
        )


@cache
def _recomputed(cls: type) -> type:
    return cls if issubclass(cls, _Recomputed) else type(cls.__name__, (_Recomputed, cls), {})


def _passes(block: Any) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """What the block's first pass and its repetition run in."""
    return nullcontext(), _Repetition(block)


class _Repetition:
    """Inside, the block is as it was before its first pass, and nothing it tells is kept."""

    def __init__(self, block: nn.Module) -> None:
        """Made when the first pass begins."""
        self._block = block
        self._before = [(part, name, buffer.clone()) for part, name, buffer in _kept_buffers(block)]
        self._layers = [part for part in block.modules() if isinstance(part, RoutedLayer)]
        self._below = [layer.walk.state for layer in self._layers[:1]]

    def __enter__(self) -> None:
        self._after = [(part, name, part._buffers[name]) for part, name, _ in self._before]
        for part, name, buffer in self._before:
            part._buffers[name] = buffer.clone()
        self._records: list[tuple[RoutedLayer, Record]] = []
        self._walks = [(layer.walk, layer.walk.state) for layer in self._layers]
        for layer in self._layers:
            self._records.append((layer, layer.record))
            layer.record = layer.record.blank()
        for layer, below in zip(self._layers, self._below, strict=False):
            layer.walk.state = below

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for layer, record in self._records:
            layer.record = record
        for walk, state in self._walks:
            walk.state = state
        for part, name, buffer in self._after:
            part._buffers[name] = buffer


def _kept_buffers(block: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Buffers that travel with the model, as a training forward may move them."""
    return [
        (part, name, buffer)
        for part in block.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None and name not in part._non_persistent_buffers_set
    ]
