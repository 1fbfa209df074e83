"""Stream files for tests of searches."""

from __future__ import annotations


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
