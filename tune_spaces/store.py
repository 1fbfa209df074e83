"""The stage store: answers to commands that any trial of a sweep may give again.

An answer is kept under a key that hashes everything it depends on, in a file of its own in the
sweep's folder. Claims keep two trials from training the same thing at once; they live in memory
and lapse where their holder stays silent. Knows no Ray: one actor of it serves a sweep.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workers.contract import Json

FOLDER = "stages"
LEASE_S = 20.0
"""A claim not renewed for so long is void."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a trial is told: the answer is known, it is to find it, or another one is at it."""

    verdict: Literal["known", "yours", "wait"]
    run: str | None = None
    """Run that gave the answer, or that is at it."""
    event: Json = None


class StageStore:
    """Answers by key, and who is about to find one."""

    def __init__(self, sweep: str, clock: Callable[[], float] = time.monotonic) -> None:
        """``sweep``: the sweep's folder."""
        self._folder = Path(sweep) / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Json] = {}
        self._claims: dict[str, tuple[str, float]] = {}
        self._clock = clock

    def ask(self, key: str, run: str) -> Reply:
        """The answer under ``key``, or who is to find it; a miss claims the key for ``run``."""
        self.renew(run)
        if (known := self._load(key)) is not None:
            return Reply("known", known["run"], known["event"])
        holder, until = self._claims.get(key, (run, 0.0))
        if holder != run and self._clock() < until:
            return Reply("wait", holder)
        self._claims[key] = (run, self._clock() + LEASE_S)
        return Reply("yours")

    def peek(self, key: str) -> Reply | None:
        """The answer under ``key`` if it is known; claims nothing."""
        known = self._load(key)
        return None if known is None else Reply("known", known["run"], known["event"])

    def tell(self, key: str, run: str, event: Json) -> None:
        """Keep the answer that ``run`` found, durably; the first one stays."""
        if self._load(key) is None:
            self._known[key] = {"run": run, "event": event}
            self._write(key)
        self._claims.pop(key, None)

    def renew(self, run: str) -> None:
        """``run`` is alive: its claims hold on."""
        until = self._clock() + LEASE_S
        for key, (holder, _) in self._claims.items():
            if holder == run:
                self._claims[key] = (run, until)

    def drop(self, run: str) -> None:
        """``run`` ended: its claims are void."""
        self._claims = {key: claim for key, claim in self._claims.items() if claim[0] != run}

    def forget(self, uri: str) -> None:
        """The checkpoint there is lost: answers that name it are no answers any more."""
        for file in self._folder.glob("*.json"):
            known = self._load(file.stem)
            if known is not None and known["event"].get("checkpoint", {}).get("uri") == uri:
                file.unlink()
                del self._known[file.stem]

    def _load(self, key: str) -> Json:
        file = self._folder / f"{key}.json"
        if key not in self._known and file.is_file():
            self._known[key] = json.loads(file.read_bytes())
        return self._known.get(key)

    def _write(self, key: str) -> None:
        """The file appears whole or not at all."""
        temporary = self._folder / f".{key}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(self._known[key], file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._folder / f"{key}.json")
