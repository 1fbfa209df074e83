"""The data of a task: arrays of any shape in memory or on disk, in three parts, with a digest.

Knows nothing of streams, models and training. Letters: N samples of a part, n samples asked for.
"""

from __future__ import annotations

import hashlib
import math
import tokenize
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.contract import InputError

CHUNK_BYTES = 1 << 24
"""Bytes of an array on disk that are looked at at once."""
NO_ARRAY = (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, tokenize.TokenError)
"""What ``numpy.load`` raises where a file holds no array that can be read."""


class Rows:
    """Samples of arrays that stay where they are, e.g. memory-mapped files; read when asked for.

    Behaves like a tensor [N, ...] that can be indexed, split and asked for shape and type; what it
    gives out are tensors in memory.
    """

    def __init__(
        self,
        *arrays: np.ndarray,
        index: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """``arrays``: number arrays [N_i, ...] alike in shape, one behind the other.

        ``index``: int64 [N], the samples in their order (None = all as they lie). ``dtype``: type
        of what is given out (None = as stored).
        """
        self.arrays, self.index = arrays, index
        self.shape = (self._stored if index is None else len(index), *arrays[0].shape[1:])
        self.dtype = dtype or _native(arrays[0][:0]).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: Tensor | slice) -> Tensor:
        """Samples at places (int64 [n]) or in a slice, [n, ...], in memory."""
        if isinstance(at, slice):
            at = torch.arange(*at.indices(len(self)))
        places = at.cpu() if self.index is None else self.index[at.cpu()]
        return self._read(places.numpy()).to(self.dtype)

    def dim(self) -> int:
        """Number of axes, that of the samples included."""
        return len(self.shape)

    def split(self, size: int) -> Iterator[Tensor]:
        """The samples in order, ``size`` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def take(self, index: Tensor) -> Rows:
        """The samples at these places (int64 [n]); nothing is read."""
        kept = index.cpu() if self.index is None else self.index[index.cpu()]
        return Rows(*self.arrays, index=kept, dtype=self.dtype)

    def to(self, dtype: torch.dtype) -> Rows:
        """The same samples, given out in another type; nothing is read."""
        return Rows(*self.arrays, index=self.index, dtype=dtype)

    @property
    def _stored(self) -> int:
        return sum(len(array) for array in self.arrays)

    def _read(self, places: np.ndarray) -> Tensor:
        """Stored samples at places of all arrays together."""
        if len(self.arrays) == 1:
            return _native(self.arrays[0][places])
        found = np.empty((len(places), *self.shape[1:]), np.result_type(*self.arrays))
        start = 0
        for array in self.arrays:
            inside = (places >= start) & (places < start + len(array))
            found[inside] = array[places[inside] - start]
            start += len(array)
        return _native(found)


Array = Tensor | Rows
"""[N, ...]: a tensor in memory, or samples on disk."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Samples with what is to be learnt of them."""

    x: Any
    """[N, ...], inputs: float32 or int64 where it comes from ``Stream.data``."""
    y: Any
    """What the stream's objective compares outputs with: int64 [N] labels, float32 [N, K] ...; on
    disk (``Rows``) where there is one for each token."""
    domain: Tensor | None = None
    """int64 [N], place of each sample's domain in the task's ``domains``; None where all are of
    the task's one domain."""

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Part:
        """The samples at these places (int64 [n]), in their order."""
        domain = None if self.domain is None else self.domain[index]
        return Part(_taken(self.x, index), _taken(self.y, index), domain)

    def in_memory(self) -> Part:
        """The same samples, read from disk where they lie there."""
        return Part(self.x[:], self.y[:], self.domain)

    def head(self, samples: int) -> Part:
        """The first samples."""
        return self if samples >= len(self) else self.take(torch.arange(samples))

    @property
    def bytes(self) -> int:
        """Memory that the arrays take; what lies on disk takes none."""
        arrays = [a for a in (self.x, self.y, self.domain) if isinstance(a, Tensor)]
        return sum(array.numel() * array.element_size() for array in arrays)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskData:
    """Data of one task, on the CPU. Build it with ``TaskData.of``; never change it in place."""

    train: Part
    validation: Part | None
    """What searches choose on; None where there is none."""
    test: Part
    source: str
    """Origin in words, e.g. ``fashion_mnist: classes 0,1``."""
    digest: str
    """SHA-256 (16 hex digits) over the arrays as they are stored, and over a validation draw."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What lineage should tell of it beside."""

    @classmethod
    def of(
        cls, *, train: Part, test: Part, source: str, validation: Part | None = None
    ) -> TaskData:
        """Check the parts (tensors or NumPy arrays) and add their digest.

        Inputs: numbers [N, ...]; in memory, floats become float32; a memory-mapped array
        (``np.memmap``, ``np.load(..., mmap_mode="r")``, ``torch.from_file(..., shared=True)``)
        stays on disk. Targets: integers become int64, floats float32; ``Rows`` stay on disk.
        Raises InputError naming ``source`` and part where shapes do not fit, a part is empty, or
        a value is not finite.
        """
        train = _checked(f"{source}: training part", train)
        test = _checked(f"{source}: test part", test)
        if validation is not None:
            validation = _checked(f"{source}: validation part", validation)
        parts = [part for part in (train, test, validation) if part is not None]
        arrays = [array for part in parts for array in (part.x, part.y)]
        domains = [part.domain for part in parts if part.domain is not None]
        return cls(
            train=train,
            validation=validation,
            test=test,
            source=source,
            digest=arrays_digest((*arrays, *domains)),
        )

    @property
    def parts(self) -> dict[str, Part]:
        """The parts there are, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}

    @property
    def bytes(self) -> int:
        """Memory that the arrays take."""
        return sum(part.bytes for part in self.parts.values())

    def of_type(self, dtype: torch.dtype) -> TaskData:
        """The same data with inputs given out in this type; the digest stays."""
        validation = None if self.validation is None else of_type(self.validation, dtype)
        return replace(
            self,
            train=of_type(self.train, dtype),
            validation=validation,
            test=of_type(self.test, dtype),
        )


def of_type(part: Part, dtype: torch.dtype) -> Part:
    """The same part with inputs given out in this type."""
    return Part(part.x.to(dtype), part.y, part.domain)


def concatenated(parts: Sequence[Part]) -> Part:
    """Parts one behind the other, without their domains; what lies on disk stays there."""
    return Part(joined([part.x for part in parts]), joined([part.y for part in parts]))


def joined(several: Sequence[Array]) -> Array:
    """Arrays [N_i, ...] one behind the other: on disk, nothing read, where one of them is."""
    tensors = [array for array in several if isinstance(array, Tensor)]
    if len(tensors) == len(several):
        return torch.cat(tensors)
    pieces = [array if isinstance(array, Rows) else Rows(array.numpy()) for array in several]
    starts = np.cumsum([0, *(sum(len(a) for a in piece.arrays) for piece in pieces)])
    index = [
        (torch.arange(len(piece)) if piece.index is None else piece.index) + int(start)
        for piece, start in zip(pieces, starts, strict=False)
    ]
    arrays = [array for piece in pieces for array in piece.arrays]
    return Rows(*arrays, index=torch.cat(index), dtype=pieces[0].dtype)


def arrays_digest(arrays: Iterable[Array]) -> str:
    """SHA-256 (16 hex digits) over type, shape and contents; arrays on disk are read in chunks."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{tuple(array.shape)}".encode())
        for chunk in chunks(array):
            total.update(chunk.contiguous().numpy().data)
    return total.hexdigest()[:16]


