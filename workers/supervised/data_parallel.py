"""The workers of one lane that train together: what each takes of a batch, and what they add up.

Every worker holds the whole model and takes every step; only the samples of a step are shared
out. Knows torch.distributed, but no Ray, no method and no edit: what is summed is looked up in the
model by name, so that an edit may change the set of parameters between two intervals.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from workers.contract import LostError, derive_seed

TIMEOUT = timedelta(minutes=30)
"""How long a worker waits for the others at one point; a lost one is noticed at once."""


class Replicas:
    """The only worker of its lane: it takes every sample and has nothing to add up."""

    rank = 0
    size = 1

    def watch(self, model: nn.Module) -> None:
        """Look up what is summed; call it whenever the model's parameters have changed."""

    def part(self, samples: int) -> slice:
        """This worker's share of a batch, along its first dimension; may be empty."""
        share, rest = divmod(samples, self.size)
        start = self.rank * share + min(self.rank, rest)
        return slice(start, start + share + (self.rank < rest))

    def own_draws(self, seed: int, step: int) -> AbstractContextManager[None]:
        """Inside, torch's global generator is this worker's own; afterwards it is as before."""
        return nullcontext()

    def sum_gradients(self, loss: Tensor, share: float) -> Tensor:
        """Turn gradients of this worker's mean loss into those of the whole batch's.

        ``share``: this worker's part of the batch's samples. Returns the loss over all samples.
        """
        return loss

    def sum_counts(self, counts: Tensor) -> Tensor:
        """The counts added up over the workers; integers, or doubles."""
        return counts

    def sum_named(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Scalars by name, added up over the workers; each gives its own share of them.

        Nothing where workers have other names, as one that had no sample all the time.
        """
        return {name: value.item() for name, value in values.items()}

    def close(self) -> None:
        """Leave the others."""


ALONE = Replicas()


class Group(Replicas):
    """One of several workers that hold equal replicas of a model and keep them equal."""

    def __init__(self, rank: int, size: int, group: Any, device: torch.device) -> None:
        """``group``: a connected process group of torch.distributed."""
        self.rank, self.size = rank, size
        self._group, self._device = group, device
        self._generators = [torch.default_generator]
        if device.type == "cuda":
            torch.cuda.init()  # there are no generators before
            self._generators.append(torch.cuda.default_generators[device.index or 0])
        self._parameters: tuple[nn.Parameter, ...] = ()
        self._statistics: tuple[tuple[nn.Module, str], ...] = ()
        self._agreed = torch.empty(0)

    def watch(self, model: nn.Module) -> None:
        """Parameters that are trained, in the order of their names, and running statistics.

        A statistic is a persistent floating-point buffer: a router's offset, a running quantile.
        """
        named = sorted(model.named_parameters(), key=lambda item: item[0])
        self._parameters = tuple(parameter for _, parameter in named if parameter.requires_grad)
        kept = set(model.state_dict())
        self._statistics = tuple(
            (module, name)
            for prefix, module in sorted(model.named_modules(), key=lambda item: item[0])
            for name, buffer in module.named_buffers(recurse=False)
            if f"{prefix}.{name}".lstrip(".") in kept and buffer.is_floating_point()
        )
        self._agreed = self._statistics_now()

    @contextmanager
    def own_draws(self, seed: int, step: int) -> Iterator[None]:
        """Dropout and the like differ between workers; what all draw alike stays alike."""
        kept = [generator.get_state() for generator in self._generators]
        own = derive_seed(seed, "replica", self.rank, step)
        for generator in self._generators:
            generator.manual_seed(own)
        try:
            yield
        finally:
            for generator, state in zip(self._generators, kept, strict=True):
                generator.set_state(state)

    def sum_gradients(self, loss: Tensor, share: float) -> Tensor:
        """One flat all-reduce in the order of the parameters' names.

        Everything is weighted by the worker's share of the samples: gradients, the loss, and how
        far the running statistics moved since all last had the same. A parameter without gradient
        counts as zeros; where no worker has one, there is none afterwards either, so that the
        optimizer leaves the parameter and its state alone.
        """
        parameters = self._parameters
        present = [float(parameter.grad is not None) for parameter in parameters]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        now = self._statistics_now()
        moved = torch.where(now == self._agreed, 0.0, now - self._agreed)  # may be infinite
        tensors = [*gradients, moved, loss.detach(), torch.tensor(present, device=loss.device)]
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).mul_(share)
        self._all_reduce(flat)
        *gradients, moved, loss, anywhere = flat.split([tensor.numel() for tensor in tensors])
        learnt = present if all(present) else anywhere.tolist()
        for parameter, gradient, found in zip(parameters, gradients, learnt, strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if found else None
        self._agree(moved)
        return loss[0]

    def sum_counts(self, counts: Tensor) -> Tensor:
        total = counts.to(self._device, copy=True)
        self._all_reduce(total)
        return total.to(counts.device)

    def sum_named(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        names = sorted(values)
        key = derive_seed(names) >> 8
        first, second = self.sum_counts(torch.tensor([key, key * key])).tolist()
        alike = self.size * second == first * first  # no variance; every worker finds the same
        if not (alike and names):
            return {}
        total = self.sum_counts(torch.stack([values[name] for name in names]))
        return dict(zip(names, total.tolist(), strict=True))

    def close(self) -> None:
        self._group.shutdown()

    def _all_reduce(self, tensor: Tensor) -> None:
        try:
            self._group.allreduce([tensor]).wait()
        except RuntimeError as error:
            raise LostError(f"worker {self.rank} lost another one: {error}") from error

    def _statistics_now(self) -> Tensor:
        found = [getattr(module, name).reshape(-1) for module, name in self._statistics]
        return torch.cat(found) if found else torch.empty(0, device=self._device)

    @torch.no_grad()
    def _agree(self, moved: Tensor) -> None:
        """Every worker's statistics <- what all had, moved as far as all moved together."""
        if not self._statistics:
            return
        self._agreed = self._agreed + moved
        tensors = [getattr(module, name) for module, name in self._statistics]
        parts = self._agreed.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


# ---------------------------------------------------------------- meeting


class Meeting:
    """The place where the workers of a lane meet: worker 0 opens it, on its own address only."""

    def __init__(self, host: str) -> None:
        family = socket.getaddrinfo(host, 0)[0][0]
        listening = socket.create_server((host, 0), family=family)
        self.port: int = listening.getsockname()[1]
        self.store = dist.TCPStore(
            host,
            self.port,
            is_master=True,
            wait_for_workers=False,
            timeout=TIMEOUT,
            master_listen_fd=listening.detach(),
        )
        self.address = f"{host}:{self.port}"


def join(
    rank: int, size: int, address: str, host: str, device: torch.device, meeting: Meeting | None
) -> Group:
    """Meet the other workers at ``address``; returns once all are there.

    ``host``: address of this machine that the others reach it under. ``meeting``: worker 0's own.
    Raises LostError where they do not come.
    """
    try:
        store = meeting.store if meeting is not None else _visit(address)
        group = CONNECT[device.type](store, rank, size, host)
    except RuntimeError as error:
        raise LostError(f"worker {rank} could not join the lane's others: {error}") from error
    return Group(rank, size, group, device)


def _visit(address: str) -> Any:
    host, _, port = address.rpartition(":")
    return dist.TCPStore(host, int(port), is_master=False, timeout=TIMEOUT)


def _gloo(store: Any, rank: int, size: int, host: str) -> Any:
    """On ``host`` rather than where the machine's name points, often the loopback device."""
    options: Any = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
    options._timeout = TIMEOUT
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Any, rank: int, size: int, host: str) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = TIMEOUT
    return dist.ProcessGroupNCCL(store, rank, size, options)


CONNECT: Mapping[str, Callable[[Any, int, int, str], Any]] = {"cpu": _gloo, "cuda": _nccl}
"""Kind of device -> how its workers are connected."""
