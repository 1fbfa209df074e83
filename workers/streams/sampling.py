"""Seeded draws that represent every stratum (class, domain, ...) of a set of samples.

Letters: N samples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from workers.contract import derive_seed


def strata(samples: int, *labels: Tensor | None) -> Tensor:
    """int64 [N], one number for each combination of the labels (int64 [N]) that are not None."""
    number = torch.zeros(samples, dtype=torch.int64)
    for label in labels:
        if label is not None:
            number = number * (int(label.max()) + 1) + label.cpu()
    return number


def spread(strata_N: Tensor, samples: int, seed: int) -> Tensor:
    """Places of at most so many samples, sorted: each stratum has its share, one more or less.

    Samples are ordered by stratum, at random inside each, and taken at equal distances (systematic
    sampling), so the draw covers the whole set whatever its order is.
    """
    total = len(strata_N)
    if samples >= total:
        return torch.arange(total)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(strata_N[order], stable=True)]
    at = ((2 * torch.arange(samples) + 1) * total) // (2 * samples)
    return order[at].sort().values


def of_each(strata_N: Tensor, samples: int, seed: int) -> Tensor:
    """Places of so many samples of every stratum, or of all that it has, sorted."""
    drawn = []
    for stratum in strata_N.unique().tolist():
        places = (strata_N == stratum).nonzero()[:, 0]
        generator = torch.Generator().manual_seed(derive_seed(seed, "of each", stratum))
        drawn.append(places[torch.randperm(len(places), generator=generator)[:samples]])
    return torch.cat(drawn).sort().values


def held_out(strata_N: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Bool [N]: true for ``share`` of each stratum, drawn at random.

    At least one sample of a stratum that has two, and never all of it.
    """
    held = np.zeros(len(strata_N), dtype=bool)
    if share == 0.0:
        return held
    for stratum in np.unique(strata_N):
        members = np.flatnonzero(strata_N == stratum)
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held[rng.choice(members, count, replace=False)] = True
    return held


def every_fifth(labels_N: np.ndarray) -> np.ndarray:
    """Bool [N]: true for every fifth sample of each class: a test part where none is official."""
    held = np.zeros(len(labels_N), dtype=bool)
    for label in np.unique(labels_N):
        held[np.flatnonzero(labels_N == label)[4::5]] = True
    return held