def chunks(array: Array) -> Iterable[Tensor]:
    """The samples in order: a tensor whole, an array on disk a few megabytes at a time."""
    if isinstance(array, Tensor):
        return (array,)
    sample = math.prod(array.shape[1:]) * array.dtype.itemsize
    return array.split(max(1, CHUNK_BYTES // max(1, sample)))


def _taken(array: Array, index: Tensor) -> Array:
    return array.take(index) if isinstance(array, Rows) else array[index]


def _checked(where: str, part: Part) -> Part:
    x, y = _inputs(where, part.x), _targets(where, part.y)
    if x.dim() < 2 or len(x) != len(y):
        raise InputError(
            f"{where}: inputs {tuple(x.shape)} with targets {tuple(y.shape)}; inputs must be "
            "[N, ...] with at least one axis beside the samples, and targets [N] or [N, ...]"
        )
    if len(x) == 0:
        raise InputError(f"{where}: has no samples; every task needs some to train and to test on")
    if part.domain is not None and len(part.domain) != len(y):
        raise InputError(
            f"{where}: {len(part.domain)} domain labels for {len(y)} samples; every sample needs "
            "one"
        )
    for name, array in (("inputs", x), ("targets", y)):
        if array.dtype.is_floating_point and not all(map(_finite, chunks(array))):
            raise InputError(f"{where}: {name} hold nan or inf; clean the data")
    return Part(x, y, part.domain)


def _inputs(where: str, x: Any) -> Array:
    if isinstance(x, Rows):
        return x
    if isinstance(x, np.memmap):
        return Rows(_numbers(where, x))
    tensor = x.cpu() if isinstance(x, Tensor) else _in_memory(where, np.asarray(x))
    if tensor.untyped_storage().filename is not None:
        return Rows(_numbers(where, tensor.numpy()))
    _numbers(where, tensor[:0].numpy())
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()


def _in_memory(where: str, array: np.ndarray) -> Tensor:
    """The array as a tensor, copied only where it cannot be shared."""
    native = np.asarray(_numbers(where, array), dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(np.require(native, requirements="W"))


def _targets(where: str, y: Any) -> Array:
    if isinstance(y, Rows):
        return y.to(torch.float32 if y.dtype.is_floating_point else torch.int64)
    found = _numbers(where, np.asarray(y))
    kind = np.float32 if found.dtype.kind == "f" else np.int64
    return torch.from_numpy(np.array(found, dtype=kind))


def _numbers(where: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iuf":
        raise InputError(
            f"{where}: an array of type {array.dtype}; inputs and targets must be integers or "
            "floating-point numbers"
        )
    return array


def _finite(chunk: Tensor) -> bool:
    """One pass over the values; both ends carry nan along."""
    return all(math.isfinite(end) for end in chunk.aminmax()) if chunk.numel() else True


def _native(array: np.ndarray) -> Tensor:
    """A tensor of its own, in this machine's byte order."""
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
