"""Faults on the real thing: each disturbs a run and brings it to its end again. A line a kind."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from orchestrator.core.events import CheckpointSaved, IntervalDone
from tests.chaos.disturbed import ENDS_S, Disturbed, until
from tests.chaos.lab import Lab
from tests.chaos.streams import STREAMS
from tests.commands import Command
from tests.heads import free_port

INTERRUPTED, FAILED, INPUT = 130, 1, 2
BARE = "Traceback (most recent call last)"
ONE_RUN = ("digits", "texts", "agent")
SEARCHED = (*ONE_RUN, "search")
ALL = tuple(STREAMS)


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault."""

    inject: Callable[[Disturbed], None]
    """Start the run, disturb it, bring it to its end."""
    streams: tuple[str, ...] = ONE_RUN
    """What it may disturb; one is drawn."""
    needs_root: bool = False
    """Whether it mounts file systems."""
    needs_clock: bool = False
    """Whether it needs libfaketime."""
    checks: bool = False
    """Whether it looks itself at what the run came to, where that is gone afterwards."""

    def within(self, streams: Collection[str]) -> tuple[str, ...]:
        """Those of them that it may disturb."""
        return tuple(stream for stream in self.streams if stream in streams)


# ---------------------------------------------------------------- processes that end


def _driver(run: Disturbed) -> None:
    command = run.start()
    run.somewhere(command)
    run.now()
    command.kill()
    run.resume().succeed(ENDS_S)


def _during_resume(run: Disturbed) -> None:
    command = run.start()
    run.somewhere(command, last=6)
    command.kill()
    again = run.resume()
    time.sleep(run.random.uniform(0.0, 3.0))
    run.now()
    again.kill()
    run.resume().succeed(ENDS_S)


def _worker(run: Disturbed) -> None:
    """The run goes on by itself."""
    command = run.start()
    run.somewhere(command, first=4, last=10)
    run.now()
    _kill(run.opened(command).pid)
    command.succeed(ENDS_S)


def _trial_killed(run: Disturbed) -> None:
    """Tune starts it again, and the trial goes on with its journal."""
    command = run.start()
    run.somewhere(command)
    found = command.until(lambda: run.processes("ray::ImplicitFunc"))
    run.now()
    _kill(run.random.choice(found))
    command.succeed(ENDS_S)


def _replica(run: Disturbed) -> None:
    command = run.start()
    run.somewhere(command, first=4)
    replicas = run.opened(command).replicas
    run.now()
    _kill(run.random.choice(replicas).pid)
    command.succeed(ENDS_S)


def _evaluator(run: Disturbed) -> None:
    command = run.start()
    run.somewhere(command, first=3)
    found = command.until(lambda: run.processes("ray::EvaluationWorker"))
    run.now()
    for pid in found:
        _kill(pid)
    command.succeed(ENDS_S)


def _raylet(run: Disturbed) -> None:
    _part_of_ray(run, "raylet/raylet")


def _head(run: Disturbed) -> None:
    _part_of_ray(run, "gcs/gcs_server")


def _raylet_starved(run: Disturbed) -> None:
    """The node of the run's own Ray is declared dead, and stays so: the run ends by itself. Its
    workers are spoken to directly, so that it may be done before that is noticed."""
    soon = {f"RAY_health_check_{name}": str(value) for name, value in HEALTH.items()}
    command = run.start(own_ray=True, **soon)
    run.somewhere(command, last=10)
    (pid,) = run.processes("raylet/raylet")
    run.now()
    os.kill(pid, signal.SIGSTOP)
    code = command.wait(ENDS_S)
    assert BARE not in command.err, command.err[-2000:]
    done = code == 0 and run.done()
    if not done:
        assert code == FAILED, f"{code}: {command.err}"[-2000:]
        assert "growstage resume" in command.err, command.err[-2000:]
    run.gone()
    run.resume().succeed(ENDS_S)


HEALTH = {"initial_delay_ms": 500, "period_ms": 500, "timeout_ms": 500, "failure_threshold": 4}
"""How soon Ray's head takes a node for dead: sooner than by default, which is half a minute."""


