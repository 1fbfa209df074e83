"""The model as it was trained: what other policies are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workers.inference.base import Forward, InferencePolicy


class Plain(InferencePolicy):
    """The model as it was trained, the baseline of every comparison."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(InferencePolicy.Config):
        """No settings."""

        kind: str = "plain"

    def answer(self, forward: Forward, x: Tensor) -> Tensor:
        return forward(x)
