"""What a Craftax lane costs before it learns: seconds and memory of its worker, by engine.

    python benchmarks/craftax_start.py --json

Each engine in turn trains the first interval of the Craftax lane of ``configs/quickstart.toml`` in
a process of its own, twice, under a home of its own: first with nothing kept there (``cold``:
the native engine compiles its library, JAX its programs), then again (``warm``). The kernels of
the ops are those of this machine's cache and are not counted. Prints
``{"start": {engine: {"cold" | "warm": {...}}}}``: seconds from the start of the process until the
worker stands ready, and until the interval is done; CPU-seconds of the process and its compilers;
peaks of resident memory in MB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ENGINES = ("native", "jax")
CACHES = ("JAX_COMPILATION_CACHE_DIR", "GROWSTAGE_OPS_CACHE", "XDG_CACHE_HOME")
"""Variables that would have something kept elsewhere than at home."""


def first_interval(env: str, engine: str, begun: float) -> dict[str, Any]:
    """In this process, which began at ``begun`` (seconds since the epoch)."""
    import resource

    from orchestrator.config import file as configuration
    from orchestrator.core.transitions import planned_stages

    stream = {"environment": env, "engine": engine}
    overrides = [f"lanes.1.stream.{key}={value}" for key, value in stream.items()]
    lane = configuration.load(ROOT / "configs" / "quickstart.toml", overrides).lanes[1]

    from workers.rl.trainer import RLTrainer

    trainer = RLTrainer()
    trainer.open(lane.spec(), None)
    played = trainer.start(planned_stages(lane.plan())[0]).fields["engine"]
    ready = time.time() - begun
    trainer.run_interval(1)
    done = time.time() - begun
    own, others = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {
        "ready_seconds": round(ready, 1),
        "first_interval_seconds": round(done, 1),
        "cpu_seconds": round(own.ru_utime + own.ru_stime, 1),
        "compiler_cpu_seconds": round(others.ru_utime + others.ru_stime, 1),
        "peak_mb": round(own.ru_maxrss / 1024),
        "compiler_peak_mb": round(others.ru_maxrss / 1024),
        "engine": played,
        "jax_imported": "jax" in sys.modules,
    }


def child(env: str, engine: str, home: str) -> dict[str, Any]:
    """``first_interval`` in a process of its own."""
    known = {name: value for name, value in os.environ.items() if name not in CACHES}
    call = [sys.executable, __file__, "--env", env, "--child", engine, str(time.time())]
    result = subprocess.run(
        call, env={**known, "HOME": home}, capture_output=True, text=True, check=False
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"engine {engine} failed:\n{result.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return found


def both(env: str, engine: str) -> dict[str, dict[str, Any]]:
    """Without anything kept on disk, and again."""
    with tempfile.TemporaryDirectory(prefix="home-") as home:
        take_kernels(Path(home))
        return {state: child(env, engine, home) for state in ("cold", "warm")}


def take_kernels(home: Path) -> None:
    """Put what is built here into that home, the compiled games apart."""
    import ops
    from ops.build import cache_folder
    from workers.rl.environments.craftax.native.library import PROJECT

    assert ops.status(), "builds the kernels where they are missing"
    for built in cache_folder().iterdir():
        if built.is_dir() and not (built / PROJECT.library).exists():
            shutil.copytree(built, home / ".cache" / "growstage" / "ops" / built.name)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="Craftax-Classic-Symbolic-v1")
    parser.add_argument("--engines", default=",".join(ENGINES), help="which, in order")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("ENGINE", "BEGUN"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        found = first_interval(args.env, args.child[0], float(args.child[1]))
        print("RESULT " + json.dumps(found), flush=True)
        os._exit(0)  # Ray's and XLA's threads need not be waited for
    result = {"start": {engine: both(args.env, engine) for engine in args.engines.split(",")}}
    print(json.dumps(result, indent=None if args.json else 2))


if __name__ == "__main__":
    main()
