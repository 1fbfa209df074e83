"""Short texts about a run that several places show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.contract import Json

if TYPE_CHECKING:
    from rich.console import Console


def failure_text(lane: Json) -> str:
    """Why a lane failed, in one line."""
    failure = lane["last_failure"]
    first = failure["message"].partition("\n")[0]
    return f"failed: {failure['kind']}: {first}"


def settings_text(config: Json) -> str:
    """What a table's entry is set to: ``window (behind 5, ahead 1)``."""
    rest = ", ".join(f"{name} {value}" for name, value in config.items() if name != "kind")
    return f"{config['kind']} ({rest})" if rest else str(config["kind"])


def part_text(lane: Json) -> str:
    """What a lane's metrics rest on where not every model was scored on every task; else empty."""
    if lane["evaluation"]["kind"] == "all":
        return ""
    rests = [f"{name} {known} of {terms}" for name, (known, terms) in lane["metrics_from"].items()]
    scored = f"scored by evaluation {settings_text(lane['evaluation'])}"
    return f"{scored}; terms known of these metrics: {', '.join(rests)}" if rests else scored


def wide() -> Console:
    """Where no terminal sets the width (logs, jobs, pipes), tables take the room they need."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """How to look at a run: the command that serves the UI (None: it is served) and deep links."""

    command: str | None
    tree: str
    lanes: str
    methods: str
    trials: str
