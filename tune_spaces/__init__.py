"""What to search: named spaces, and the trainable that runs a whole stream as a trial."""

from tune_spaces.growth import Growth
from tune_spaces.masks import Masks
from tune_spaces.ppo import PPO
from tune_spaces.schedule import Schedule

SPACES: dict[str, type] = {"growth": Growth, "masks": Masks, "schedule": Schedule, "ppo": PPO}
"""Spaces by name; each class's first docstring line is shown by ``--help``."""
