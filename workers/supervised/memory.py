"""How much memory a lane's worker will need, measured without allocating it.

The model is built on torch's meta device, where tensors have shapes and no data, and takes one
gradient step there while every storage is counted. Knows no cluster and loads no data.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workers.contract import Memory
from workers.edits import Role
from workers.models import MODELS, Model
from workers.models.estimate import grown
from workers.moe.domains.specialise import roles_of
from workers.moe.stepping import telling
from workers.supervised.building import build_optimizer
from workers.supervised.no_compiler import no_compiler
from workers.supervised.precision import lower
from workers.supervised.recomputation import recompute_blocks
from workers.supervised.stage import SCORE_SAMPLES
from workers.tables import construct

FLOAT32 = 4
"""Bytes of a float32."""


@no_compiler()
def estimate(
    stream: Any,
    config: Any,
    training: Any,
    experts: int | None,
    workers: int = 1,
    trains: Sequence[Sequence[Role]] = (),
    device: str = "cpu",
    share: float = 1.0,
) -> Memory:
    """Memory of each of a lane's ``workers``, with its model grown to ``experts`` (None = as it
    starts).

    ``config``, ``training``: Configs of ``[model]`` and ``[training]``. ``trains``: sets of roles
    (``workers.edits.Role``) of which one at a time is trained; empty = everything is. ``device``:
    "cpu" or "cuda". ``share``: of each layer's experts, those that masks let train (at least one).
    """
    model = _model(stream, config, training, experts)
    free = {p for p in model.parameters() if p.requires_grad} - _masked(model, share)
    sets = [_trained(model, roles) & free for roles in trains] or [free]
    per_element, weights = _kept(training), _bytes(model.parameters()) + _bytes(model.buffers())
    optimizer = sum(int(per_element * p.numel()) for p in set().union(*sets))
    samples = training.batch // (workers * training.accumulate)
    peaks = [_step(model, learns, _inputs(stream, model, samples), training) for learns in sets]
    objective = stream.objective
    looked_at = min(SCORE_SAMPLES, objective.most_looked_at or SCORE_SAMPLES)
    scored = min(training.evaluated(objective), max(1, looked_at // workers))
    scoring = _forward(model, _inputs(stream, model, scored))
    gradients = [_bytes(learns) for learns in sets]
    updates = [_update(training, learns, device) for learns in sets]
    known = [peak for peak in peaks if peak is not None]
    total, activations = None, None
    if scoring is not None and len(known) == len(peaks):
        busiest, activations = max(
            (max(peak, gradient + update, gradient + scoring), peak - gradient)
            for peak, gradient, update in zip(known, gradients, updates, strict=True)
        )
        total = weights + optimizer + busiest
    return Memory(
        weights=weights,
        gradients=max(gradients),
        optimizer=optimizer,
        activations=activations,
        update=max(updates),
        scoring=scoring,
        total=total,
    )


# ---------------------------------------------------------------- what there is


def _model(stream: Any, config: Any, training: Any, experts: int | None) -> Model:
    """The model as a worker trains it, without data."""
    if experts is not None and config.max_experts is None:
        config = replace(config, experts=experts)  # the present number sets the widths
    shape = stream.input_shape, stream.outputs
    model: Model = grown(lambda: construct(MODELS, config, *shape, seed=0), experts)
    if training.precision == "bfloat16":
        lower(model)
    if training.checkpoint_activations:
        recompute_blocks(model)
    return model.train()


def _trained(model: Model, roles: Sequence[Role]) -> set[nn.Parameter]:
    by_role = roles_of(model)
    return {parameter for role in roles for parameter in by_role[role]}


def _masked(model: Model, share: float) -> set[nn.Parameter]:
    """Parameters of the experts that masks keep from training, where a share of them trains."""
    found: set[nn.Parameter] = set()
    for layer in model.routed.values():
        trained = max(1, math.ceil(share * layer.live))
        for expert in list(layer.experts.values())[trained:]:
            found |= set(expert.parameters())
    return found


def _inputs(stream: Any, model: Model, samples: int) -> Tensor:
    """A batch without data: token ids for language models, else numbers."""
    dtype = torch.int64 if "tokens" in model.capabilities else torch.float32
    return torch.empty((samples, *stream.input_shape), dtype=dtype, device="meta")


def _kept(training: Any) -> float:
    """Bytes that the optimizer keeps for each element of a parameter."""
    probe = nn.Linear(32, 32, bias=False)
    if training.precision == "bfloat16":
        lower(probe)
    optimizer = build_optimizer(training, probe)
    probe.weight.grad = torch.ones_like(probe.weight)
    optimizer.step()
    kept = [v for v in optimizer.state[probe.weight].values() if isinstance(v, Tensor) and v.dim()]
    return _bytes(kept) / probe.weight.numel()


def _update(training: Any, learns: set[nn.Parameter], device: str) -> int:
    """What the optimizer's step holds: float32 gradients of master weights, and an intermediate as
    large as all parameters (foreach, torch's default on a GPU) or as the largest one."""
    sizes = [parameter.numel() for parameter in learns] or [0]
    probe = nn.Linear(1, 1)
    (group, *_) = build_optimizer(training, probe).param_groups
    together = group.get("foreach") or (device != "cpu" and not group.get("fused"))
    between = sum(sizes) if together else 2 * max(sizes)
    lowered = training.precision == "bfloat16"
    return FLOAT32 * (between + (sum(sizes) if lowered else 0))


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# ---------------------------------------------------------------- a step without data


def _step(model: Model, learns: set[nn.Parameter], x: Tensor, training: Any) -> int | None:
    """The most bytes that live at once in a gradient step beside the weights, gradients included.

    The loss is a cross entropy over the outputs' last dimension.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in learns)
        parameter.grad = None
    peak = _Live(model)
    try:
        with peak, telling(model, _anywhere(x, 2)):
            for _ in range(min(training.accumulate, 2)):  # the second finds gradients there
                loss = -nn.functional.log_softmax(model(x.clone()), -1).mean()
                terms = tuple(model.auxiliary_losses().values())
                if terms:
                    loss = loss + torch.stack(terms).sum()
                if loss.requires_grad:
                    loss.backward()
                del loss, terms
    except (NotImplementedError, RuntimeError):  # an op that needs data
        return None
    return peak.most


@torch.no_grad()
def _forward(model: Model, x: Tensor) -> int | None:
    """The most bytes that live at once in a forward pass beside the weights."""
    peak = _Live(model)
    model.eval()
    try:
        with peak, telling(model, _anywhere(x, 1)):
            model(x.clone())
    except (NotImplementedError, RuntimeError):
        return None
    finally:
        model.train()
    return peak.most


def _anywhere(x: Tensor, passes: int) -> Tensor:
    """Domains for so many passes of the samples, where a model needs some."""
    return torch.zeros(passes * len(x), dtype=torch.int64, device=x.device)


class _Live(TorchDispatchMode):
    """Counts the bytes of storages that ops make, as long as somebody holds them."""

    def __init__(self, model: nn.Module) -> None:
        """``model``: what is not counted."""
        super().__init__()
        self.most = 0
        self._now = 0
        # held, lest another storage take the place of a buffer that a forward replaces
        self._apart = [t.untyped_storage() for t in (*model.parameters(), *model.buffers())]
        self._known = {storage._cdata for storage in self._apart}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self._now += storage.nbytes()
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
