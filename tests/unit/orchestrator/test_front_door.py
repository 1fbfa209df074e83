"""What a command imports before it says anything: seconds on every call, were it more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {
    "ray",
    "mlflow",
    "transformers",
    "jax",
    "craftax",
    "gymnasium",
    "torchvision",
    "sklearn",
    "pandas",
    "matplotlib",
    "pyarrow",
    "torch._dynamo",
    "torch._inductor",
}
LIGHT = {"torch", "numpy", "pydantic", "rich"}
"""What planning takes, and help does not."""


def imported(*command: str) -> set[str]:
    """Modules that a command has imported at its end."""
    script = (
        f"import sys\nsys.argv = {['growstage', *command]!r}\n"
        "from orchestrator.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as left:\n    assert not left.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    told = [sys.executable, "-c", script]
    done = subprocess.run(told, cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stderr.splitlines()[-1].split())


def test_help_imports_nothing_heavy() -> None:
    assert not (HEAVY | LIGHT) & imported("--help")


@pytest.mark.parametrize("file", ["quickstart", "des_moe_domains"])
def test_planning_imports_torch_and_little_more(file: str) -> None:
    """The memory is measured on torch's meta device, without torch's compiler."""
    found = imported("plan", f"configs/{file}.toml")
    assert not HEAVY & found
    assert "torch" in found
