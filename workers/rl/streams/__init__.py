"""Streams of environments by kind."""

from workers.rl.streams.base import EnvironmentStream
from workers.rl.streams.craftax import CraftaxStream
from workers.rl.streams.environments import Environments

STREAM: dict[str, type] = {"craftax": CraftaxStream, "environments": Environments}

__all__ = ["STREAM", "CraftaxStream", "EnvironmentStream", "Environments"]
