"""How probes come about: samples drawn by seed, features and routing seen in a forward pass.

Letters: N samples, T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from workers.contract import Json
from workers.diagnostics import Gates, Probe, made
from workers.moe.routed import Routed, observing, routed_layers
from workers.moe.stepping import telling

PROBE_SAMPLES = 256
"""Samples of a task on which features are looked at."""
DRIFT_SAMPLES = 32
"""Samples of a task whose gate weights are told one by one, for drift between two moments."""
DECIMALS = 5

ACTIVATIONS = frozenset(
    [
        *(torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, functional.relu, functional.relu6),
        *(torch.tanh, Tensor.tanh, functional.tanh, functional.hardtanh, functional.softplus),
        *(functional.gelu, functional.silu, functional.mish, functional.hardswish),
        *(functional.elu, functional.selu, functional.celu, functional.leaky_relu),
        *(functional.prelu, torch.prelu),
    ]
)
"""Functions whose results are features. Gating ones (sigmoid, softmax) are not."""


# ---------------------------------------------------------------- watching a forward pass


@contextmanager
def observe(model: nn.Module) -> Iterator[Callable[[], dict[str, Gates]]]:
    """Routed layer -> what it did since the last call, for forward passes inside the block.

    The one place that knows how routed layers tell what they do.
    """
    layers = routed_layers(model)
    with observing(model, _gates) as kept:

        def take() -> dict[str, Gates]:
            taken = {
                name: replace(
                    _together(parts, layers[name].rounds),
                    ids=layers[name].ids,
                    born=layers[name].born,
                )
                for name, parts in kept.items()
                if parts
            }
            for parts in kept.values():
                parts.clear()
            return taken

        yield take


def _gates(routed: Routed) -> Gates:
    """The part of a pass that diagnostics look at; inputs and logits are let go."""
    return Gates(
        weights=routed.weights.detach(),
        chosen=routed.chosen,
        probabilities=routed.probabilities.detach(),
    )


def _together(parts: Sequence[Gates], rounds: int = 1) -> Gates:
    """Gates of consecutive tokens, or of each token's passes where a layer has several rounds."""
    return replace(
        parts[0],
        weights=_rows([part.weights for part in parts], rounds),
        chosen=_rows([part.chosen for part in parts], rounds),
        probabilities=_rows([part.probabilities for part in parts], rounds),
    )


def _rows(passes: Sequence[Tensor], rounds: int) -> Tensor:
    """Passes [T, E] one behind the other; those of one forward with the rounds of a token together,
    as positions of a sample lie together."""
    if rounds == 1:
        return torch.cat(list(passes))
    forwards = [passes[start : start + rounds] for start in range(0, len(passes), rounds)]
    return torch.cat([torch.stack(list(several), 1).flatten(0, 1) for several in forwards])


def by_sample(gates: Gates, samples: int) -> Tensor:
    """Mean gate weights of each of N samples over its positions and rounds, [N, E] by id."""
    return gates.by_id(gates.weights.unflatten(0, (samples, -1)).mean(1))


def mean_weights(routed: Mapping[str, Gates]) -> dict[str, list[float]]:
    """Layer -> mean gate weight of each expert by id over all tokens [E]."""
    return {
        layer: gates.by_id(gates.weights.double().mean(0)).tolist()
        for layer, gates in routed.items()
    }


