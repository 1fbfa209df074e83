"""Where faults are injected: a cluster, runs of small lanes, and what must come of them.

``Lab`` starts runs and knows what each comes to where nobody disturbs it; ``Trial`` is one run that
a fault disturbs. What is looked at in the end is the journal, the checkpoints, MLflow's store and
the processes that are left.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from orchestrator.core.events import IntervalDone, LaneOpened, WorkFailed
from orchestrator.core.journal import JOURNAL_FILE
from orchestrator.report.history import RunHistory
from tests.commands import Command
from tests.tokens import write_texts
from tests.watched import Watched
from workers.streams import places

MARK = "GROWSTAGE_CHAOS_MARK"
"""Variable that every process of a trial has in its environment."""
ENDS_S, GONE_S = 240.0, 30.0
"""Seconds in which a command ends, and in which its processes are gone after that."""
WORKER = "ray::LaneWorker", "ray::EvaluationWorker"
"""Beginnings of the titles that Ray gives to our actors."""
TIMED = ("time/", "system/")
"""Metrics of how long and how large: no two runs have the same."""
_RUN = 2
"""Parts of a row that tells of a run's status."""
FAILURES = "failures"
"""Metric of what went wrong: the journal says what it must show."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What is disturbed: three stages of six intervals, and an expert more at each."""

    file: str
    exact: bool = True
    """Whether a lane that is killed and resumed ends with the same bits; one of agents begins new
    episodes and has only the same edits and steps."""


_TOP = """
name = "chaos"
checkpoint_every = 3
[policies.growth]
kind = "periodic"
"""
_DIGITS = """
[stream]
kind = "permuted"
dataset = "digits"
tasks = 3
[model]
head = { kind = "moe", hidden = [24] }
[training]
epochs = 12
intervals = 6
optimizer = { kind = "adamw", lr = 2e-3 }
"""
_TEXTS = """
[stream]
kind = "text"
path = "TEXTS"
domains = ["cooking", "sailing", "bridges"]
window = 16
train_tokens = 1_600
validation_tokens = 160
test_tokens = 320
tokenizer = { kind = "bpe", vocabulary = 300 }
[model]
kind = "decoder"
width = 16
depth = 2
heads = 2
[training]
epochs = 6
intervals = 6
batch = 10
optimizer = { kind = "adamw", lr = 1e-2 }
[[lanes]]
"""
_AGENT = """
[stream]
kind = "craftax"
environment = "Craftax-Classic-Symbolic-v1"
tasks = [
    { name = "wood", achievements = ["collect_wood"] },
    { name = "water", achievements = ["collect_drink"] },
    { name = "all" },
]
[model]
kind = "actor_critic"
encoder = 16
hidden = [16]
layer = { selector = { kind = "topk", k = 1, weights = "full" } }
[training]
kind = "ppo"
num_envs = 8
rollout = 16
minibatches = 4
steps_per_stage = 768
intervals = 6
eval_episodes = 4
eval_max_steps = 20
[[lanes]]
"""
STREAMS: dict[str, Stream] = {
    "digits": Stream(_TOP + _DIGITS + '[[lanes]]\nmethod = { kind = "replay", buffer = 100 }\n'),
    "two workers": Stream(_TOP + _DIGITS + "[[lanes]]\nworkers = 2\n"),
    "texts": Stream(_TOP + _TEXTS),
    "agent": Stream(_TOP + _AGENT, exact=False),
}
"""By name."""


class Lost(AssertionError):  # noqa: N818  (an outcome)
    """Something that was decided or trained is not there, or has other bits."""


class Repeated(AssertionError):  # noqa: N818  (an outcome)
    """Something is there twice."""


