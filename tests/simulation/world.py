"""The world around a driver: one clock, a disk, and what happens between any two steps."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from orchestrator.core.append_only import Disk
from orchestrator.core.clock import Clock
from tests.simulation.chance import Chance, DriverKilled

START = 1_790_000_000.0


class World(Clock):
    """A clock that goes on by itself, and the moments at which a driver may be killed or asked to
    stop. Told by each part of the world before it does something."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.passed, self.set_by = 0.0, 0.0
        self.driving = False
        """Whether a driver runs that can be killed."""
        self.signalled = False
        """Whether it was asked to stop by this world."""
        self.beside: Callable[[], None] = lambda: None
        """What another thread of the driver does meanwhile."""
        self.disk = SimulatedDisk(self)

    def step(self) -> None:
        """Some time passes, in which things may happen."""
        self.passed += 0.01
        if not self.driving:
            return
        chance = self.chance
        if chance.fault("driver_killed"):
            self.driving = False
            raise DriverKilled
        if chance.may("signal") and _listens() and chance.fault("signal"):
            self.signalled = True
            signal.raise_signal(chance.of((signal.SIGINT, signal.SIGTERM)))
        if chance.fault("clock_jumps"):
            self.set_by += chance.between(-1e5, 1e5)
        if chance.often(0.04):
            self.beside()

    # ------------------------------------------------------------ the clock

    def now(self) -> float:
        return START + self.passed + self.set_by

    def moment(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds
        self.step()


def _listens() -> bool:
    """Whether a driver has put its own handlers in place."""
    handler = signal.getsignal(signal.SIGINT)
    return callable(handler) and handler is not signal.default_int_handler


class SimulatedDisk(Disk):
    """Files in a real folder of which a crash leaves what was synced, and of the rest some or none.

    Names are lost too unless their folder was synced.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.durable: dict[Path, int] = {}
        self.named: set[Path] = set()
        self.locked: dict[Path, FileIO] = {}

    def open(self, path: Path) -> FileIO:
        self.world.step()
        file = super().open(path)
        self.durable.setdefault(path, os.path.getsize(path))
        return file

    def lock(self, file: FileIO) -> bool:
        path = Path(file.name)
        holder = self.locked.get(path)
        if holder is not None and not holder.closed:
            return False
        self.locked[path] = file
        return True

    def write(self, file: FileIO, data: bytes) -> int:
        self.world.step()
        if self.world.chance.fault("disk_full"):
            file.write(data[: self.world.chance.below(len(data))])
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = (
            len(data) if self.world.chance.often(0.9) else 1 + self.world.chance.below(len(data))
        )
        file.write(data[:taken])
        self.world.step()
        return taken

    def sync(self, file: FileIO) -> None:
        self.world.step()
        if self.world.chance.fault("sync_fails"):
            raise OSError(errno.EIO, "Input/output error")
        path = Path(file.name)
        self.durable[path] = os.path.getsize(path)
        self.world.step()

    def truncate(self, file: FileIO, size: int) -> None:
        super().truncate(file, size)
        path = Path(file.name)
        self.durable[path] = min(size, self.durable[path])

    def sync_folder(self, folder: Path) -> None:
        self.world.step()
        self.named |= {path for path in self.durable if path.parent == folder}

    def unsynced(self, path: Path) -> bool:
        """Whether a crash now could take something of the file, or all of it."""
        if path not in self.durable:
            return False
        return path not in self.named or os.path.getsize(path) > self.durable[path]

    def crash(self) -> None:
        """The machine stops: what was not synced is there, torn, zeros, or gone."""
        self.locked.clear()
        chance = self.world.chance
        for path, kept in list(self.durable.items()):
            if path not in self.named and chance.often(0.5):
                path.unlink()
                del self.durable[path]
                continue
            size = os.path.getsize(path)
            left = kept + chance.below(size - kept + 1)
            with open(path, "r+b") as file:
                file.truncate(left)
                if left < size and chance.often(0.3):
                    file.seek(0, os.SEEK_END)
                    file.write(b"\0" * (size - left))
            self.durable[path] = os.path.getsize(path)
