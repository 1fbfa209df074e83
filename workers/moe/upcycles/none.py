"""No upcycling."""

from __future__ import annotations

from dataclasses import dataclass

from workers.moe.upcycles.base import Upcycle


class NoUpcycle(Upcycle):
    """The model is a mixture already and stays as it is."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Upcycle.Config):
        """No settings."""

        kind: str = "none"

    experts = 0
    k = 0