def _part_of_ray(run: Disturbed, name: str) -> None:
    """Of the run's own Ray: the run ends, well or not, and goes on with a new one."""
    command = run.start(own_ray=True)
    run.somewhere(command)
    (pid,) = run.processes(name)
    run.now()
    _kill(pid)
    code = command.wait(ENDS_S)
    assert code == 0 or BARE not in command.err, command.err[-2000:]
    run.gone()
    if code:
        run.resume().succeed(ENDS_S)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


# ---------------------------------------------------------------- processes that stand still


def _driver_stopped(run: Disturbed) -> None:
    command = run.start()
    run.somewhere(command)
    run.now()
    command.signal(signal.SIGSTOP)
    time.sleep(run.random.uniform(1.0, 5.0))
    command.signal(signal.SIGCONT)
    command.succeed(ENDS_S)


def _worker_stopped(run: Disturbed) -> None:
    command = run.start()
    run.somewhere(command, first=4)
    pid = run.opened(command).pid
    run.now()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(run.random.uniform(1.0, 5.0))
    os.kill(pid, signal.SIGCONT)
    command.succeed(ENDS_S)


# ---------------------------------------------------------------- signals


def _interrupt(run: Disturbed) -> None:
    _signalled(run, signal.SIGINT)


def _interrupt_twice(run: Disturbed) -> None:
    _signalled(run, signal.SIGINT, times=2)


def _terminate(run: Disturbed) -> None:
    _signalled(run, signal.SIGTERM)


def _signalled(run: Disturbed, number: signal.Signals, times: int = 1) -> None:
    command = run.start()
    run.somewhere(command)
    run.now()
    _send(command, number, times)
    _interrupted(run, command)


def _while_saving(run: Disturbed) -> None:
    """As soon as a stage's last interval is answered: its checkpoint is written then."""
    command = run.start()
    intervals, stages = 6, run.random.randint(1, 3)

    def learnt() -> bool:
        events = [record.event for record in run.records()]
        ends = [e for e in events if isinstance(e, IntervalDone) and e.report.n == intervals]
        return len(ends) >= stages

    command.until(learnt)
    run.now()
    _send(command, signal.SIGINT, 1)
    _interrupted(run, command)


def _in_start_up(run: Disturbed) -> None:
    """With a Ray of its own: nothing is written yet, or only what the run is."""
    command = run.start(own_ray=True)
    command.until(lambda: "starting Ray" in command.err)
    time.sleep(run.random.uniform(0.0, 4.0))
    run.now()
    _send(command, run.random.choice((signal.SIGINT, signal.SIGTERM)), 1)
    _interrupted(run, command)


def _send(command: Command, number: signal.Signals, times: int) -> None:
    for _ in range(times):
        if command.poll() is None:
            command.signal(number)
            time.sleep(0.1)


def _interrupted(run: Disturbed, command: Command) -> None:
    """It ends in order and in time, and goes on; or it was done by then."""
    code = command.wait(ENDS_S)
    done = code == 0 and run.done()
    assert code == INTERRUPTED or done, f"{code}: {command.out}{command.err}"[-2000:]
    assert BARE not in command.err, command.err[-2000:]
    run.gone()
    run.start().succeed(ENDS_S)  # which goes on with a folder that has a journal


# ---------------------------------------------------------------- disks


def _torn(run: Disturbed) -> None:
    """What a crash may leave at the journal's end."""
    command = run.start()
    run.somewhere(command)
    command.kill()
    data = run.journal.read_bytes()
    start = data[:-1].rfind(b"\n") + 1
    cut = run.random.randint(start + 1, len(data) - 1)
    tails = (data[:cut], data + b"\n", data + b"\0" * 40 + b"\n", data[:cut] + b"\0" * 9)
    run.now()
    run.journal.write_bytes(run.random.choice(tails))
    run.resume().succeed(ENDS_S)


