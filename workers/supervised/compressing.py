"""A copy of a checkpoint whose experts are kept in few bits each.

MC-MoE (arXiv 2410.06270) for the checkpoint store: bits by an integer programme, frequent experts
in many. The copy is a checkpoint of the same format, read back by everything that reads one;
training checkpoints stay exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers import checkpoint
from workers.contract import (
    CheckpointRef,
    InputError,
    LaneSpec,
    TaskSpec,
    derive_seed,
    domains_of,
)
from workers.evaluation import places
from workers.moe.routed import Routed, observing, routed_layers
from workers.moe.stepping import telling
from workers.packing import Packed, allot, pack
from workers.streams.sampling import spread, strata
from workers.supervised.building import build_stream, training_config
from workers.supervised.objectives import measured
from workers.supervised.restoring import restored

SAMPLES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """How experts are compressed."""

    bits: float = 2.5
    """Average bits of an expert's weights, scales apart."""
    widths: tuple[int, ...] = (2, 3, 4, 8)
    """Bits that an expert may have."""
    each: tuple[int, ...] = (3, 2)
    """Bits that at least one expert of a layer must have."""
    symmetric: bool = False
    """Steps around 0 instead of from the least to the largest value."""
    powers: tuple[float, float, float] = (1.0, 1.0, 2.0)
    """Exponents of frequency, gate weight and error in an expert's cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """What compression came to."""

    checkpoint: CheckpointRef
    """The copy; its ``bytes`` are those of all its files."""
    bits: dict[str, dict[str, int]]
    """Layer -> expert id -> bits of each weight."""
    bytes_before: int
    """Of the model's tensors alone, without optimizer and buffers of the method."""


def compress_checkpoint(
    lane: LaneSpec, ref: CheckpointRef, task: TaskSpec, uri: str, settings: Mapping[str, Any]
) -> Compressed:
    """Write the copy at ``uri``; ``settings``: fields of ``Compression``.

    Cost of expert e in b bits: ``freq_e^p weight_e^q err_e(b)^r``, freq the share of tokens that
    choose it and weight its mean gate weight over samples of ``task``, err the Frobenius norm of
    what rounding changes in its matrices.
    """
    how = Compression(**settings)
    stream = build_stream(lane)
    model = restored(lane, stream, ref)
    parts = routed_layers(model)
    if not parts:
        raise InputError(
            f"lane {lane.lane!r}: the model has no experts to compress; its checkpoint stays as it "
            "is"
        )
    used = _use(model, stream, task, lane)
    saved = checkpoint.read(ref)
    tensors = dict(saved.tensors["model"])
    packed: dict[str, Packed] = {}
    given: dict[str, dict[str, int]] = {}
    for name, layer in parts.items():
        choices = [_choices(expert, how) for expert in layer.experts.values()]
        costs = [
            {b: _cost(use, error, how) for b, (error, _) in choice.items()}
            for use, choice in zip(used[name], choices, strict=True)
        ]
        chosen = allot(costs, how.bits, how.each if len(costs) >= len(how.each) else ())
        given[name] = {str(n): b for n, b in zip(layer.ids, chosen, strict=True)}
        for number, bits, choice in zip(layer.ids, chosen, choices, strict=True):
            prefix = f"{name}.experts.{number}." if name else f"experts.{number}."
            packed |= {f"{prefix}{weight}": made for weight, made in choice[bits][1].items()}
    for entry in packed:
        del tensors[entry]
    copy = checkpoint.write_packed(uri, tensors, packed, saved.state, seq=ref.seq, stage=ref.stage)
    before = sum(t.numel() * t.element_size() for t in saved.tensors["model"].values())
    return Compressed(checkpoint=copy, bits=given, bytes_before=before)


def _cost(use: tuple[float, float], error: float, how: Compression) -> float:
    a, b, c = how.powers
    frequency, weight = use
    return float(frequency**a * weight**b * error**c)


def _choices(expert: nn.Module, how: Compression) -> dict[int, tuple[float, dict[str, Packed]]]:
    """Bits -> (error, the expert's matrices so packed); vectors stay as they are."""
    matrices = {name: p for name, p in expert.named_parameters() if p.dim() >= 2}
    found = {}
    for bits in how.widths:
        made = {name: pack(p, bits, how.symmetric) for name, p in matrices.items()}
        errors = [
            float((made[n].unpacked().float() - _plain(p)).norm()) for n, p in matrices.items()
        ]
        found[bits] = sum(error**2 for error in errors) ** 0.5, made
    return found


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().float()


def _choice(routed: Routed) -> tuple[Tensor, Tensor]:
    """The part of a pass that costs are made of; inputs are let go."""
    return routed.chosen, routed.weights.detach()


def _use(
    model: nn.Module, stream: Any, task: TaskSpec, lane: LaneSpec
) -> dict[str, list[tuple[float, float]]]:
    """Layer -> (share of tokens that choose it, mean gate weight) of each live expert."""
    part, objective = stream.data(task).train, stream.objective
    groups = strata(len(part), part.domain, objective.classes(part.y))
    samples = min(SAMPLES, objective.most_looked_at or SAMPLES)
    few = part.take(spread(groups, samples, derive_seed(lane.seed, "compress"))).in_memory()
    known = places(domains_of(stream.tasks()), task, few)
    with observing(model, _choice) as seen, telling(model, known):
        batch = training_config(lane).evaluated(objective)
        measured(model, objective, few.x, few.y, batch, figures=False)
    found = {}
    for name, kept in seen.items():
        chosen_TE = torch.cat([chosen for chosen, _ in kept]).double()
        weights_TE = torch.cat([weights for _, weights in kept]).double()
        found[name] = list(
            zip(chosen_TE.mean(0).tolist(), weights_TE.mean(0).tolist(), strict=True)
        )
    return found
