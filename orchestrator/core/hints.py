"""Commands to type next, printed so that they work where this one was typed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def command(verb: str, place: Path | str, *rest: str) -> str:
    """``growstage VERB PLACE ...`` as it can be typed here, modules on the path included."""
    path = os.environ.get("PYTHONPATH")
    spoken = f"PYTHONPATH={shlex.quote(path)} " if path else ""
    return f"{spoken}{own_command()} {shlex.join([verb, str(place), *rest])}"


def resume_command(run_dir: Path | str) -> str:
    """What to type to go on with an interrupted, failed or killed run."""
    return command("resume", run_dir)


def own_command() -> str:
    """How this program is called here: by its name, or as it was called where that is not found."""
    if shutil.which("growstage"):
        return "growstage"
    called = Path(sys.argv[0])
    if called.name == "growstage":
        return shlex.quote(str(called))
    return f"{shlex.quote(sys.executable)} -m orchestrator"
