"""The compiled games under the sanitizers of addresses and undefined behaviour, in random states.

GROWSTAGE_FUZZ sets how many steps each game takes (``make fuzz-craftax``: a million), in parts
that are drawn from seeds of their own, of which GROWSTAGE_FUZZ_SEED is the first: a part of the
full game takes some minutes.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ops.build import BuildError, toolchain
from workers.rl.environments.craftax.native import library

NATIVE = Path(__file__).resolve().parents[1] / "native"
STEPS = int(os.environ.get("GROWSTAGE_FUZZ", "20000"))
FIRST = int(os.environ.get("GROWSTAGE_FUZZ_SEED", "1"))
PART = 250_000


@pytest.mark.timeout(300 + 900 * -(-STEPS // PART))
@pytest.mark.parametrize("game", ["classic", pytest.param("full", marks=pytest.mark.slow)])
def test_no_sanitizer_complains_of_random_states(game, tmp_path):
    try:
        compiler = toolchain(library.PROJECT).compiler
    except BuildError as error:
        pytest.skip(str(error))
    folder, program = library.PROJECT.folder, tmp_path / "fuzz"
    # The driver has the interface of the library in it.
    sources = [path for path in (folder / game).glob("*.cpp") if path.name != "api.cpp"]
    options = ["-std=c++20", "-O1", "-Wno-psabi", "-I", str(folder), "-o", str(program)]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    fuzz = NATIVE / f"fuzz_{game}.cpp"
    subprocess.run([compiler, *options, *checks, *sources, fuzz], check=True, timeout=300)
    for seed, begun in enumerate(range(0, STEPS, PART), FIRST):
        steps = min(PART, STEPS - begun)
        call = [program, str(steps), str(seed)]
        told = subprocess.run(call, check=True, timeout=900, capture_output=True)
        done, over, refused = (int(part.split()[0]) for part in told.stdout.decode().split(", "))
        assert done == steps
        assert over > 0
        assert refused > steps / 400
