"""A run as Python sees it: lanes, tables as pandas data frames, models, the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.report.history import RunHistory
from orchestrator.report.runs import Run as _Run
from orchestrator.report.runs import State as State
from orchestrator.report.runs import open_run

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


@dataclass(frozen=True)
class Lane:
    """One pass over the stream: one method, one seed."""

    name: str
    variant: str
    """The name without the seed: lanes that differ by their seed alone share it."""
    method: str
    seed: int
    status: str
    """``waiting``, ``running``, ``done``, ``failed`` or ``interrupted``."""
    tasks: tuple[str, ...]
    told: Mapping[str, Any]
    """All that ``growstage show --json`` says of it."""

    @property
    def metrics(self) -> dict[str, float]:
        """Metric -> value after the stages learnt so far."""
        return dict(self.told["metrics"])

    @property
    def matrix(self) -> pd.DataFrame:
        """Score on the test part of each task (column) after each stage (row; -1 = its first
        model); missing where it was not measured yet."""
        import pandas as pd

        rows = dict(enumerate(self.told["matrix"]))
        if self.told["initial"]:
            rows = {-1: self.told["initial"], **rows}
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(self.tasks), dtype=float)
        return frame.rename_axis(index="stage", columns="task")


@dataclass(frozen=True)
class Run:
    """A run, as it was when it was loaded; ``growstage.load`` reads it anew."""

    place: str
    """Its folder: path or URI."""
    id: str
    name: str
    state: State
    """``running``, ``done``, ``failed``, ``interrupted``, or ``killed``: no driver is alive."""
    _run: _Run

    @property
    def _history(self) -> RunHistory:
        return self._run.history

    @cached_property
    def lanes(self) -> dict[str, Lane]:
        """Its lanes by name, in the order of the stream file."""
        lanes = {}
        for lane in self._history.lanes.values():
            told = self._history.lane_json(lane)
            lanes[lane.name] = Lane(
                name=lane.name,
                variant=lane.label,
                method=lane.method,
                seed=lane.seed,
                status=told["status"],
                tasks=tuple(lane.tasks),
                told=told,
            )
        return lanes

    @property
    def matrix(self) -> pd.DataFrame:
        """Matrices of all lanes: rows (lane, stage), a column a task."""
        import pandas as pd

        frames = {name: lane.matrix for name, lane in self.lanes.items()}
        return pd.concat(frames, names=["lane"]) if frames else pd.DataFrame()

    @property
    def metrics(self) -> pd.DataFrame:
        """A row a lane: variant, method, seed, status, every metric, and what it took."""
        import pandas as pd

        from orchestrator.report.summary import costs

        rows = {
            lane.name: {
                "variant": lane.variant,
                "method": lane.method,
                "seed": lane.seed,
                "status": lane.status,
                **lane.metrics,
                **costs(self._history.lanes[lane.name]),
            }
            for lane in self.lanes.values()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("lane")

    @property
    def values(self) -> pd.DataFrame:
        """Every value as one long table: the columns of ``results.csv``."""
        import pandas as pd

        from orchestrator.report.tables import Value, values

        frame = pd.DataFrame(values([self._history]), columns=list(Value._fields))
        return frame.astype({"stage": "Int64"})

    @property
    def edits(self) -> pd.DataFrame:
        """A row for each change to a model: where, what, why, and what came of it."""
        import pandas as pd

        columns = ("lane", "stage", "task", "after_interval", "kind", "text", "policy", "trigger")
        sizes = ("parameters_before", "parameters_after", "output_change", "fingerprint")
        rows = [
            (
                *(lane.name, stage["index"], stage["task"], edit["after_interval"]),
                *(edit["kind"], edit["text"], edit["cause"]["policy"], edit["cause"]["trigger"]),
                *(edit["before"]["parameters"], edit["after"]["parameters"]),
                *(edit["probe_change"], edit["fingerprint"]),
            )
            for lane in self.lanes.values()
            for stage in lane.told["stages"]
            for edit in stage["edits"]
        ]
        return pd.DataFrame(rows, columns=[*columns, *sizes])

    def model(self, lane: str | None = None, stage: int | None = None) -> nn.Module:
        """The model of a lane after a stage, in evaluation mode, on the GPU where there is one.

        Inputs [B, ...] -> outputs [B, ...]; by default of the first lane that has a finished stage,
        after its last one. Where the lane's method answers itself (as iCaRL does), it answers.
        Raises InputError where there is no such stage, or its checkpoint is missing.
        """
        from orchestrator.report import checkpoints
        from workers import trainers

        found = checkpoints.find(self.place, lane, stage)
        model: nn.Module = trainers.predictor(found.lane.spec(), found.checkpoint).model
        return model

    def report(self, out: str | Path | None = None) -> Path:
        """Write the run's HTML page and return where it lies (default: in the run's folder)."""
        from orchestrator.report.outputs import write_page

        path = self._run.path / "report.html" if out is None else Path(out)
        write_page([self.place], path)
        return path

    def __repr__(self) -> str:
        done = sum(lane.status == "done" for lane in self.lanes.values())
        return f"<growstage.Run {self.id}: {self.state}, {done} of {len(self.lanes)} lanes done>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the state, and the metrics as a table."""
        from html import escape

        return f"<p>{escape(repr(self))}</p>{self.metrics.to_html()}"


def load(run_dir: str | Path) -> Run:
    """The run in a folder (path or URI), whatever state it is in.

    Raises InputError where no run's journal is there.
    """
    found = open_run(run_dir)
    started = found.started
    return Run(found.place, started.run_id, started.name, found.state, found)
