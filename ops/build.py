"""Builds compiled libraries into a cache folder, with the compilers of this machine.

Knows how to compile, not when: ``ops.library`` decides that for the kernels of the ops, and who
has a library of their own (``Project``) for theirs.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ops import caches

LIBRARY = "libgrowstage_ops.so"
ARCHITECTURES = ("80", "90", "100")
TIMEOUT = 300.0
"""Seconds that one compiler call, or waiting for another process's build, may take."""
PACKAGE = "growstage_kernels"
"""The import name of the optional wheel that carries a compiled library."""
_PORTABLE = ("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")  # part of x86-64-v3
_STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000ULL"  # torch 2.11
_CXX = ("-O3", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-fopenmp-simd", "-Wall", "-Wextra")
_NVCC = ("-O3", "-std=c++20", "-Werror", "all-warnings", "-Xcompiler", "-fPIC,-fvisibility=hidden")


class BuildError(RuntimeError):
    """The kernels could not be built; the message says why, compiler output included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A library and what it is compiled from."""

    library: str
    """Its file name."""
    folder: Path
    """All sources and headers below it belong to the library."""
    options: tuple[str, ...] = ()
    """Options of the C++ compiler beside those of all projects."""
    uses_torch: bool = False
    """Whether it includes the headers of torch's stable ABI and is linked to torch."""

    def sources(self, *, cuda: bool, headers: bool = False) -> list[Path]:
        """Source files, in a fixed order."""
        kinds = {".cpp", ".cu", ".h", ".cuh"} if headers else {".cpp", ".cu"}
        found = sorted(path for path in self.folder.rglob("*") if path.suffix in kinds)
        return [path for path in found if cuda or "cuda" not in path.relative_to(self.folder).parts]

    def digest(self) -> str:
        """Digest of all sources, CUDA included."""
        state = hashlib.sha256()
        for path in self.sources(cuda=True, headers=True):
            state.update(str(path.relative_to(self.folder)).encode() + path.read_bytes())
        return state.hexdigest()


OPS = Project(
    library=LIBRARY, folder=Path(__file__).parent / "csrc", options=(_STABLE_ABI,), uses_torch=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """What to compile with. ``nvcc`` None = CPU kernels only."""

    project: Project = OPS
    compiler: str
    nvcc: str | None
    architectures: tuple[str, ...]
    """Compute capabilities without the dot; empty without nvcc."""
    portable: bool = False
    """For processors of the last ten years (x86-64-v3) instead of this one."""

    def key(self) -> str:
        """Name of the build: differs wherever the library might."""
        # The same sources are the same library wherever they lie.
        project = (self.project.library, self.project.options, self.project.digest())
        chosen = (self.compiler, self.nvcc, self.architectures, self.portable)
        parts = (project, chosen, torch.__version__, _CXX, _NVCC, _processor())
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]

    def processor(self) -> list[str]:
        """The compiler's flags for the processor."""
        x86 = platform.machine() in ("x86_64", "AMD64")
        if self.portable:
            return ["-march=x86-64-v3"] if x86 else []
        return ["-march=native"] if x86 else ["-mcpu=native"]

    def needs(self) -> list[str]:
        """Features without which a processor cannot run the library."""
        if not self.portable:
            return sorted(features())
        return list(_PORTABLE) if platform.machine() in ("x86_64", "AMD64") else []


def cache_folder() -> Path:
    """Where builds are kept: GROWSTAGE_OPS_CACHE, or growstage/ops in the user's cache."""
    own = os.environ.get("GROWSTAGE_OPS_CACHE")
    if own:
        return Path(own)
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "growstage" / "ops"


def release() -> str:
    """Version of torch without what it was built for: the stable ABI is the same for all."""
    return torch.__version__.partition("+")[0]


def toolchain(project: Project = OPS) -> Toolchain:
    """The compilers found here; BuildError says what is missing.

    GROWSTAGE_OPS_CUDA on|off|auto (auto: nvcc is there and torch can use CUDA) and
    GROWSTAGE_OPS_ARCHS (such as 80,90) decide about the CUDA kernels.
    """
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        raise BuildError("no C++ compiler found (looked for $CXX, c++, g++, clang++)")
    if not any(path.suffix == ".cu" for path in project.sources(cuda=True)):
        return Toolchain(project=project, compiler=compiler, nvcc=None, architectures=())
    wanted = os.environ.get("GROWSTAGE_OPS_CUDA", "auto")
    nvcc = find_nvcc() if wanted == "on" or (wanted == "auto" and torch.version.cuda) else None
    if wanted == "on" and nvcc is None:
        raise BuildError("GROWSTAGE_OPS_CUDA=on, but no nvcc in $CUDA_HOME/bin or on the PATH")
    architectures = _architectures() if nvcc else ()
    return Toolchain(project=project, compiler=compiler, nvcc=nvcc, architectures=architectures)


def packaged() -> Path | None:
    """The library of an installed wheel; BuildError says why it does not fit this machine.

    GROWSTAGE_OPS_CUDA or GROWSTAGE_OPS_ARCHS ask for a build, so they leave it aside.
    """
    found = importlib.util.find_spec(PACKAGE)
    asked = any(os.environ.get(f"GROWSTAGE_OPS_{name}") for name in ("CUDA", "ARCHS"))
    if found is None or not found.origin or asked:
        return None
    path = Path(found.origin).with_name(LIBRARY)
    info = json.loads(path.with_name("build.json").read_text())
    wrong = {
        "other sources": info["sources"] != OPS.digest(),
        f"torch {info['torch']}": info["torch"] != release(),
        "another processor": not set(info["needs"]) <= features(),
        "other devices": not _serves_devices(info["architectures"]),
    }
    if any(wrong.values()):
        made_for = ", ".join(what for what, is_so in wrong.items() if is_so)
        raise BuildError(f"the package {PACKAGE} was made for {made_for}")
    return path


def _serves_devices(architectures: list[str]) -> bool:
    """Are there kernels for all devices here (code for 80 runs on 86, not the other way round)?"""
    if torch.version.cuda is None:
        return True
    if not torch.cuda.is_available():
        return bool(architectures) or find_nvcc() is None
    serves = [
        any(own[:-1] == have[:-1] and have[-1] <= own[-1] for have in architectures)
        for own in _architectures()
    ]
    return all(serves)


def built(tools: Toolchain) -> Path | None:
    """The library of an earlier build, if there is one.

    Raises BuildError where others than its user could have put it there.
    """
    path = cache_folder() / tools.key() / tools.project.library
    if not path.exists():
        return None
    if why := caches.untrusted(path):
        raise BuildError(why)
    return path


def failure(tools: Toolchain) -> str | None:
    """Why an earlier build with this toolchain failed, if it did."""
    path = _failure_file(tools.key())
    return path.read_text() if path.exists() else None


def build(tools: Toolchain, *, again: bool) -> Path:
    """Build, or wait for and take what another process is building. Returns the library.

    Where an earlier build failed, raises BuildError with its reason, unless ``again``; so it does
    where others could write into the cache folder.
    """
    folder = caches.made(cache_folder())
    if why := caches.untrusted(folder):
        raise BuildError(why)
    caches.sweep(folder)
    with _locked(folder / f"{tools.key()}.lock"):
        ready = built(tools)
        if ready:
            return ready
        failed = failure(tools)
        if failed and not again:
            raise BuildError(f"{failed} (tried before; `make ops` tries again)")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            try:
                result = compile_into(tools, Path(scratch))
            except BuildError as error:
                _failure_file(tools.key()).write_text(str(error))
                raise
            os.rename(result, folder / tools.key())
    _failure_file(tools.key()).unlink(missing_ok=True)
    return folder / tools.key() / tools.project.library


def commands(tools: Toolchain, folder: Path) -> tuple[list[list[str]], list[str]]:
    """The compiler calls, which may run side by side, and the link that follows them."""
    package, project = Path(torch.__file__).parent, tools.project
    include = ["-isystem", str(package / "include")] if project.uses_torch else []
    include += [*project.options, "-I", str(project.folder)]
    calls, objects = [], []
    for source in project.sources(cuda=tools.nvcc is not None):
        target = str(folder / f"{source.parent.name}_{source.name}.o")
        objects.append(target)
        if source.suffix == ".cu":
            assert tools.nvcc
            archs = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in tools.architectures]
            # route.cu must round as the CPU does, which fuses no products into sums
            exact = ["-fmad=false"] if source.stem == "route" else []
            calls.append([tools.nvcc, "-ccbin", tools.compiler, *_NVCC, *archs, *exact])
        else:
            calls.append([tools.compiler, *_CXX, *tools.processor(), *include])
        calls[-1] += ["-c", str(source), "-o", target]
    libraries = [f"-L{package / 'lib'}", "-ltorch_cpu"] if project.uses_torch else []
    library = str(folder / project.library)
    if tools.nvcc:
        hide = ["-Xlinker", "--exclude-libs,ALL"]
        start = [tools.nvcc, "-ccbin", tools.compiler, "-shared", "-cudart", "static", *hide]
        return calls, [*start, *objects, *libraries, "-ldl", "-o", library]
    return calls, [tools.compiler, "-shared", *objects, *libraries, "-o", library]


