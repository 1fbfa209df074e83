"""Multi-domain stream: a base mixture to learn from first, then labelled domains.

The setting of DES-MoE (arXiv 2509.16882): what is kept of the base, and how much domains disturb
each other. Domains are data sets seen in different ways.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from workers.contract import TaskSpec, digest
from workers.parsing import parse
from workers.streams.base import SampledStream, at_least_one
from workers.streams.data import Part
from workers.streams.datasets import DATASETS, PartName, ThreeParts
from workers.streams.rotated import rotate
from workers.streams.sequence import padded, resized
from workers.tables import Problem, choice, construct

BASE, JOINT = "base", "joint"
OF_TASKS = ("base", "domains", "order", "size")
"""Settings that say which tasks there are; what a task takes of them is in it and its views."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One domain: a data set and how its images and labels are changed."""

    name: str = ""
    """Label of the domain."""
    dataset: Any = choice(DATASETS, "digits")
    rotate: float = 0.0
    """Degrees counter-clockwise."""
    mirror: bool = False
    """Left and right exchanged."""
    permutation: int = 0
    """Number of a fixed random pixel permutation; 0 = none."""
    invert: bool = False
    """Black and white exchanged."""
    noise: float = 0.0
    """Standard deviation of fixed Gaussian noise on the pixels."""
    shift: int = 0
    """Labels are shifted by so many classes, cyclically: the domain contradicts unshifted ones."""