@dataclass(slots=True)
class Trial:
    """One run that is disturbed, in a folder of its own."""

    lab: Lab
    stream: str
    folder: Path
    random: Random
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    injected: float = 0.0
    """Moment at which the fault came."""

    @property
    def run_dir(self) -> Path:
        return self.folder / "runs" / "one"

    @property
    def journal(self) -> Path:
        return self.run_dir / JOURNAL_FILE

    def start(self, *more: object, own_ray: bool = False, verb: str = "run", **env: str) -> Command:
        """The command under way: on the lab's cluster, or with a Ray of its own."""
        config = self.folder / "chaos.toml"
        config.write_text(STREAMS[self.stream].file.replace("TEXTS", str(self.lab.texts)))
        known = {places.ENVIRONMENT: str(self.lab.folder / "data")}
        if not own_ray:
            known["RAY_ADDRESS"] = self.lab.address
        named = (config, "--run-dir", self.run_dir) if verb == "run" else (self.run_dir,)
        return Command("orchestrator", verb, *named, *more, env={MARK: self.mark, **known, **env})

    def resume(self, *more: object, own_ray: bool = False, **env: str) -> Command:
        return self.start(*more, own_ray=own_ray, verb="resume", **env)

    # ------------------------------------------------------------ moments

    def records(self) -> list[Any]:
        """What the journal says so far."""
        return Watched(self.run_dir).read()

    def lines(self) -> int:
        return self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0

    def somewhere(self, command: Command, first: int = 2, last: int = 3) -> None:
        """Wait until the run has come to a random place: after record ``first``, and at least
        ``last`` records before its end."""
        place = self.random.randint(first, self.lab.whole[self.stream].records - last)
        command.until(lambda: self.lines() >= place)
        time.sleep(self.random.uniform(0.0, 0.05))

    def opened(self, command: Command) -> Any:
        """What the lane's worker told when it stood ready, last."""
        events = [record.event for record in self.records()]
        return [event.report for event in events if isinstance(event, LaneOpened)][-1]

    def now(self) -> None:
        """The fault comes now."""
        self.injected = time.monotonic()

    # ------------------------------------------------------------ processes

    def processes(self, name: str = "") -> list[int]:
        """Processes of this trial whose command line holds ``name``: those that its commands
        started, and its workers on the lab's cluster, which serves one trial at a time."""
        actors = [pid for pid in _descendants(os.getpid()) if _command_line(pid).startswith(WORKER)]
        own = [pid for pid in _pids() if self._mine(pid)]
        return [pid for pid in {*actors, *own} if name in _command_line(pid) and _alive(pid)]

    def _mine(self, pid: int) -> bool:
        with suppress(OSError):
            return f"{MARK}={self.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        return False

    def gone(self) -> None:
        """Raises AssertionError where processes of the trial stay; they are ended then."""
        deadline = time.monotonic() + GONE_S
        while left := self.processes():
            if time.monotonic() > deadline:
                told = [f"{pid} {_command_line(pid)[:120]}" for pid in left]
                for pid in left:
                    with suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"processes are left behind: {told}")
            time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Whole:
    """What a run comes to that nobody disturbs."""

    records: int
    essence: Any
    rows: Counter[Any]


class Lab:
    """A folder, a cluster for all runs, and what undisturbed runs come to."""

    def __init__(self, folder: Path, address: str, store: Path) -> None:
        """``store``: an empty MLflow store's file, which takes seconds to make."""
        self.folder, self.address, self.store = folder, address, store
        self.texts = write_texts(folder / "texts")
        self.whole: dict[str, Whole] = {}
        self.last = ""
        """Stream of the last trial."""

    @contextmanager
    def trial(self, stream: str, random: Random) -> Iterator[Trial]:
        """A run to disturb; its folder is deleted after it."""
        self.last = stream
        if stream not in self.whole:
            self.whole[stream] = self._undisturbed(stream)
        with self._folder(stream, random) as trial:
            yield trial

    @contextmanager
    def _folder(self, stream: str, random: Random) -> Iterator[Trial]:
        folder = self.folder / uuid.uuid4().hex[:8]
        (folder / "runs").mkdir(parents=True)
        shutil.copy(self.store, folder / "runs" / "mlflow.db")
        try:
            yield Trial(self, stream, folder, random)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _undisturbed(self, stream: str) -> Whole:
        with self._folder(stream, Random(0)) as trial:
            trial.start().succeed(ENDS_S)
            return Whole(len(trial.records()), essence(trial), rows(trial))

    def check(self, trial: Trial, uri: str | None = None) -> None:
        """The run is what it would have been; raises Lost or Repeated."""
        whole = self.whole[trial.stream]
        found = essence(trial)
        if found != whole.essence:
            raise Lost(f"the run came to {found}, undisturbed to {whole.essence}")
        edits = Counter(edit.id for record in trial.records() for edit in record.edits)
        if twice := [name for name, count in edits.items() if count > 1]:
            raise Repeated(f"decided twice: {twice}")
        shown = rows(trial, uri)
        told = Counter({row: shown.pop(row) for row in list(shown) if row[1] == FAILURES})
        if told != (known := failures(trial)):
            raise Lost(f"MLflow shows the failures {dict(told)}, the journal {dict(known)}")
        if not STREAMS[trial.stream].exact:
            at, there = (Counter(row[:3] for row in one.elements()) for one in (whole.rows, shown))
            if twice := [row for row, count in there.items() if count > max(1, at[row])]:
                raise Repeated(f"MLflow has {len(twice)} rows too often, such as {twice[0]}")
            whole_rows = Counter(row for row in at if len(row) == _RUN)
            shown = Counter(row for row in there if len(row) == _RUN)
        else:
            whole_rows = whole.rows
        if missing := whole_rows - shown:
            raise Lost(f"MLflow lacks {len(missing)} rows, such as {next(iter(missing))}")
        if extra := shown - whole_rows:
            raise Repeated(f"MLflow has {len(extra)} rows more, such as {next(iter(extra))}")


