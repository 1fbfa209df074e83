"""Faults on the real thing: each disturbs a run and brings it to its end again. A line a kind."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from orchestrator.core.events import CheckpointSaved, IntervalDone
from tests.chaos.lab import ENDS_S, Lab, Trial, until
from tests.commands import Command
from tests.heads import free_port

INTERRUPTED, FAILED, INPUT = 130, 1, 2
BARE = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault."""

    inject: Callable[[Trial], None]
    """Start the run, disturb it, bring it to its end."""
    streams: tuple[str, ...] = ("digits", "texts", "agent")
    """What it may disturb; one is drawn."""
    needs_root: bool = False
    """Whether it mounts file systems."""
    needs_clock: bool = False
    """Whether it needs libfaketime."""
    checks: bool = False
    """Whether it looks itself at what the run came to, where that is gone afterwards."""


# ---------------------------------------------------------------- processes that end


def _driver(trial: Trial) -> None:
    command = trial.start()
    trial.somewhere(command)
    trial.now()
    command.kill()
    trial.resume().succeed(ENDS_S)


def _during_resume(trial: Trial) -> None:
    command = trial.start()
    trial.somewhere(command, last=6)
    command.kill()
    again = trial.resume()
    time.sleep(trial.random.uniform(0.0, 3.0))
    trial.now()
    again.kill()
    trial.resume().succeed(ENDS_S)


def _worker(trial: Trial) -> None:
    """The run goes on by itself."""
    command = trial.start()
    trial.somewhere(command, first=4)
    trial.now()
    _kill(trial.opened(command).pid)
    command.succeed(ENDS_S)


def _replica(trial: Trial) -> None:
    command = trial.start()
    trial.somewhere(command, first=4)
    replicas = trial.opened(command).replicas
    trial.now()
    _kill(trial.random.choice(replicas).pid)
    command.succeed(ENDS_S)


def _evaluator(trial: Trial) -> None:
    command = trial.start()
    trial.somewhere(command, first=3)
    found = command.until(lambda: trial.processes("ray::EvaluationWorker"))
    trial.now()
    for pid in found:
        _kill(pid)
    command.succeed(ENDS_S)


def _raylet(trial: Trial) -> None:
    _part_of_ray(trial, "raylet/raylet")


def _head(trial: Trial) -> None:
    _part_of_ray(trial, "gcs/gcs_server")


def _raylet_starved(trial: Trial) -> None:
    """The node of the run's own Ray is declared dead, and stays so: the run ends by itself. Its
    workers are spoken to directly, so that it may be done before that is noticed."""
    soon = {f"RAY_health_check_{name}": str(value) for name, value in HEALTH.items()}
    command = trial.start(own_ray=True, **soon)
    trial.somewhere(command, last=10)
    (pid,) = trial.processes("raylet/raylet")
    trial.now()
    os.kill(pid, signal.SIGSTOP)
    code = command.wait(ENDS_S)
    assert BARE not in command.err, command.err[-2000:]
    done = code == 0 and trial.lines() == trial.lab.whole[trial.stream].records
    if not done:
        assert code == FAILED, f"{code}: {command.err}"[-2000:]
        assert "growstage resume" in command.err, command.err[-2000:]
    trial.gone()
    trial.resume().succeed(ENDS_S)


HEALTH = {"initial_delay_ms": 500, "period_ms": 500, "timeout_ms": 500, "failure_threshold": 4}
"""How soon Ray's head takes a node for dead: sooner than by default, which is half a minute."""


def _part_of_ray(trial: Trial, name: str) -> None:
    """Of the run's own Ray: the run ends, well or not, and goes on with a new one."""
    command = trial.start(own_ray=True)
    trial.somewhere(command)
    (pid,) = trial.processes(name)
    trial.now()
    _kill(pid)
    code = command.wait(ENDS_S)
    assert code == 0 or BARE not in command.err, command.err[-2000:]
    trial.gone()
    if code:
        trial.resume().succeed(ENDS_S)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


# ---------------------------------------------------------------- processes that stand still


def _driver_stopped(trial: Trial) -> None:
    command = trial.start()
    trial.somewhere(command)
    trial.now()
    command.signal(signal.SIGSTOP)
    time.sleep(trial.random.uniform(1.0, 5.0))
    command.signal(signal.SIGCONT)
    command.succeed(ENDS_S)


def _worker_stopped(trial: Trial) -> None:
    command = trial.start()
    trial.somewhere(command, first=4)
    pid = trial.opened(command).pid
    trial.now()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(trial.random.uniform(1.0, 5.0))
    os.kill(pid, signal.SIGCONT)
    command.succeed(ENDS_S)


# ---------------------------------------------------------------- signals


def _interrupt(trial: Trial) -> None:
    _signalled(trial, signal.SIGINT)


def _interrupt_twice(trial: Trial) -> None:
    _signalled(trial, signal.SIGINT, times=2)


def _terminate(trial: Trial) -> None:
    _signalled(trial, signal.SIGTERM)


