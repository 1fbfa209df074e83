"""Short texts about a run that several places show."""

from __future__ import annotations

from dataclasses import dataclass

from workers.contract import Json


def failure_text(lane: Json) -> str:
    """Why a lane failed, in one line."""
    failure = lane["last_failure"]
    first = failure["message"].partition("\n")[0]
    return f"failed: {failure['kind']}: {first}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """How to look at a run: the command that serves the UI (None: it is served) and deep links."""

    command: str | None
    tree: str
    lanes: str
    methods: str
    trials: str
