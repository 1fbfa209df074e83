"""``start``: the checkpoint of another run that a lane begins with, found and looked at before
anything is spent.

``start = "FOLDER"`` names a checkpoint, ``start = { run = "runs/x", lane = "base-s0", stage = 0 }``
what a run's lane had learnt by a stage (the last complete one where it is left out). ``{seed}`` in
names stands for the lane's seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.core.controller import fold
from orchestrator.core.folder import open_folder
from orchestrator.core.journal import JOURNAL_FILE, consistent, read
from orchestrator.core.plans import LanePlan
from orchestrator.core.state import RunState, StageEnd
from workers import trainers
from workers.contract import CheckpointRef, InputError, Start, WithExperts
from workers.parsing import parse
from workers.storage import is_remote, local_path
from workers.tables import Problem

if TYPE_CHECKING:
    from orchestrator.config.run import LaneConfig
    from workers.checkpoint import Checkpoint

ABSENT = "none"
"""A lane that begins untrained although the file says otherwise."""
SEED = "{seed}"
"""Stands for the lane's seed in names of folders and lanes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A start as a file names it."""

    checkpoint: str | None = None
    """Folder of a checkpoint, path or URI."""
    run: str | None = None
    """Folder of a run, path or URI."""
    lane: str | None = None
    """Lane of that run."""
    stage: int | None = None
    """Stage of that lane, from 0; None = the last complete one."""
    optimizer: bool = False
    """Whether the optimizer goes on too, instead of beginning anew."""

    def __post_init__(self) -> None:
        run = self.run is not None and self.lane is not None
        if run == (self.checkpoint is not None) or (not run and (self.run or self.lane)):
            raise ValueError("give either checkpoint, or run and lane")


class Starts:
    """Finds what ``start`` names, for all lanes of a file; each checkpoint is read once."""

    def __init__(self) -> None:
        self._runs: dict[str, RunState] = {}
        self._found: dict[str, CheckpointRef] = {}
        self._saved: dict[CheckpointRef, Checkpoint] = {}

    def begun(self, lane: LaneConfig, raw: Any, path: str) -> tuple[LaneConfig, list[Problem]]:
        """The lane with the start that ``raw`` names, and what is wrong with that."""
        if raw is None or raw == ABSENT:
            return lane, []
        if not trainers.TRAINERS[lane.trainer].starts:
            allowed = f"lanes of trainer {lane.trainer} begin with an untrained model: leave it out"
            return lane, [Problem(path, f"got {raw!r}", allowed)]
        named, problems = parse(
            Named, raw if isinstance(raw, Mapping) else {"checkpoint": raw}, path
        )
        if named is None:
            return lane, problems
        if named.optimizer and lane.sections["training"].fresh_optimizer:
            allowed = "training.fresh_optimizer begins it anew at each stage: leave one of them out"
            return lane, [Problem(f"{path}.optimizer", "got true", allowed)]
        try:
            return replace(lane, start=self._start(lane, named)), []
        except InputError as error:
            return lane, [problem_of(path, error)]

    def problems(self, lane: LaneConfig, path: str) -> list[Problem]:
        """Why the lane's model, widths settled, cannot begin with its start."""
        from workers.supervised import starting

        if lane.start is None:
            return []
        training = lane.sections["training"] if lane.start.optimizer else None
        saved = self._read(lane.start.checkpoint)
        try:
            starting.check(lane.sections["model"], lane.stream(), saved, training)
        except InputError as error:
            return [problem_of(path, error)]
        return []

    def _start(self, lane: LaneConfig, named: Named) -> Start:
        from workers.supervised import starting

        ref = self._of_run(named, lane.seed) if named.checkpoint is None else self._at(named, lane)
        saved = self._read(ref)
        if saved.state.get("trainer") != lane.trainer:
            raise InputError(
                f"checkpoint {ref.uri}: written by trainer {saved.state.get('trainer')!r}, the "
                f"lane's is {lane.trainer!r}; give a checkpoint of a lane of that trainer"
            )
        model, experts = lane.sections["model"], None
        if isinstance(model, WithExperts):
            layers = starting.shape(model, lane.stream(), saved).layers.values()
            experts = max((layer.born for layer in layers), default=1)
        return Start(checkpoint=ref, optimizer=named.optimizer, experts=experts)

    def _at(self, named: Named, lane: LaneConfig) -> CheckpointRef:
        """The checkpoint in a folder."""
        from workers.checkpoint import describe

        assert named.checkpoint is not None
        place = named.checkpoint.replace(SEED, str(lane.seed))
        place = place if is_remote(place) else str(local_path(place).expanduser().resolve())
        if place not in self._found:
            self._found[place] = describe(place)
        return self._found[place]

    def _of_run(self, named: Named, seed: int) -> CheckpointRef:
        """The checkpoint of a lane after a stage, as the run's journal has it."""
        assert named.run is not None
        assert named.lane is not None
        run, name = (text.replace(SEED, str(seed)) for text in (named.run, named.lane))
        return self.end_of(run, name, named.stage)[1].checkpoint

    def end_of(self, run: str, name: str, stage: int | None) -> tuple[LanePlan, StageEnd]:
        """A lane of another run, and how it stood after a stage (None = the last complete one).

        Raises InputError where there is none.
        """
        if run not in self._runs:
            journal = open_folder(run).path / JOURNAL_FILE
            with consistent(journal):
                self._runs[run] = fold(record for record, _ in read(journal))[0]
        lanes = self._runs[run].lanes
        if name not in lanes:
            raise InputError(f"{run} has no lane {name!r}; allowed: {', '.join(lanes)}")
        ends = lanes[name].ends
        wanted = max(ends, default=0) if stage is None else stage
        if wanted not in ends:
            complete = ", ".join(str(index) for index in sorted(ends) if index >= 0) or "none yet"
            raise InputError(
                f"lane {name} of {run}: stage {wanted} is not complete; complete stages: {complete}"
            )
        return lanes[name].plan, ends[wanted]

    def _read(self, ref: CheckpointRef) -> Checkpoint:
        from workers.checkpoint import read as read_checkpoint

        if ref not in self._saved:
            self._saved[ref] = read_checkpoint(ref)
        return self._saved[ref]


def problem_of(path: str, error: InputError) -> Problem:
    """The mistake that an error tells, at its place in the file."""
    what, _, cure = str(error).rpartition("; ")
    return Problem(path, what, cure)
