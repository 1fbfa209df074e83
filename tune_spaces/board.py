"""What people see while a sweep goes on: a live table of trials, or one line per stage."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Self

from ray.tune import Callback
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tune_spaces.summary import Attempt
from workers.contract import Json


class Board(Callback):
    """Tune's callback that shows every trial's last stage."""

    def __init__(self, console: Console) -> None:
        self.rows: dict[str, Json] = {}
        self.console = console
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        """Tune keeps callbacks with its state; a terminal cannot be kept."""
        return Callback, ()

    def __enter__(self) -> Self:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Json, **info: Any
    ) -> None:
        if "objective" in result:
            row = {name: result[name] for name in ("name", "stage", "objective", "experts")}
            self.rows[trial.trial_id] = {"status": "running", **row}
            self._show(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended(trial.trial_id, "ended")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended(trial.trial_id, "failed")

    def _ended(self, trial: str, status: str) -> None:
        if trial in self.rows:
            self.rows[trial]["status"] = status
            self._show(trial)

    def _show(self, trial: str) -> None:
        if self.live is not None:
            self.live.update(self._table(), refresh=True)
            return
        row = self.rows[trial]
        self.console.print(
            f"{row['name']}: {row['status']} after stage {row['stage']}, "
            f"objective {row['objective']:.4f}, {row['experts']} experts",
            markup=False,
            soft_wrap=True,
        )

    def _table(self) -> Table:
        table = Table("trial", "stage", "objective", "experts", "status")
        for _, row in sorted(self.rows.items()):
            figures = (str(row["stage"]), f"{row['objective']:.4f}", str(row["experts"]))
            table.add_row(row["name"], *figures, row["status"])
        return table


def print_summary(
    console: Console, summary: Json, found: list[Attempt], shares: dict[str, float], folder: Path
) -> None:
    """Trials in order of success, what was saved, what mattered, and how to run the best."""
    table = Table("trial", "stages", "objective", "experts", "status")
    for attempt in sorted(found, key=lambda x: (-len(x.values), -(x.values or (0.0,))[-1])):
        last = f"{attempt.values[-1]:.4f}" if attempt.values else ""
        table.add_row(
            attempt.name, str(len(attempt.values)), last, str(attempt.experts), attempt.status
        )
    console.print(table)
    stages = summary["stages"]
    console.print(
        f"stages: {stages['trained']} trained of {stages['planned']} planned; saved by early "
        f"stopping {stages['saved_by_early_stopping']}, by shared prefixes "
        f"{stages['saved_by_shared_prefixes']}; cut short {stages['cut_short']}",
        soft_wrap=True,
    )
    for key, share in shares.items():
        console.print(f"importance of {key}: {share:.2f}", markup=False)
    if summary["gain"] is not None:
        gained, stages = summary["gain"]["objective"], summary["gain"]["stages"]
        same = summary["best"]["run"] == summary["base"]["run"]
        told = "no trial was better than it" if same else f"the best gains {gained:+.4f} on it"
        console.print(
            f"base setting (trial 0): objective {summary['base']['objective']:.4f} after stage "
            f"{summary['base']['stages']}; {told}"
            + ("" if same or stages == summary["best"]["stages"] else f" after stage {stages}"),
            markup=False,
            soft_wrap=True,
        )
    if summary["best"] is not None:
        file = shlex.quote(str(folder / "best.toml"))
        console.print(f"best: growstage run {file}", markup=False, soft_wrap=True)
