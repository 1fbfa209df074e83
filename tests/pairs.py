"""Workers that train one lane together, in processes of their own and without Ray."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from orchestrator.cluster.actors import LaneWorker
from orchestrator.cluster.agreement import agreed
from orchestrator.core.actions import Action, CloseLane, Evaluate, OpenLane
from tests.commands import FORKS
from tests.local import LocalExecutor
from workers.contract import RunError


class Pair:
    """So many processes (two, if nobody says otherwise), asked together over pipes."""

    def __init__(self, size: int = 2) -> None:
        self.size = size
        pipes = [FORKS.Pipe() for _ in range(size)]
        self.pipes = [ours for ours, _ in pipes]
        self.processes = [
            FORKS.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pipes
        ]
        for process, (_, theirs) in zip(self.processes, pipes, strict=True):
            process.start()
            theirs.close()

    def ask(self, name: str, *args: Any) -> list[Any]:
        """The same call to all; their answers by rank."""
        return self.each([(name, *args)] * self.size)

    def each(self, calls: list[Any]) -> list[Any]:
        """A call to each, made at once; raises the first error that one gave."""
        for pipe, call in zip(self.pipes, calls, strict=True):
            pipe.send(call)
        answers = [pipe.recv() for pipe in self.pipes]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def open(self, spec: Any, checkpoint: Any, taken: Any = None) -> list[Any]:
        """Have them meet, if they are several, and build the lane."""
        if self.size == 1:
            return self.ask("open", spec, checkpoint, 0, None, taken)
        self.pipes[0].send(("meet",))
        address = self.pipes[0].recv()
        return self.each(
            [("open", spec, checkpoint, rank, address, taken) for rank in range(self.size)]
        )

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """``function(group, *args)`` in each, with what ties it to the others."""
        self.pipes[0].send(("meet",))
        address = self.pipes[0].recv()
        return self.each(
            [("call", function, rank, self.size, address, *args) for rank in range(self.size)]
        )

    def close(self) -> None:
        """kill -9, whatever they are doing."""
        for process in self.processes:
            process.kill()
            process.join()


class _Worker(LaneWorker):
    """A lane worker that can also be asked to try its tie to the others."""

    def call(self, function: Any, rank: int, size: int, address: str, *args: Any) -> Any:
        import torch

        from workers.supervised.data_parallel import join

        device = torch.device("cpu")
        group = join(rank, size, address, self.own_address(), device, self.meeting)
        return function(group, *args)


def _serve(pipe: Connection) -> None:
    worker = _Worker("supervised")
    while True:
        name, *args = pipe.recv()
        try:
            pipe.send(getattr(worker, name)(*args))
        except RunError as error:
            pipe.send(error)
        except Exception as error:  # as text: not every exception survives a pipe
            pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


class PairExecutor(LocalExecutor):
    """Every lane is trained by so many processes as it wants; ``lose`` kills the last of them."""

    def __init__(self, folder: Path, lose: Callable[[Action], str | None]) -> None:
        super().__init__(folder, lose)
        self.groups: dict[str, Pair] = {}

    def _answer(self, action: Any) -> Any:
        if isinstance(action, Evaluate):
            return super()._answer(action)
        if isinstance(action, OpenLane):
            self._drop(action.spec.lane)
            group = self.groups[action.spec.lane] = Pair(action.spec.workers)
            answers = group.open(action.spec, action.checkpoint, action.taken)
        elif isinstance(action, CloseLane):
            answers = self.groups[action.lane].ask("close")
        else:
            answers = self.groups[action.lane].ask("execute", action, str(self.folder))
        return agreed(action, answers)

    def _lost(self, action: Any) -> None:
        self.groups[action.lane].processes[-1].kill()
        super()._lost(action)

    def _drop(self, lane: str) -> None:
        group = self.groups.pop(lane, None)
        if group is not None:
            group.close()

    def close(self) -> None:
        super().close()
        for lane in list(self.groups):
            self._drop(lane)
