"""How runs and models of one journal are named and tagged, the same on every replay. Pure."""

from __future__ import annotations

from orchestrator.core.plans import TrialRef
from orchestrator.report.colours import lane_colours, trial_colour
from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory
from orchestrator.report.summary import settings_digest


class Labels:
    """Keys, tags and names from what the journal tells; there is nothing before it has begun."""

    def __init__(self, history: RunHistory) -> None:
        """``history``: of the run, which goes on."""
        self.history = history
        self._colours: dict[str, str] = {}
        """Of lanes, which a run has from its beginning."""
        self._digests: dict[str, str] = {}
        """Lane -> digest of what it is; every stage's run has it."""

    def key(self, lane: LaneHistory | None = None, index: int | None = None) -> str:
        """The run's, a lane's or a stage's key; a model has the key of the run that made it."""
        assert self.history.started is not None
        parts = [self.history.started.run_id]
        if lane is not None and self.trial is None:
            parts.append(lane.name)
        if index is not None:
            parts.append(f"{index:03d}")
        return "/".join(parts)

    @property
    def trial(self) -> TrialRef | None:
        """The trial this run is: it and its only lane are then shown as one."""
        return self.history.started.trial if self.history.started else None

    def run_tags(self, level: str) -> dict[str, str]:
        """Tags that all have in common: ``level`` is run, trial, lane, stage or model."""
        started = self.history.started
        assert started is not None
        trial: dict[str, str] = {}
        if started.trial is not None:
            trial = {
                "sweep": started.trial.sweep,
                "trial": started.trial.trial,
                "trial.attempt": str(started.trial.attempt),
                "trial.parent": started.trial.parent or "none",
            }
        return {
            **trial,
            "level": level,
            "stream": started.name,
            "git": started.code_version,
            "mlflow.source.git.commit": started.code_version,
            "modules": " ".join(f"{name}={sha}" for name, sha in started.modules.items()) or "none",
            "mlflow.source.name": "growstage",
            "mlflow.source.type": "PROJECT",
            "growstage.run": started.run_id,
            "config.digest": started.config_digest,
        }

    def lane_tags(self, lane: LaneHistory, level: str) -> dict[str, str]:
        """Tags of what belongs to a lane."""
        trial = self.trial
        colour = self._colour(lane) if trial is None else trial_colour(trial.trial, trial.attempt)
        settings = self.settings(lane)
        return {
            **self.run_tags(level),
            "lane": lane.name,
            "method": lane.method,
            "variant": lane.label,
            "settings": settings,
            "group": f"{lane.label} {settings[:8]}",
            "seed": str(lane.seed),
            "ops.backend": lane.backend,
            "mlflow.runColor": colour,
        }

    def settings(self, lane: LaneHistory) -> str:
        """What seeds are grouped by, beside the lane's name without its seed."""
        if lane.name not in self._digests:
            assert self.history.started is not None
            self._digests[lane.name] = settings_digest(lane, self.history.started.run_id)
        return self._digests[lane.name]

    def short(self, lane: LaneHistory) -> str:
        """What tells a stage's run from the same stage of other lanes."""
        return self.trial.name if self.trial is not None else f"{lane.label}·s{lane.seed}"

    def _colour(self, lane: LaneHistory) -> str:
        if not self._colours:
            lanes = self.history.lanes.values()
            self._colours = lane_colours([(one.label, one.name) for one in lanes])
        return self._colours[lane.name]
