"""One reinforcement-learning lane on one machine: stages, intervals, edits and checkpoints.

The Algorithm is built once per lane. A stage points its runners at another task, an edit changes
its model in place, a checkpoint is our own format (named tensors and JSON), never RLlib's.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from ray.exceptions import RayError

from workers import checkpoint as checkpoints
from workers.contract import (
    CheckpointRef,
    DivergedError,
    EditReport,
    IntervalReport,
    LaneSpec,
    LostError,
    OpenReport,
    StageSpec,
    StartReport,
    Taken,
    derive_seed,
    digest,
    domains_of,
)
from workers.edits import Edit
from workers.machine import pick_device, resident_mb
from workers.parsing import checked, parse
from workers.rl import TRAININGS
from workers.rl.algorithm import GrowablePPO, Update, build
from workers.rl.building import build_stream
from workers.rl.environments.base import ACHIEVEMENT, summary
from workers.rl.learner import LearnerState, UpdateSettings
from workers.rl.runner import Setting
from workers.rl.signals import signals
from workers.trainers import kernels

PATIENCE = 120.0
"""Seconds without a single environment step before the runners count as dead."""


class RLTrainer:
    """Trainer of one lane by RLlib's PPO (workers.contract.Trainer)."""

    def __init__(self) -> None:
        self._algorithm: GrowablePPO | None = None
        self._stage: StageSpec | None = None
        self._steps = 0
        """Environment steps since the stage began."""
        self._lifetime = 0
        """Environment steps of the whole lane."""

    # ------------------------------------------------------------ the lane

    def open(
        self, lane: LaneSpec, checkpoint: CheckpointRef | None, taken: Taken | None = None
    ) -> OpenReport:
        """Build the Algorithm and, from a checkpoint, restore model, optimizer and counters."""
        assert taken is None, "lanes whose reruns differ share no stage"
        torch.set_num_threads(lane.threads)
        torch.manual_seed(lane.seed)
        _, self._training = checked(TRAININGS, lane.settings["training"])
        self._stream = build_stream(lane.settings["stream"], lane.seed)
        self._lane = lane
        saved = checkpoints.read_of(checkpoint, lane) if checkpoint is not None else None
        self._algorithm = build(lane, self._training)
        if saved is not None:
            self._restore(saved)
        return OpenReport(
            shape=self._open_algorithm.ask(lambda learner: learner.shape()),
            seq=checkpoint.seq if checkpoint is not None else 0,
            backend=kernels(lane, pick_device().type),
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    def start(self, stage: StageSpec) -> StartReport:
        """Set the stage of runners and learners; an environment is built only where it differs."""
        self._stage, self._steps = stage, 0
        self._begin(stage)
        settings = stage.task.settings
        return StartReport(
            source=f"{settings['environment']} as task {stage.task.name}",
            data_digest=digest(settings),
            samples=None,
            fields={
                "environment": settings["environment"],
                "largest_return": f"{self._stream.largest_return(stage.task):g}",
                "smallest_return": f"{self._stream.smallest_return(stage.task):g}",
                **self._stream.recorded(stage.task),
            },
        )

    def run_interval(self, n: int, revision: int = 0) -> IntervalReport:
        """Train for one interval (steps_per_stage / intervals environment steps).

        Raises DivergedError where a learner has not taken exactly the edits up to ``revision``, or
        where learners and runners do not hold the same model.
        """
        assert self._stage is not None, "start a stage before its intervals"
        begun = time.perf_counter()
        algorithm = self._open_algorithm
        algorithm.check_revision(revision)
        algorithm.align()
        algorithm.reseed(derive_seed(self._stage.seed, "interval", n))
        algorithm.take_figures()  # start counting anew
        updates: list[Update] = []
        wanted = self._training.updates_per_interval * self._training.batch
        total = self._stage.intervals * wanted
        while sum(update.steps for update in updates) < wanted:
            progress = self._steps / total
            made_with = UpdateSettings(lr=self._training.lr_at(progress), progress=progress)
            updates.append(self._update(algorithm, made_with))
            self._steps += updates[-1].steps
            self._lifetime += updates[-1].steps
        gates, (counts, tokens), sums, losses = algorithm.take_figures()
        metrics = self._metrics(updates) | losses
        return IntervalReport(
            counts=counts,
            tokens=tokens,
            sums=sums,
            revision=revision,
            stage=self._stage.id,
            n=n,
            steps=self._steps,
            metrics=metrics,
            gate_weights=gates,
            signals=signals(metrics),
            seconds=time.perf_counter() - begun,
            rss_mb=resident_mb(),
        )

    def apply(self, edit: Edit) -> EditReport:
        """Apply an edit in all learners and runners; raises DivergedError where two disagree."""
        begun = time.perf_counter()
        reports = self._open_algorithm.apply_edit(edit)
        fingerprints = {report.fingerprint for report in reports}
        if len(fingerprints) != 1:
            raise DivergedError(f"learners disagree after edit {edit.id}: {sorted(fingerprints)}")
        return replace(reports[0], seconds=time.perf_counter() - begun)

    def save(self, uri: str, seq: int) -> CheckpointRef:
        """Write model, optimizer and counters; running episodes are not kept."""
        state = self._open_algorithm.export()
        return checkpoints.write(
            uri,
            {"model": state.model, "optimizer": state.optimizer, "method": state.method},
            {
                "trainer": self._lane.trainer,
                "settings_digest": self._lane.built_from,
                "arch": state.architecture,
                "frozen": list(state.frozen),
                "kl_coefficient": state.kl_coefficient,
                "lr": state.lr,
                "revision": state.revision,
                "stage": asdict(self._stage) if self._stage is not None else None,
                "steps": self._steps,
                "lifetime": self._lifetime,
            },
            seq=seq,
            stage=self._stage.id if self._stage is not None else None,
        )

    def close(self) -> None:
        """Stop runners and learners."""
        if self._algorithm is not None:
            self._algorithm.stop()
            self._algorithm = None

    # ------------------------------------------------------------ parts

    @property
    def _open_algorithm(self) -> GrowablePPO:
        assert self._algorithm is not None, "open the lane first"
        return self._algorithm

    def _begin(self, stage: StageSpec) -> None:
        """Set task, stage and domains; seeds derive from the stage and its steps so far."""
        seed = derive_seed(stage.seed, "worlds", self._steps)
        self._open_algorithm.point_at(Setting(stage.task, seed))
        self._open_algorithm.begin_stage(stage, domains_of(self._stream.tasks()))

    def _restore(self, saved: checkpoints.Checkpoint) -> None:
        """Restore all but running episodes; a stage left half-way goes on in new ones."""
        state = saved.state
        self._open_algorithm.restore_learners(
            LearnerState(
                model=saved.tensors["model"],
                optimizer=saved.tensors["optimizer"],
                architecture=state["arch"],
                frozen=tuple(state["frozen"]),
                kl_coefficient=state["kl_coefficient"],
                lr=state["lr"],
                method=saved.tensors["method"],
                revision=state["revision"],
            )
        )
        self._steps, self._lifetime = state["steps"], state["lifetime"]
        if state["stage"] is not None:
            stage, problems = parse(StageSpec, state["stage"], "stage")
            assert not problems, [str(problem) for problem in problems]
            self._stage = stage
            self._begin(stage)

    def _update(self, algorithm: GrowablePPO, made_with: UpdateSettings) -> Update:
        """One update; waits up to PATIENCE seconds for runners to restart.

        Raises LostError where none does, or where a learner is gone.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                update = algorithm.update(made_with)
            except (RayError, RuntimeError):
                algorithm.check_learners()
                raise
            if update.steps:
                return update
            if time.monotonic() > deadline:
                raise LostError(
                    f"no environment runner gave a single step in {PATIENCE:.0f} s: all are dead; "
                    "see Ray's log of the environment runners"
                )
            time.sleep(1.0)

    def _metrics(self, updates: Sequence[Update]) -> dict[str, float]:
        """Means over the episodes that ended in the interval, and over its updates."""
        assert self._stage is not None
        names = updates[-1].metrics
        figures = {
            ours: sum(update.metrics[theirs] for update in updates) / len(updates)
            for ours, theirs in _LEARNER_METRICS.items()
            if theirs in names
        }
        episodes = [episode for update in updates for episode in update.episodes]
        task = self._stage.task
        ends = self._stream.largest_return(task), self._stream.smallest_return(task)
        return {
            **{
                name: value
                for name, value in summary(episodes, *ends).items()
                if not name.startswith(ACHIEVEMENT)
            },
            **figures,
            "lifetime_steps": float(self._lifetime),
        }


_LEARNER_METRICS = {
    "loss": "total_loss",
    "policy_loss": "policy_loss",
    "value_loss": "vf_loss",
    "explained_variance": "vf_explained_var",
    "entropy": "entropy",
    "kl": "mean_kl_loss",
    "kl_coefficient": "curr_kl_coeff",
    "gradient_norm": "gradient_norm",
    "clipped": "clipped",
    "skipped": "skipped",
    "lr": "lr",
}
