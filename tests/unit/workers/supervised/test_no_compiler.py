"""Torch's compiler stays out of a process, and nothing of that is left behind."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import torch
from torch import nn
from workers.supervised.no_compiler import NAME, no_compiler

model, meta = nn.Linear(3, 2), torch.empty(3, 2, device="meta")
with no_compiler():
    torch.stack([meta, meta])
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert "disable" in vars(sys.modules[NAME]) and not hasattr(sys.modules[NAME], "__file__")
assert NAME not in sys.modules
compiled = torch.compile(lambda x: torch.stack([x, x * 2]), fullgraph=True, backend="eager")
assert compiled(torch.ones(2)).tolist() == [[1, 1], [2, 2]]
optimizer.step()
real = sys.modules[NAME]
assert real.__file__
with no_compiler():
    assert sys.modules[NAME] is real
"""


def test_marking_costs_nothing_within_and_compiling_works_after() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
