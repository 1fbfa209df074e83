"""Stream files and plans for tests of searches."""

from __future__ import annotations

from typing import Any

OPTIONS: dict[str, Any] = {
    "objective": None,
    "num_samples": 2,
    "max_concurrent": 0,
    "scheduler": "asha",
    "search": "random",
    "grace": 2,
    "seed": 0,
}
"""Of a small search; what ``make_plan`` takes beside space, base and lane."""


def split_digits(name: str, *, hidden: int = 64, epochs: int = 12, training: str = "") -> str:
    """Split digits with replay, one lane; the defaults are quick and learn little."""
    return f"""
name = "{name}"
[stream]
kind = "split"
dataset = "digits"
[model]
head = {{ kind = "moe", hidden = [{hidden}] }}
[training]
epochs = {epochs}
intervals = 2
{training}
[[lanes]]
method = {{ kind = "replay", buffer = 100 }}
"""