def _bit_flip(run: Disturbed) -> None:
    """In what the last checkpoint holds."""
    newest = _killed_with_checkpoint(run)
    file = run.random.choice(sorted(newest.iterdir()))
    data = bytearray(file.read_bytes())
    data[run.random.randrange(len(data))] ^= 1 << run.random.randrange(8)
    run.now()
    file.write_bytes(bytes(data))
    run.resume().succeed(ENDS_S)


def _checkpoint_gone(run: Disturbed) -> None:
    newest = _killed_with_checkpoint(run)
    run.now()
    for file in run.random.sample(sorted(newest.iterdir()), 1):
        file.unlink()
    run.resume().succeed(ENDS_S)


def _killed_with_checkpoint(run: Disturbed) -> Path:
    """The folder of the last checkpoint of a run that was killed after it."""
    command = run.start()
    run.somewhere(command, first=4)
    command.kill()
    events = [record.event for record in run.records()]
    saved = [event.checkpoint for event in events if isinstance(event, CheckpointSaved)]
    return Path(saved[-1].uri)


def _disk_full(run: Disturbed) -> None:
    """A small disk of the run's own, which is made larger afterwards."""
    room = run.random.randint(60, 400)
    with _mounted(run.run_dir, f"size={room}k") as larger:
        command = run.start()
        run.now()
        code = command.wait(ENDS_S)
        assert BARE not in command.err, command.err[-2000:]
        assert code in (0, FAILED, INPUT), code
        larger("size=100m")
        if code:
            run.start().succeed(ENDS_S)
        run.lab.check(run)  # while it is there


def _read_only(run: Disturbed) -> None:
    """The folder of checkpoints, from some moment on; then it can be written again."""
    command = run.start()
    run.somewhere(command, first=4, last=6)
    folder = str(run.run_dir / "checkpoints")
    _call("mount", "--bind", folder, folder)
    try:
        _call("mount", "-o", "remount,bind,ro", folder)
        run.now()
        code = command.wait(ENDS_S)
    finally:
        _call("umount", "-l", folder)
    assert BARE not in command.err, command.err[-2000:]
    if code:
        run.resume().succeed(ENDS_S)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A file system in memory at the folder; what it yields mounts it anew with other options."""
    folder.mkdir(parents=True)
    _call("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield lambda more: _call("mount", "-o", f"remount,{more}", str(folder))
    finally:
        _call("umount", "-l", str(folder))


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


# ---------------------------------------------------------------- MLflow


def _locked(run: Disturbed) -> None:
    """Somebody holds the store's file for a while."""
    command = run.start()
    run.somewhere(command)
    store = sqlite3.connect(run.folder / "runs" / "mlflow.db", isolation_level=None, timeout=60)
    run.now()
    store.execute("begin exclusive")
    time.sleep(run.random.uniform(0.5, 8.0))
    store.execute("rollback")
    store.close()
    command.succeed(ENDS_S)
    run.resume().succeed(ENDS_S)  # where it was behind at the end


def _server_killed(run: Disturbed) -> None:
    with _server(run) as (uri, processes):
        command = run.start("--tracking-uri", uri)
        run.somewhere(command)
        run.now()
        os.killpg(processes[-1].pid, signal.SIGKILL)
        command.succeed(ENDS_S)
        processes.append(_served(run, uri))
        run.resume("--tracking-uri", uri).succeed(ENDS_S)
        run.lab.check(run, uri)


def _server_stopped(run: Disturbed) -> None:
    """It takes connections and answers none."""
    with _server(run) as (uri, processes):
        command = run.start("--tracking-uri", uri)
        run.somewhere(command)
        run.now()
        os.killpg(processes[-1].pid, signal.SIGSTOP)
        time.sleep(run.random.uniform(1.0, 15.0))
        os.killpg(processes[-1].pid, signal.SIGCONT)
        command.succeed(ENDS_S)
        run.resume("--tracking-uri", uri).succeed(ENDS_S)
        run.lab.check(run, uri)


