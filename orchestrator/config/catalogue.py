"""What can be named in a config or to a search: every table, each entry with one line on it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from functools import cache

from workers.contract import InputError, Json
from workers.tables import first_line

BEYOND = {"spaces": ("tune_spaces", "SPACES")}
"""Tables of rooms that build on this one: (package, name in it), found by name if it is there."""


def tables(name: str | None = None) -> dict[str, dict[str, str]]:
    """All tables, or the one called ``name``: entry -> description."""
    found = entries()
    if name is not None and name not in found:
        raise InputError(f"no table {name!r}; allowed: {', '.join(found)}")
    return {
        table: {entry: first_line(cls) for entry, cls in entries.items()}
        for table, entries in found.items()
        if name in (None, table)
    }


@cache
def entries() -> dict[str, Mapping[str, type]]:
    """All tables: name -> entry -> class."""
    from orchestrator.evaluations import EVALUATIONS
    from orchestrator.policies import DETECTORS, POLICIES
    from workers import models, moe, trainers
    from workers.diagnostics import DIAGNOSTICS
    from workers.edits import EDITS
    from workers.inference import INFERENCE
    from workers.merges import MERGES
    from workers.methods import METHODS
    from workers.methods.buffers import BUFFERS
    from workers.rl import ENVIRONMENTS
    from workers.streams import DATASETS, DISCOVERIES, TOKENIZERS
    from workers.supervised.augmentations import AUGMENTATIONS
    from workers.supervised.learning_rates import LEARNING_RATES
    from workers.supervised.objectives import OBJECTIVES
    from workers.supervised.optimizers import OPTIMIZERS

    return {
        "streams": trainers.streams(),
        "datasets": DATASETS,
        "discoveries": DISCOVERIES,
        "tokenizers": TOKENIZERS,
        "objectives": OBJECTIVES,
        "environments": ENVIRONMENTS,
        "methods": METHODS,
        "buffers": BUFFERS,
        "models": models.MODELS,
        "backbones": models.BACKBONES,
        "cores": models.CORES,
        "heads": models.HEADS,
        "layers": moe.LAYERS,
        "routers": moe.ROUTERS,
        "selectors": moe.SELECTORS,
        "experts": moe.EXPERTS,
        "losses": moe.LOSSES,
        "upcycles": moe.UPCYCLES,
        "initialisers": moe.INITIALISERS,
        "schedules": moe.SCHEDULES,
        "merges": MERGES,
        "policies": POLICIES,
        "detectors": DETECTORS,
        "evaluations": EVALUATIONS,
        "edits": EDITS,
        "diagnostics": DIAGNOSTICS,
        "inference": INFERENCE,
        "trainings": trainers.trainings(),
        "optimizers": OPTIMIZERS,
        "learning_rates": LEARNING_RATES,
        "augmentations": AUGMENTATIONS,
        **_beyond(),
    }


def _beyond() -> dict[str, Mapping[str, type]]:
    """Left out where the package did not travel along, as with a job that needs none of it."""
    return {
        table: getattr(importlib.import_module(package), name)
        for table, (package, name) in BEYOND.items()
        if importlib.util.find_spec(package) is not None
    }


def data_status() -> list[Json]:
    """Every data set: whether it is here, where, and how to get it."""
    from dataclasses import asdict

    from workers.streams.fetch import status

    return [asdict(row) for row in status()]
