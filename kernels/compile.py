"""Compile the kernels for a wheel, into the folder ``result`` of the one given.

For any x86-64-v3 processor, with CUDA kernels for all architectures where nvcc is there.
"""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["GROWSTAGE_OPS"] = "off"  # importing ops must not build for this machine

from ops import build

if __name__ == "__main__":
    os.environ.setdefault("GROWSTAGE_OPS_CUDA", "on" if build.find_nvcc() else "off")
    os.environ.setdefault("GROWSTAGE_OPS_ARCHS", ",".join(build.ARCHITECTURES))
    folder = Path(sys.argv[1])
    shutil.rmtree(folder / "result", ignore_errors=True)
    tools = replace(build.toolchain(), portable=True)
    build.compile_into(tools, folder)
    print(f"kernels for {', '.join(tools.architectures) or 'no GPU'}", file=sys.stderr)