@contextmanager
def _server(run: Disturbed) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """An MLflow server over the run's store: its address, and the processes started so far."""
    uri = f"http://127.0.0.1:{free_port()}"
    processes = [_served(run, uri)]
    try:
        yield uri, processes
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _served(run: Disturbed, uri: str) -> subprocess.Popen[bytes]:
    store = run.folder / "runs" / "mlflow.db"
    port = uri.rpartition(":")[2]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", port, "--backend-store-uri", f"sqlite:///{store}"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # seven processes less
    )
    until(lambda: _answers(int(port)), 120.0)
    return process


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5.0) as server:
            server.sendall(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
            return b"200" in server.recv(200)
    except OSError:
        return False


# ---------------------------------------------------------------- two at once


def _two_drivers(run: Disturbed) -> None:
    """The second is refused, and the first never knows."""
    command = run.start()
    run.somewhere(command)
    command.signal(signal.SIGSTOP)  # so that it does not end meanwhile
    run.now()
    second = run.resume()
    code = second.wait(ENDS_S)
    command.signal(signal.SIGCONT)
    assert code == INPUT, (second.out + second.err)[-2000:]
    assert "another driver is running it" in second.err, second.err
    command.succeed(ENDS_S)


# ---------------------------------------------------------------- clocks


def _clock_jumps(run: Disturbed) -> None:
    """The driver's clock of the day, back or forth by up to a day, twice; what is measured with
    the steady clock goes on."""
    told = run.folder / "clock"
    told.write_text("+0")
    faked = {"LD_PRELOAD": str(clock_library()), "FAKETIME_TIMESTAMP_FILE": str(told)}
    faked |= {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    command = run.start(**faked)
    run.somewhere(command, last=6)
    run.now()
    for _ in range(2):
        jump = run.random.randint(-86_400, 86_400)
        told.with_suffix(".new").write_text(f"{jump:+d}")
        told.with_suffix(".new").replace(told)
        time.sleep(run.random.uniform(0.2, 1.0))
    command.succeed(ENDS_S)


def clock_library() -> Path | None:
    """libfaketime, where the machine has it (Debian: libfaketime)."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else None


FAULTS: Mapping[str, Fault] = {
    "driver killed": Fault(_driver, SEARCHED),
    "killed during resume": Fault(_during_resume, SEARCHED),
    "worker killed": Fault(_worker, SEARCHED),
    "one of two replicas killed": Fault(_replica, ("two workers",)),
    "trial of a search killed": Fault(_trial_killed, ("search",)),
    "evaluator killed": Fault(_evaluator),
    "raylet killed": Fault(_raylet),
    "raylet starved": Fault(_raylet_starved),
    "head killed": Fault(_head),
    "driver stopped": Fault(_driver_stopped),
    "worker stopped": Fault(_worker_stopped),
    "^C": Fault(_interrupt, SEARCHED),
    "^C twice": Fault(_interrupt_twice, SEARCHED),
    "^C while saving": Fault(_while_saving),
    "SIGTERM": Fault(_terminate, SEARCHED),
    "signal in start-up": Fault(_in_start_up),
    "torn journal": Fault(_torn),
    "bit flip in a checkpoint": Fault(_bit_flip, SEARCHED),
    "checkpoint gone": Fault(_checkpoint_gone, SEARCHED),
    "disk full": Fault(_disk_full, needs_root=True, checks=True),
    "read-only folder": Fault(_read_only, needs_root=True),
    "locked sqlite": Fault(_locked),
    "MLflow server killed": Fault(_server_killed, checks=True),
    "MLflow server stopped": Fault(_server_stopped, checks=True),
    "two drivers": Fault(_two_drivers),
    "clock jumps": Fault(_clock_jumps, needs_clock=True),
}
"""Kinds by name."""


def strike(lab: Lab, kind: str, random: Random, streams: Collection[str]) -> float:
    """One fault of a kind on one of ``streams``, and all that must hold after it; seconds from the
    fault to the end.

    Raises Lost or Repeated, or AssertionError where the run did not end as it must.
    """
    fault = FAULTS[kind]
    with lab.disturbed(random.choice(fault.within(streams)), random) as run:
        fault.inject(run)
        seconds = time.monotonic() - run.injected
        if not fault.checks:
            lab.check(run)
        run.gone()
    return seconds
