"""Search spaces by name: which keys of a stream file vary, and between what."""

from tune_spaces.spaces.growth import Growth
from tune_spaces.spaces.masks import Masks
from tune_spaces.spaces.ppo import PPO
from tune_spaces.spaces.schedule import Schedule

SPACES: dict[str, type] = {"growth": Growth, "masks": Masks, "schedule": Schedule, "ppo": PPO}
"""Spaces by name; each class's first docstring line is shown by ``--help``."""