def _signalled(trial: Trial, number: signal.Signals, times: int = 1) -> None:
    command = trial.start()
    trial.somewhere(command)
    trial.now()
    _send(command, number, times)
    _interrupted(trial, command)


def _while_saving(trial: Trial) -> None:
    """As soon as a stage's last interval is answered: its checkpoint is written then."""
    command = trial.start()
    intervals, stages = 6, trial.random.randint(1, 3)

    def learnt() -> bool:
        events = [record.event for record in trial.records()]
        ends = [e for e in events if isinstance(e, IntervalDone) and e.report.n == intervals]
        return len(ends) >= stages

    command.until(learnt)
    trial.now()
    _send(command, signal.SIGINT, 1)
    _interrupted(trial, command)


def _in_start_up(trial: Trial) -> None:
    """With a Ray of its own: nothing is written yet, or only what the run is."""
    command = trial.start(own_ray=True)
    command.until(lambda: "starting Ray" in command.err)
    time.sleep(trial.random.uniform(0.0, 4.0))
    trial.now()
    _send(command, trial.random.choice((signal.SIGINT, signal.SIGTERM)), 1)
    _interrupted(trial, command)


def _send(command: Command, number: signal.Signals, times: int) -> None:
    for _ in range(times):
        if command.poll() is None:
            command.signal(number)
            time.sleep(0.1)


def _interrupted(trial: Trial, command: Command) -> None:
    """It ends in order and in time, and goes on; or it was done by then."""
    code = command.wait(ENDS_S)
    done = code == 0 and trial.lines() == trial.lab.whole[trial.stream].records
    assert code == INTERRUPTED or done, f"{code}: {command.out}{command.err}"[-2000:]
    assert BARE not in command.err, command.err[-2000:]
    trial.gone()
    trial.start().succeed(ENDS_S)  # which goes on with a folder that has a journal


# ---------------------------------------------------------------- disks


def _torn(trial: Trial) -> None:
    """What a crash may leave at the journal's end."""
    command = trial.start()
    trial.somewhere(command)
    command.kill()
    data = trial.journal.read_bytes()
    start = data[:-1].rfind(b"\n") + 1
    cut = trial.random.randint(start + 1, len(data) - 1)
    tails = (data[:cut], data + b"\n", data + b"\0" * 40 + b"\n", data[:cut] + b"\0" * 9)
    trial.now()
    trial.journal.write_bytes(trial.random.choice(tails))
    trial.resume().succeed(ENDS_S)


def _bit_flip(trial: Trial) -> None:
    """In what the last checkpoint holds."""
    newest = _killed_with_checkpoint(trial)
    file = trial.random.choice(sorted(newest.iterdir()))
    data = bytearray(file.read_bytes())
    data[trial.random.randrange(len(data))] ^= 1 << trial.random.randrange(8)
    trial.now()
    file.write_bytes(bytes(data))
    trial.resume().succeed(ENDS_S)


def _checkpoint_gone(trial: Trial) -> None:
    newest = _killed_with_checkpoint(trial)
    trial.now()
    for file in trial.random.sample(sorted(newest.iterdir()), 1):
        file.unlink()
    trial.resume().succeed(ENDS_S)


def _killed_with_checkpoint(trial: Trial) -> Path:
    """The folder of the last checkpoint of a run that was killed after it."""
    command = trial.start()
    trial.somewhere(command, first=4)
    command.kill()
    events = [record.event for record in trial.records()]
    saved = [event.checkpoint for event in events if isinstance(event, CheckpointSaved)]
    return Path(saved[-1].uri)


def _disk_full(trial: Trial) -> None:
    """A small disk of the run's own, which is made larger afterwards."""
    room = trial.random.randint(60, 400)
    with _mounted(trial.run_dir, f"size={room}k") as larger:
        command = trial.start()
        trial.now()
        code = command.wait(ENDS_S)
        assert BARE not in command.err, command.err[-2000:]
        assert code in (0, FAILED, INPUT), code
        larger("size=100m")
        if code:
            trial.start().succeed(ENDS_S)
        trial.lab.check(trial)  # while it is there


def _read_only(trial: Trial) -> None:
    """The folder of checkpoints, from some moment on; then it can be written again."""
    command = trial.start()
    trial.somewhere(command, first=4, last=6)
    folder = str(trial.run_dir / "checkpoints")
    _call("mount", "--bind", folder, folder)
    try:
        _call("mount", "-o", "remount,bind,ro", folder)
        trial.now()
        code = command.wait(ENDS_S)
    finally:
        _call("umount", "-l", folder)
    assert BARE not in command.err, command.err[-2000:]
    if code:
        trial.resume().succeed(ENDS_S)


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


def _locked(trial: Trial) -> None:
    """Somebody holds the store's file for a while."""
    command = trial.start()
    trial.somewhere(command)
    store = sqlite3.connect(trial.folder / "runs" / "mlflow.db", isolation_level=None, timeout=60)
    trial.now()
    store.execute("begin exclusive")
    time.sleep(trial.random.uniform(0.5, 8.0))
    store.execute("rollback")
    store.close()
    command.succeed(ENDS_S)
    trial.resume().succeed(ENDS_S)  # where it was behind at the end


