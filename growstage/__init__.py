"""growstage from Python: run streams, look at what runs came to, use the models they trained.

    import growstage

    run = growstage.run("configs/digits_growth.toml")      # or a dictionary of the same keys
    run = growstage.load("runs/digits-growth-...")
    run.metrics                                            # pandas: a row a lane
    run.lanes["replay-s0"].matrix                          # stages x tasks
    model = run.model("replay-s0")                         # a torch module, after the last stage
    run.report("report.html")

Nothing heavy is imported before it is used. Names without an underscore here and the columns of
the tables are kept as they are by semantic versioning; the packages below it may change.
"""

from __future__ import annotations

from growstage.models import load_model as load_model
from growstage.results import Lane as Lane
from growstage.results import Run as Run
from growstage.results import load as load
from growstage.running import run as run
from orchestrator.beginning import release as _release
from workers.contract import InputError as InputError
from workers.contract import RunError as RunError

__version__ = _release()

__all__ = ["InputError", "Lane", "Run", "RunError", "__version__", "load", "load_model", "run"]