def essence(trial: Trial) -> Any:
    """Everything that must not depend on what was disturbed."""
    from orchestrator.session import report_of

    told = report_of(trial.run_dir)
    if STREAMS[trial.stream].exact:
        lanes = [_bits(lane) for lane in told["lanes"]]
    else:
        lanes = [
            [[edit["kind"] for edit in one["edits"]] for one in lane["stages"]]
            for lane in told["lanes"]
        ]
        lanes.append(_steps(trial.records()))
    return {"status": told["status"], "lanes": lanes}


def _bits(lane: Any) -> Any:
    return {
        "matrix": lane["matrix"],
        "initial": lane["initial"],
        "checkpoints": [stage["checkpoint"]["digest"] for stage in lane["stages"]],
        "edits": [[edit["fingerprint"] for edit in stage["edits"]] for stage in lane["stages"]],
    }


def _steps(records: list[Any]) -> Any:
    """Steps that each interval had trained at its end, in its stage and in the whole lane."""
    told = [record.event.report for record in records if isinstance(record.event, IntervalDone)]
    return sorted({(r.stage, r.n): (r.steps, r.metrics["lifetime_steps"]) for r in told}.items())


def rows(trial: Trial, uri: str | None = None) -> Counter[Any]:
    """What MLflow's store shows: each run, with its status, and each row of a metric, as often as
    it is there; without names and times that no two runs share."""
    import mlflow

    client = mlflow.MlflowClient(uri or f"sqlite:///{trial.folder / 'runs' / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    run_id = trial.records()[0].event.run_id
    found: Counter[Any] = Counter()
    for run in client.search_runs(experiments, max_results=1000):
        key = run.data.tags["growstage.key"].replace(run_id, "RUN")
        found[(key, run.info.status)] += 1
        for name in run.data.metrics:
            if not name.startswith(TIMED):
                for one in client.get_metric_history(run.info.run_id, name):
                    found[(key, name, one.step, one.value)] += 1
    return found


def failures(trial: Trial) -> Counter[Any]:
    """The rows by which MLflow must show the failures of lanes that had opened."""
    history, found = RunHistory(), Counter[Any]()
    for record in trial.records():
        if history.add(record) and isinstance(record.event, WorkFailed):
            lane = history.lanes[record.event.lane]
            found[f"RUN/{lane.name}", FAILURES, lane.failures, float(lane.failures)] += (
                lane.opened > 0
            )
    return +found


def until(happened: Callable[[], Any], seconds: float = ENDS_S) -> Any:
    """What ``happened`` says once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _descendants(root: int) -> list[int]:
    """Processes that this one started, and those that they started."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with suppress(OSError, IndexError, ValueError):
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(stat[1]), []).append(pid)
    found = list(children.get(root, []))
    for pid in found:
        found += children.get(pid, [])
    return found


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    return ""


def _alive(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