class Domains(SampledStream):
    """Multi-domain: a base mixture first, then labelled domains, jointly or one after another.

    The first task (left out where ``base`` is empty) mixes the base views under the one label
    ``base``; its scores after later stages tell what is retained.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(SampledStream.Config):
        """Settings of the domains; the caps hold for each view."""

        kind: str = "domains"
        base: tuple[Any, ...] = ({"name": "upright"},)
        """Views of the base mixture, each a table with a name and what is changed."""
        domains: tuple[Any, ...] = (
            {"name": "turned", "rotate": 90.0},
            {"name": "upside down", "rotate": 180.0},
            {"name": "permuted", "permutation": 1},
        )
        """Views that are domains of their own."""
        order: Literal["joint", "sequential"] = "joint"
        """``joint``: one stage on all domains together; ``sequential``: one stage for each."""
        fit: Literal["pad", "resize"] = "pad"
        """How images reach the common size."""
        size: int | None = None
        """Height and width of all images; None = the largest found."""

    config: Domains.Config
    images = True

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self._wrong: list[Problem] = []
        self.base = self._views("base", config.base)
        self.views = self._views("domains", config.domains)
        self._datasets: dict[Any, ThreeParts] = {}

    def tasks(self) -> tuple[TaskSpec, ...]:
        names = [view.name for view in self.views]
        parts: list[tuple[str, str, dict[str, Any]]] = []
        if self.base:
            parts.append((BASE, BASE, {"views": BASE}))
        if self.config.order == "joint":
            parts.append((JOINT, JOINT, {"views": JOINT, "domains": names}))
        else:
            parts += [(name, name, {"views": name}) for name in names]
        return tuple(
            TaskSpec(index=index, name=name, domain=domain, settings=settings)
            for index, (name, domain, settings) in enumerate(parts)
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        shapes = [self.dataset(view).shape for view in (*self.base, *self.views)]
        channels, height, width = (max(sides) for sides in zip(*shapes, strict=True))
        return channels, self.config.size or height, self.config.size or width

    @property
    def outputs(self) -> int:
        return max(self.dataset(view).classes for view in (*self.base, *self.views))

    def dataset(self, view: View) -> ThreeParts:
        """The data set behind a view; equal ones are shared."""
        if view.dataset not in self._datasets:
            made = construct(DATASETS, view.dataset)
            self._datasets[view.dataset] = self.in_three_parts(made)
        return self._datasets[view.dataset]

    def views_of(self, task: TaskSpec) -> list[View]:
        """The views a task is made of."""
        which = task.settings["views"]
        if which == BASE:
            return self.base
        return [view for view in self.views if which in (JOINT, view.name)]

    def identity(self, task: TaskSpec) -> str:
        """The other tasks' views count only where they set the common shape or the outputs."""
        config = asdict(self.config)
        shared = {name: value for name, value in config.items() if name not in OF_TASKS}
        views = [asdict(view) for view in self.views_of(task)]
        return digest([shared, views, self.input_shape, self.outputs, asdict(task)])

    def part(self, task: TaskSpec, part: PartName) -> Part:
        seen = [self._seen(view, part) for view in self.views_of(task)]
        x, y = torch.cat([x for x, _ in seen]), torch.cat([y for _, y in seen])
        if len(task.domains) < 2:
            return Part(x, y)
        sizes = torch.tensor([len(labels) for _, labels in seen])
        return Part(x, y, torch.repeat_interleave(torch.arange(len(sizes)), sizes))

    def validates(self, task: TaskSpec) -> bool:
        return all(self.dataset(view).validates for view in self.views_of(task))

    def source(self, task: TaskSpec) -> str:
        return f"domains {', '.join(view.name for view in self.views_of(task))}"

    def problems(self) -> list[Problem]:
        found = super().problems() + self._wrong
        names = [view.name for view in self.views]
        if not self.config.domains:
            found.append(Problem("stream.domains", "got none", "give at least one domain"))
        for name in sorted({name for name in names if names.count(name) > 1}):
            allowed = "give each domain a name of its own"
            found.append(Problem("stream.domains", f"two domains are called {name!r}", allowed))
        if {BASE, JOINT} & set(names):
            allowed = f"{BASE!r} and {JOINT!r} name the stream's own tasks"
            found.append(Problem("stream.domains", f"got {names}", allowed))
        if self.config.size is not None and self.config.size < 1:
            found.append(at_least_one("size", self.config.size))
        for section, views in (("base", self.base), ("domains", self.views)):
            for number, view in enumerate(views if not self._wrong else ()):
                path, dataset = f"stream.{section}.{number}.dataset", self.dataset(view)
                found += dataset.problems(path) or self.image_problems(dataset, path)
        return found or self._shape_problems()

    # ------------------------------------------------------------ inside

    def _views(self, section: str, raw: tuple[Any, ...]) -> list[View]:
        views = []
        for number, entry in enumerate(raw):
            path = f"stream.{section}.{number}"
            if not isinstance(entry, dict):
                self._wrong.append(Problem(path, f"got {entry!r}", "must be a table with a name"))
                continue
            view, problems = parse(View, entry, path)
            self._wrong += problems
            if view is not None and not view.name.strip():
                self._wrong.append(Problem(f"{path}.name", "missing", "a domain needs a label"))
            elif view is not None:
                views.append(view)
        return views

    def _shape_problems(self) -> list[Problem]:
        _, height, width = self.input_shape
        views = (*self.base, *self.views)
        large = dict.fromkeys(
            dataset.label
            for dataset in map(self.dataset, views)
            if dataset.shape[1] > height or dataset.shape[2] > width
        )
        found = []
        if self.config.fit == "pad" and large:
            allowed = "give a larger size, or fit = 'resize'"
            what = f"{self.config.size} is smaller than images of {', '.join(large)}"
            found.append(Problem("stream.size", what, allowed))
        turned = [view.name for view in views if view.rotate % 180 == 90]
        if turned and height != width:
            allowed = "a quarter turn needs square images: set stream.size"
            what = f"images of {height} x {width} in {', '.join(turned)}"
            found.append(Problem("stream.domains.rotate", what, allowed))
        return found

    def _chosen(self, view: View, part: PartName) -> np.ndarray:
        """Indices of a view's samples: drawn for each view, so that capped views differ."""
        index = np.arange(len(self.dataset(view).labels(part)))
        limit = self._limit(part)
        if limit is None or limit >= len(index):
            return index
        drawn: np.ndarray = self.rng("cap", part, view.name).choice(index, limit, replace=False)
        return np.sort(drawn)

    def _seen(self, view: View, part: PartName) -> tuple[Tensor, Tensor]:
        """(x, y) of a view, float32 [n, C, H, W] in [0, 1] and int64 [n]."""
        dataset, index = self.dataset(view), self._chosen(view, part)
        x = dataset.scaled(part, index)
        y = torch.from_numpy(dataset.labels(part)[index])
        channels, height, width = self.input_shape
        x = x.expand(-1, channels, -1, -1)
        x = (padded if self.config.fit == "pad" else resized)(x, height, width)
        if view.rotate:
            x = rotate(x.contiguous(), view.rotate)
        if view.mirror:
            x = x.flip(3)
        if view.permutation:
            order = self.rng("permutation", view.permutation).permutation(height * width)
            x = x.flatten(2)[:, :, torch.from_numpy(order)].view(x.shape)
        if view.invert:
            x = 1.0 - x
        if view.noise:
            rng = self.rng("noise", part, view.name)
            drawn = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
            x = (x + view.noise * drawn).clamp(0.0, 1.0)
        return x.contiguous(), (y + view.shift) % dataset.classes
