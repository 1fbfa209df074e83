"""Builds the CUDA kernels for the emulator, as CPU kernels, and runs the tests of the ops on them.

``python tests/emulator [pytest arguments]``. Shows what a kernel's source does: indices, barriers,
shared memory, order of sums. Shows nothing of a device: speed, streams, graphs, memory model.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FLAGS = ["-O2", "-g1", "-std=c++20", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-w"]
# A misaligned access stops a device; here it stops the process.
FLAGS += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]
# What only the CPU looks at, because a device would have to be waited for.
HOST_CHECKS = (
    "--deselect=tests/unit/ops/test_ops_compiled.py::test_wrong_arguments_are_refused",
    "--deselect=tests/unit/ops/test_ops_compiled.py::test_fewer_rows_than_used_slots_are_refused",
    "--deselect=tests/unit/ops/test_row_sum.py::test_a_code_outside_the_weight_is_refused_not_read",
)
NAME = re.compile(r"[\w:]+\s*$")
DYNAMIC = re.compile(r"extern __shared__ (\w+) (\w+)\[\];")


def opening(text: str, end: int, pair: str) -> int:
    """Where the bracket opens that closes just before ``end``."""
    depth = 0
    for at in range(end - 1, -1, -1):
        depth += (text[at] == pair[1]) - (text[at] == pair[0])
        if depth == 0:
            return at
    raise AssertionError(f"no {pair[0]} before {text[end - 40 : end]!r}")


def without_launch_brackets(text: str) -> str:
    """``kernel<T><<<grid, block>>>(values)`` as a call of the emulator, for every launch."""
    while (at := text.find("<<<")) >= 0:
        end = len(text[:at].rstrip())
        name = opening(text, end, "<>") if text[end - 1] == ">" else end
        found = NAME.search(text[:name])
        assert found, text[at - 60 : at]
        kernel, closing = text[found.start() : at].strip(), text.index(">>>", at)
        call = f"emulator::Launch{{{text[at + 3 : closing]}}}"
        body = f"[&](auto... values) {{ {kernel}(values...); }}"
        rest = text[closing + 3 :].lstrip()
        assert rest[0] == "("
        text = f"{text[: found.start()]}{call}({body}, {rest[1:]}"
    return text


def translated(path: Path) -> str:
    """The source of a kernel or of the bindings, for the emulator."""
    text = path.read_text()
    if path.suffix == ".cu":
        text = DYNAMIC.sub(r"auto* \2 = reinterpret_cast<\1*>(emulator::dynamic_shared);", text)
        return without_launch_brackets(text)
    for old, new in {
        "(growstage, CUDA,": "(growstage, CPU,",
        ".is_cuda()": ".is_cpu()",
        "->is_cuda()": "->is_cpu()",
        "const torch::stable::accelerator::DeviceGuard guard(": "(void)(",
        "void* stream_of(const Tensor& tensor) {": "void* stream_of(const Tensor&) { return {}; }\n"
        "void* stream_of_a_device(const Tensor& tensor) {",
    }.items():
        text = text.replace(old, new)
    return text


def build(folder: Path) -> Path:
    """Compile all kernels and their bindings into one library."""
    import torch

    package, source = Path(torch.__file__).parent, ROOT / "ops/csrc"
    abi = "-DTORCH_TARGET_VERSION=0x020b000000000000ULL"
    include = [f"-I{HERE / 'include'}", f"-I{source / 'cuda'}", f"-I{source}"]
    include += ["-isystem", str(package / "include")]
    units = {HERE / "emulator.cpp": (HERE / "emulator.cpp").read_text()}
    units |= {path: translated(path) for path in sorted((source / "cuda").glob("*.c*"))}
    units.pop(source / "cuda/device.cuh", None)
    calls, objects = [], []
    for path, text in units.items():
        unit = folder / f"{path.stem}.cpp"
        unit.write_text(f'#line 1 "{path}"\n{text}')
        objects.append(str(unit.with_suffix(".o")))
        calls.append(["g++", *FLAGS, abi, *include, "-c", str(unit), "-o", objects[-1]])
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda call: subprocess.run(call, check=True), calls))
    library = folder / "libemulated.so"
    link = ["g++", "-shared", *objects, f"-L{package / 'lib'}", "-ltorch_cpu", "-ldl"]
    subprocess.run([*link, "-o", str(library)], check=True)
    return library


def main(arguments: list[str]) -> int:
    """Build, load the kernels in place of the CPU's, run the tests; both orders of threads."""
    folder = ROOT / "build/emulator"
    folder.mkdir(parents=True, exist_ok=True)
    library = build(folder)
    code = (
        "import sys, pytest, torch, ops\n"
        f"torch.ops.load_library({str(library)!r})\n"
        "torch.use_deterministic_algorithms(True)  # fresh memory is filled with NaN\n"
        "assert ops.backend('cpu') == 'compiled', ops.compiled('cpu')\n"
        "sys.exit(pytest.main(sys.argv[1:]))\n"
    )
    tests = arguments or ["tests/unit/ops", "-p", "no:cacheprovider", *HOST_CHECKS]
    env = {**os.environ, "GROWSTAGE_OPS": "off", "OMP_NUM_THREADS": "1"}
    status = 0
    for order in ({}, {"EMULATOR_BACKWARDS": "1"}):
        print("threads in", "falling order" if order else "rising order", flush=True)
        command = [sys.executable, "-c", code, *tests]
        status |= subprocess.run(command, cwd=ROOT, env={**env, **order}, check=False).returncode
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
