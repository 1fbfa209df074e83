"""Linear regressions that fall into a few ground truths, whose inputs tell which one holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from workers.contract import TaskSpec, derive_seed
from workers.streams.base import Stream, at_least_one
from workers.streams.data import Part, TaskData
from workers.supervised.objectives import OBJECTIVES
from workers.tables import Problem, choice


class LinearClusters(Stream):
    """Theory: linear regressions of K ground truths, ``y = w_k . u``, ``x = (u + signal v_k)``.

    The setting of arXiv 2406.16437: each task has one of K vectors w_k [d] of length 1, and its
    inputs carry the cluster's feature v_k (orthonormal [d], also to every u), so a linear router
    can send a task to an expert of its own and a linear expert can answer it without error, which
    no single linear map can. ``u`` is normal with variance 1 in each direction free of features.
    Domain of a task: its cluster.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        """Sizes of the problem."""

        kind: str = "linear_clusters"
        objective: Any = choice(OBJECTIVES, "regression")
        """What outputs are compared with; numbers are to be predicted."""
        clusters: int = 3
        """K: ground truths."""
        tasks: int = 6
        """Tasks, one after another."""
        dimensions: int = 16
        """d: numbers of an input; more than there are clusters."""
        signal: float = 3.0
        """Length of the cluster's feature in an input; u has length sqrt(d - K) or so."""
        noise: float = 0.0
        """Standard deviation of normal noise on the targets."""
        order: Literal["cycle", "random"] = "cycle"
        """Clusters by turns, or drawn for each task."""
        train_samples: int = 512
        """Samples that a task trains and validates on."""
        test_samples: int = 256
        """Samples that a task is tested on."""

    config: LinearClusters.Config

    def tasks(self) -> tuple[TaskSpec, ...]:
        count = self.config.tasks
        cluster = [index % self.config.clusters for index in range(count)]
        if self.config.order == "random":
            cluster = self._rng("order").integers(0, self.config.clusters, count).tolist()
        return tuple(
            TaskSpec(
                index=index,
                name=f"regression {index + 1}",
                domain=f"cluster {cluster[index]}",
                settings={"cluster": cluster[index]},
            )
            for index in range(count)
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.config.dimensions,)

    @property
    def outputs(self) -> int:
        return 1

    def load(self, task: TaskSpec) -> TaskData:
        return TaskData.of(
            train=self._part(task, "train", self.config.train_samples),
            test=self._part(task, "test", self.config.test_samples),
            source=f"linear regression of {task.domain}",
        )

    def problems(self) -> list[Problem]:
        sizes = ("clusters", "tasks", "train_samples", "test_samples")
        found = [at_least_one(n, getattr(self.config, n)) for n in sizes if self._few(n)]
        if self.config.dimensions <= self.config.clusters:
            what = f"{self.config.dimensions} for {self.config.clusters} clusters"
            found.append(Problem("stream.dimensions", what, "needs more than there are clusters"))
        if self.objective.labels or self.objective.needs != "labels":
            what = f"got {self.config.objective.kind!r} with numbers to predict"
            found.append(Problem("stream.objective", what, "use regression"))
        return found

    # ------------------------------------------------------------ inside

    def truths(self) -> tuple[np.ndarray, np.ndarray]:
        """Ground truths w and features v, float64 [K, d] each; all of v orthogonal to all of w."""
        clusters, size = self.config.clusters, self.config.dimensions
        basis = np.linalg.qr(self._rng("truths").normal(size=(size, size)))[0].T
        features, rest = basis[:clusters], basis[clusters:]
        weights = self._rng("weights").normal(size=(clusters, len(rest))) @ rest
        return weights / np.linalg.norm(weights, axis=1, keepdims=True), features

    def _part(self, task: TaskSpec, part: str, samples: int) -> Part:
        cluster = task.settings["cluster"]
        truths, features = self.truths()
        rng = self._rng(part, task.index)
        u_ND = rng.normal(size=(samples, self.config.dimensions))
        u_ND -= u_ND @ features.T @ features
        y_N1 = u_ND @ truths[cluster][:, None] + self.config.noise * rng.normal(size=(samples, 1))
        x_ND = u_ND + self.config.signal * features[cluster]
        return Part(torch.from_numpy(x_ND).float(), torch.from_numpy(y_N1).float())

    def _few(self, name: str) -> bool:
        return bool(getattr(self.config, name) < 1)

    def _rng(self, *parts: Any) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, "stream", *parts))