def drift_probe(
    routed: Mapping[str, Gates], samples: int, index: Tensor
) -> dict[str, list[list[float]]]:
    """Layer -> gate weights [n][E] of ``index`` (int64 [n]) of the ``samples`` evaluated ones.

    Rounded: small enough for a journal. Of a sample with several positions the middle one is told;
    layers with a single expert have nothing to tell.
    """
    told: dict[str, list[list[float]]] = {}
    for layer, gates in routed.items():
        positions, experts = len(gates.weights) // samples, gates.weights.shape[1]
        if experts > 1 and positions:
            rows = gates.weights[(index * positions + positions // 2).to(gates.weights.device)]
            by_id = gates.by_id(rows).tolist()
            told[layer] = [[round(gate, DECIMALS) for gate in row] for row in by_id]
    return told


def joined(parts: Sequence[Mapping[str, Gates]]) -> dict[str, Gates]:
    """Gates of the same layers over all parts, first part first."""
    layers = parts[0] if parts else {}
    return {layer: _together([part[layer] for part in parts]) for layer in layers}


class Seen(TorchFunctionMode):
    """What a model gave in the one forward inside ``with seen:``: outputs, and features by layer.

    A layer is the module whose output an activation function reads (else the one that runs it), so
    that modules and plain functions count alike; several of one module are numbered
    ``<layer>.0``, ``<layer>.1``. Nothing inside routed layers is kept: how they run their experts
    is their business.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.outputs: Tensor | None = None
        self._kept: dict[str, list[Tensor]] = {}
        self._made: dict[int, tuple[str, Tensor]] = {}  # an id holds while its tensor lives
        self._running: list[str] = []
        self._watching = False
        self._routed = 0
        routers = set(routed_layers(model).values())
        self._handles: list[Any] = []
        for name, part in model.named_modules():
            routes = part in routers
            self._handles += [
                part.register_forward_pre_hook(partial(self._enter, name, routes)),
                part.register_forward_hook(partial(self._leave, name, routes)),
            ]

    @property
    def activations(self) -> dict[str, Tensor]:
        """Layer -> features, as in ``Probe.activations``."""
        found: dict[str, Tensor] = {}
        for name, kept in self._kept.items():
            numbered = {f"{name}.{number}": part for number, part in enumerate(kept)}
            found |= {name: kept[0]} if len(kept) == 1 else numbered
        return found

    def __enter__(self) -> Self:
        super().__enter__()
        self._kept, self.outputs = {}, None
        self._watching = True
        return self

    def __exit__(self, *error: Any) -> None:
        self._watching = False
        self._made.clear()
        super().__exit__(*error)

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if self._routed or func not in ACTIVATIONS:
            return func(*args, **(kwargs or {}))
        read = args[0] if args else kwargs["input"]
        name = self._made[id(read)][0] if id(read) in self._made else self._place()
        features = func(*args, **(kwargs or {}))
        self._kept.setdefault(name, []).append(features.detach())
        return features

    def _place(self) -> str:
        return (self._running[-1] if self._running else "") or "model"

    def _enter(self, name: str, routes: bool, part: nn.Module, inputs: Any) -> None:
        if not self._watching:
            return
        self._running.append(name)
        self._routed += routes

    def _leave(self, name: str, routes: bool, part: nn.Module, inputs: Any, output: Any) -> None:
        if not self._watching:
            return
        self._running.pop()
        self._routed -= routes
        if not isinstance(output, Tensor):
            return
        self._made.setdefault(id(output), (name, output))
        if name == "":
            self.outputs = output.detach()


@contextmanager
def seeing(model: nn.Module) -> Iterator[Seen]:
    """A watch on the model; it looks inside ``with seen:`` and can be read until the block ends."""
    seen = Seen(model)
    try:
        yield seen
    finally:
        seen.close()


# ---------------------------------------------------------------- probes


def pooled(
    probes: Sequence[Probe],
    domains: tuple[str, ...],
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    samples: int = PROBE_SAMPLES,
) -> Probe:
    """The probe of all tasks: every token's routing, and a few samples of each.

    ``domains``: those of all tasks; ``loss`` of (outputs, targets): take its gradients too;
    ``samples``: of all tasks together, but at least one of each. Features are left out; they are
    compared task by task.
    """
    few = max(1, samples // len(probes))
    model, inputs = probes[0].model, torch.cat([_thinned(probe.inputs, few) for probe in probes])
    given = [_thinned(probe.targets, few) for probe in probes if probe.targets is not None]
    targets = torch.cat(given) if given else None
    probe = Probe(
        model=model,
        inputs=inputs,
        outputs=torch.cat([_thinned(probe.outputs, few) for probe in probes]),
        targets=targets,
        routed=joined([probe.routed for probe in probes]),
        domains=domains,
        domain=torch.cat([_places(probe.domain, probe, domains) for probe in probes]),
        start=probes[0].start,
        loss=loss,
        inputs_domain=_inputs_domain(probes, domains, few),
        stream_domains=probes[0].stream_domains,
        score=probes[0].score,
        events=_pooled_events(probes),
    )
    if loss is None or targets is None:
        return probe
    with telling(model, probe.told):
        return replace(probe, gradients=gradients(model, loss, inputs, targets))


def gradients(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> dict[str, Tensor | None]:
    """Gradient of ``loss(model(x), y)`` by parameter, None for frozen ones; leaves none behind."""
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not learning:
        return {name: None for name, _ in model.named_parameters()}
    with torch.enable_grad():
        value = loss(model(x), y)
        found = torch.autograd.grad(value, list(learning.values()), allow_unused=True)
    by_name: dict[str, Tensor | None] = dict(zip(learning, found, strict=True))
    return {name: by_name.get(name) for name, _ in model.named_parameters()}


def at_start(
    entries: Iterable[Any],
    model: nn.Module,
    part: Any,
    domains: tuple[str, ...],
    seed: int,
    *,
    most: int | None = None,
    kept: Callable[[int], int] = lambda samples: samples,
    batch: int = PROBE_SAMPLES,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Json]:
    """What policies asked for at the start of a stage: name -> ``Diagnostic.told``.

    ``part``: the stage's training data, x [N, ...], y [N, ...] and ``domain`` (int64 [N], place in
    ``domains``; None = one). Each diagnostic sees ``samples`` of each domain, at most ``most``,
    drawn by ``seed``. ``kept``: how many of so many samples may have their outputs and features
    kept; where these are not all, the others pass ``batch`` at a time, for their routing alone.
    ``loss``: of (outputs, targets), for diagnostics that take gradients.
    """
    domain_N = torch.zeros(len(part), dtype=torch.long) if part.domain is None else part.domain
    domain_N = domain_N.cpu()
    told: dict[str, Json] = {}
    for name, diagnostic in made(entries).items():
        wanted = diagnostic.samples if most is None else min(most, diagnostic.samples)
        index = _drawn(domain_N, len(domains), wanted, seed)
        probe = _looked_at(model, part, index, domain_N[index], domains, kept(len(index)), batch)
        probe = replace(probe, loss=loss)
        with telling(model, probe.told):
            told[name] = diagnostic.told(probe)
    return told


@torch.no_grad()
def _looked_at(
    model: nn.Module,
    part: Any,
    index: Tensor,
    domain: Tensor,
    domains: tuple[str, ...],
    few: int,
    batch: int,
) -> Probe:
    """The model's routing on all samples of ``index``, its answers to ``few`` of them."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    with observe(model) as take, seeing(model) as seen:
        routed = None
        if few < len(index):
            with telling(model, domain):
                for places in index.split(batch):
                    model(part.x[places].to(device))
            routed, index = take(), _thinned(index, few)
        inputs, known = part.x[index].to(device), _thinned(domain, few)
        with seen, telling(model, known):
            outputs = model(inputs)
        activations, routed = seen.activations, take() if routed is None else routed
    model.train(training)
    return Probe(
        model=model,
        inputs=inputs,
        outputs=outputs,
        targets=part.y[index].to(device),
        activations=activations,
        routed=routed,
        domains=domains,
        domain=domain.to(device),
        inputs_domain=known.to(device),
    )


def _drawn(domain_N: Tensor, domains: int, samples: int, seed: int) -> Tensor:
    """At most ``samples`` places of each domain, in order of domains, then of places."""
    generator = torch.Generator().manual_seed(seed)
    parts = [(domain_N == place).nonzero()[:, 0] for place in range(domains)]
    drawn = [torch.randperm(len(part), generator=generator)[:samples] for part in parts]
    return torch.cat([part[d.sort().values] for part, d in zip(parts, drawn, strict=True)])


def _thinned(values_N: Tensor, few: int) -> Tensor:
    """At most so many of the values [N, ...], evenly spaced: data may be sorted."""
    kept = min(few, len(values_N))
    return values_N[torch.arange(kept, device=values_N.device) * len(values_N) // kept]


def _places(place_N: Tensor, probe: Probe, domains: tuple[str, ...]) -> Tensor:
    """Places in ``domains`` for places in a probe's own."""
    places = torch.tensor([domains.index(name) for name in probe.domains])
    return places.to(place_N.device)[place_N]


def _inputs_domain(probes: Sequence[Probe], domains: tuple[str, ...], few: int) -> Tensor | None:
    """Domains of a few inputs of each probe; None where one of them does not know its own."""
    known = [(probe.inputs_domain, probe) for probe in probes]
    places = [_places(_thinned(d, few), probe, domains) for d, probe in known if d is not None]
    return torch.cat(places) if len(places) == len(probes) else None


def _pooled_events(probes: Sequence[Probe]) -> dict[str, Tensor]:
    """Events of all probes' samples; what a probe does not know of did not happen there."""
    names = dict.fromkeys(name for probe in probes for name in probe.events)
    return {
        name: torch.cat(
            [
                probe.events.get(name, torch.zeros(len(probe.domain), dtype=torch.bool)).cpu()
                for probe in probes
            ]
        )
        for name in names
    }
