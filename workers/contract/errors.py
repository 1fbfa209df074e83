"""The errors a run can end with."""

from __future__ import annotations


class RunError(Exception):
    """Base of the errors a run can end with; pickles with its arguments."""


class InputError(RunError):
    """The user's input is wrong: says what, where, what is allowed and the cure (exit code 2)."""


class CheckpointError(InputError):
    """A checkpoint is not there any more, or not as it was written: an older one has to do."""


class LostError(RunError):
    """A process that the work needs is gone: a new worker starts from the last checkpoint."""


class DivergedError(RunError):
    """Replicas, or a rerun, disagree on what must be equal: training must stop."""