def _server_killed(trial: Trial) -> None:
    with _server(trial) as (uri, processes):
        command = trial.start("--tracking-uri", uri)
        trial.somewhere(command)
        trial.now()
        os.killpg(processes[-1].pid, signal.SIGKILL)
        command.succeed(ENDS_S)
        processes.append(_served(trial, uri))
        trial.resume("--tracking-uri", uri).succeed(ENDS_S)
        trial.lab.check(trial, uri)


def _server_stopped(trial: Trial) -> None:
    """It takes connections and answers none."""
    with _server(trial) as (uri, processes):
        command = trial.start("--tracking-uri", uri)
        trial.somewhere(command)
        trial.now()
        os.killpg(processes[-1].pid, signal.SIGSTOP)
        time.sleep(trial.random.uniform(1.0, 15.0))
        os.killpg(processes[-1].pid, signal.SIGCONT)
        command.succeed(ENDS_S)
        trial.resume("--tracking-uri", uri).succeed(ENDS_S)
        trial.lab.check(trial, uri)


@contextmanager
def _server(trial: Trial) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """An MLflow server over the trial's store: its address, and the processes started so far."""
    uri = f"http://127.0.0.1:{free_port()}"
    processes = [_served(trial, uri)]
    try:
        yield uri, processes
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _served(trial: Trial, uri: str) -> subprocess.Popen[bytes]:
    store = trial.folder / "runs" / "mlflow.db"
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


def _two_drivers(trial: Trial) -> None:
    """The second is refused, and the first never knows."""
    command = trial.start()
    trial.somewhere(command)
    command.signal(signal.SIGSTOP)  # so that it does not end meanwhile
    trial.now()
    second = trial.resume()
    code = second.wait(ENDS_S)
    command.signal(signal.SIGCONT)
    assert code == INPUT, (second.out + second.err)[-2000:]
    assert "another driver is running it" in second.err, second.err
    command.succeed(ENDS_S)


# ---------------------------------------------------------------- clocks


def _clock_jumps(trial: Trial) -> None:
    """The driver's clock of the day, back or forth by up to a day, twice; what is measured with
    the steady clock goes on."""
    told = trial.folder / "clock"
    told.write_text("+0")
    faked = {"LD_PRELOAD": str(clock_library()), "FAKETIME_TIMESTAMP_FILE": str(told)}
    faked |= {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    command = trial.start(**faked)
    trial.somewhere(command, last=6)
    trial.now()
    for _ in range(2):
        jump = trial.random.randint(-86_400, 86_400)
        told.with_suffix(".new").write_text(f"{jump:+d}")
        told.with_suffix(".new").replace(told)
        time.sleep(trial.random.uniform(0.2, 1.0))
    command.succeed(ENDS_S)


def clock_library() -> Path | None:
    """libfaketime, where the machine has it (Debian: libfaketime)."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else None


FAULTS: Mapping[str, Fault] = {
    "driver killed": Fault(_driver),
    "killed during resume": Fault(_during_resume),
    "worker killed": Fault(_worker),
    "one of two replicas killed": Fault(_replica, ("two workers",)),
    "evaluator killed": Fault(_evaluator),
    "raylet killed": Fault(_raylet),
    "raylet starved": Fault(_raylet_starved),
    "head killed": Fault(_head),
    "driver stopped": Fault(_driver_stopped),
    "worker stopped": Fault(_worker_stopped),
    "^C": Fault(_interrupt),
    "^C twice": Fault(_interrupt_twice),
    "^C while saving": Fault(_while_saving),
    "SIGTERM": Fault(_terminate),
    "signal in start-up": Fault(_in_start_up),
    "torn journal": Fault(_torn),
    "bit flip in a checkpoint": Fault(_bit_flip),
    "checkpoint gone": Fault(_checkpoint_gone),
    "disk full": Fault(_disk_full, needs_root=True, checks=True),
    "read-only folder": Fault(_read_only, needs_root=True),
    "locked sqlite": Fault(_locked),
    "MLflow server killed": Fault(_server_killed, checks=True),
    "MLflow server stopped": Fault(_server_stopped, checks=True),
    "two drivers": Fault(_two_drivers),
    "clock jumps": Fault(_clock_jumps, needs_clock=True),
}
"""Kinds by name."""


def strike(lab: Lab, kind: str, random: Random) -> float:
    """One fault of a kind, and all that must hold after it; seconds from the fault to the end.

    Raises Lost or Repeated, or AssertionError where the run did not end as it must.
    """
    fault = FAULTS[kind]
    with lab.trial(random.choice(fault.streams), random) as trial:
        fault.inject(trial)
        seconds = time.monotonic() - trial.injected
        if not fault.checks:
            lab.check(trial)
        trial.gone()
    return seconds