def compile_into(tools: Toolchain, scratch: Path) -> Path:
    """Compile in an empty folder. Returns its folder of the library and ``build.json``."""
    calls, link = commands(tools, scratch)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(_run, calls))
    _run(link)
    result = scratch / "result"
    result.mkdir()
    os.rename(scratch / tools.project.library, result / tools.project.library)
    info = {"architectures": tools.architectures, "needs": tools.needs()}
    info |= {"torch": release(), "sources": tools.project.digest()}
    Path(result, "build.json").write_text(json.dumps(info))
    return result


def _run(call: list[str]) -> None:
    try:
        subprocess.run(call, check=True, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or [error.stderr]
        raise BuildError(f"{Path(call[0]).name} failed: {' | '.join(lines[:3])}") from error
    except (subprocess.TimeoutExpired, OSError) as error:
        raise BuildError(f"{Path(call[0]).name} did not run: {error}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a build; the operating system frees it if the holder dies."""
    with path.open("w") as file:
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BuildError(f"another process has held {path} for too long") from None
                time.sleep(0.1)
        yield


def _failure_file(key: str) -> Path:
    return cache_folder() / f"{key}.failed"


def find_nvcc() -> str | None:
    """nvcc of $CUDA_HOME, of /usr/local/cuda or on the PATH."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [str(Path(home, "bin")) for home in homes if home]
    return shutil.which("nvcc", path=os.pathsep.join([*places, os.environ.get("PATH", "")]))


def _architectures() -> tuple[str, ...]:
    named = os.environ.get("GROWSTAGE_OPS_ARCHS")
    if named:
        return tuple(part.strip() for part in named.split(",") if part.strip())
    if torch.version.cuda and torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        found = {torch.cuda.get_device_capability(device) for device in devices}
        return tuple(f"{major}{minor}" for major, minor in sorted(found))
    return ARCHITECTURES


def features() -> frozenset[str]:
    """What this processor can do, as Linux names it."""
    return frozenset(_processor().partition(":")[2].split())


def _processor() -> str:
    """What a build for this processor depends on: a cache folder may be shared by many nodes."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"
