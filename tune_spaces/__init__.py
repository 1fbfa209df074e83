"""What to search: named spaces, and the trainable that runs a whole stream as a trial."""

from tune_spaces.spaces import SPACES

__all__ = ["SPACES"]
