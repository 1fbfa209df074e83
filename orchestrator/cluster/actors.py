"""What runs in the worker processes: thin shells around trainers and evaluators.

Knows no Ray: an executor makes actors of them, a test calls them in-process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.core.actions import ApplyEdit, Command, RunInterval, SaveCheckpoint, StartStage
from workers.contract import (
    CheckpointRef,
    EvaluationReport,
    LaneSpec,
    OpenReport,
    Taken,
    TaskSpec,
    Trainer,
)

LOOPBACK = "127.0.0.1"


class LaneWorker:
    """Actor shell around a lane's Trainer: numbers commands and remembers its last answer.

    Serves one lane after another, each with a trainer of its own.
    """

    def __init__(self, trainer: str, own_address: Callable[[], str] = lambda: LOOPBACK) -> None:
        """``own_address``: finds the address under which other workers reach this machine."""
        from workers.trainers import make_trainer

        self.kind, self.own_address = trainer, own_address
        self.trainer: Trainer = make_trainer(trainer)
        self.last: tuple[int, Any] = (0, None)
        self.meeting: Any = None

    def meet(self) -> str:
        """Open the place where the lane's other workers find this one; returns its address."""
        from workers.supervised.data_parallel import Meeting

        self.meeting = Meeting(self.own_address())
        return str(self.meeting.address)

    def open(
        self,
        spec: LaneSpec,
        checkpoint: CheckpointRef | None,
        rank: int = 0,
        address: str | None = None,
        taken: Taken | None = None,
    ) -> OpenReport:
        """Build or restore the lane; with an ``address``, as one of several workers.

        ``taken``: the stage whose checkpoint another lane wrote.
        """
        if address is not None:
            from workers.machine import pick_device
            from workers.supervised.data_parallel import join
            from workers.trainers import make_trainer

            device, host = pick_device(), self.own_address()
            group = join(rank, spec.workers, address, host, device, self.meeting)
            self.trainer = make_trainer(self.kind, group)
        report = self.trainer.open(spec, checkpoint, taken)
        self.last = (report.seq, None)
        return report

    def execute(self, command: Command, folder: str) -> Any:
        """Execute a command, or repeat the answer where it was the last one executed."""
        if command.seq != self.last[0]:
            self.last = (command.seq, PERFORM[type(command)](self.trainer, command, folder))
        return self.last[1]

    def close(self) -> None:
        """End the lane; a fresh trainer, without anything of it, waits for the next one."""
        from workers.trainers import make_trainer

        self.trainer.close()
        self.trainer = make_trainer(self.kind)


class EvaluationWorker:
    """Ray actor that holds one Evaluator of a kind of trainer and scores checkpoints with it.

    Reserves ``resources.evaluator_cpus`` and ``evaluator_gpus``; may be lost at any time.
    """

    def __init__(self, trainer: str) -> None:
        from workers.trainers import make_evaluator

        self.evaluator = make_evaluator(trainer)

    def evaluate(
        self, spec: LaneSpec, checkpoint: CheckpointRef, tasks: tuple[TaskSpec, ...]
    ) -> EvaluationReport:
        return self.evaluator.evaluate(spec, checkpoint, tasks)


PERFORM: Mapping[type, Callable[[Trainer, Any, str], Any]] = {
    StartStage: lambda trainer, command, folder: trainer.start(command.stage),
    RunInterval: lambda trainer, command, folder: trainer.run_interval(command.n, command.revision),
    ApplyEdit: lambda trainer, command, folder: trainer.apply(command.edit),
    SaveCheckpoint: lambda trainer, command, folder: trainer.save(
        f"{folder}/{command.name}", command.seq
    ),
}
