"""What ``[training]`` of a supervised lane may say. Knows no model and no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from workers.contract import LaneSettings
from workers.diagnostics import CHEAP, refuse_unknown
from workers.models import MODELS, Model
from workers.supervised.augmentations import AUGMENTATIONS
from workers.supervised.learning_rates import LEARNING_RATES
from workers.supervised.optimizers import OPTIMIZERS
from workers.supervised.precision import Precision
from workers.tables import Problem, choice, lookup


class SupervisedTraining:
    """Minibatch training on labelled data: epochs or steps, optimizer, warm-up, clipping."""

    trainer: ClassVar[str] = "supervised"
    validation_setting: ClassVar[str] = "stream.validation"
    """Key of a stream file that gives the tasks a validation part."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """A stage takes ``steps`` gradient steps, or those of ``epochs`` passes over its data."""

        kind: str = "supervised"
        epochs: float | None = None
        """Passes over the stage's training data; 1 where neither epochs nor steps is given."""
        steps: int | None = None
        """Gradient steps of a stage, whatever the size of its data."""
        intervals: int = 4
        """Equal parts a stage is split into: the driver may change the model between them."""
        batch: int = 64
        """Samples of a gradient step, over all of the lane's workers."""
        accumulate: int = 1
        """Equal parts in which a worker passes its samples of a step through the model, one after
        another; gradients are summed. Less memory, and the same step up to rounding."""
        checkpoint_activations: bool = False
        """Keep the inputs of a model's blocks only and run each again in the backward pass: less
        memory for about a third more time, and the same bits."""
        precision: Precision = "float32"
        """``bfloat16``: parameters and activations in half the bytes; the optimizer holds float32
        master weights of what learns."""
        optimizer: Any = choice(OPTIMIZERS, "adamw")
        """What follows the gradients."""
        fresh_optimizer: bool = False
        """Build the optimizer anew at each stage (DynamicMoE's protocol)."""
        warmup: float = 0.0
        """Share of each stage (of the stream, where ``learning_rate.over`` says so) over which the
        learning rate rises linearly from 0."""
        learning_rate: Any = choice(LEARNING_RATES, "constant")
        """The course of the learning rate after the warm-up."""
        clip: float | None = None
        """Largest global gradient norm; None = no clipping."""
        augment: Any = choice(AUGMENTATIONS, "none")
        """What is done to each batch before the model sees it, remembered samples included."""
        probe: int = 256
        """Training samples on which an edit's output change is measured; of tokens at most as many
        windows as a probe of the objective holds."""
        eval_batch: int | None = None
        """Samples that an evaluation passes through the model at once; None = as many as the
        stream's objective says: 2048, of tokens 32 windows."""
        validation_scored: int | None = None
        """Validation samples of each task that an evaluation scores, drawn by the seed, of each
        class and domain its share; None = a quarter as many as there are test samples, but at
        least 500, so that evaluations stay cheap where validation parts are large."""
        diagnostics: tuple[Any, ...] = (CHEAP,)
        """What evaluations measure beside scores: names of DIAGNOSTICS, ``module:Class``, tables
        with ``kind``, ``"cheap"`` for all that cost little and ``"all"``."""
        batches: Literal["mixed", "domain"] = "mixed"
        """``domain``: every batch holds samples of one domain only."""

        def __post_init__(self) -> None:
            if self.epochs is not None and self.steps is not None:
                raise ValueError("give epochs or steps, not both")
            for name in ("intervals", "batch", "accumulate", "probe"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} must be at least 1")
            if self.eval_batch is not None and self.eval_batch < 1:
                raise ValueError("eval_batch must be at least 1")
            if not 0.0 <= self.warmup <= 1.0:
                raise ValueError("warmup must lie between 0 and 1")
            for name in ("epochs", "steps", "clip", "validation_scored"):
                value = getattr(self, name)
                if value is not None and value <= 0:
                    raise ValueError(f"{name} must be positive")
            refuse_unknown(self.diagnostics)

        def evaluated(self, objective: Any) -> int:
            """Samples that an evaluation of this objective passes through the model at once."""
            chosen: int = self.eval_batch or objective.eval_batch
            return chosen

        def validated(self, tested: int) -> int:
            """Validation samples to score at most, beside so many test samples."""
            if self.validation_scored is not None:
                return self.validation_scored
            return max(500, tested // 4)

        @property
        def steps_per_stage(self) -> int | None:
            """Gradient steps of a stage; None where they depend on its data."""
            return self.steps

        @property
        def helpers(self) -> int:
            """Processes of one core each that a worker starts beside it."""
            return 0

        @property
        def counts_stages(self) -> bool:
            """Whether what a stage is trained by depends on how many stages the stream has."""
            found: bool = self.learning_rate.over == "stream"
            return found

        def validates(self, stream: Any) -> bool:
            """Whether every task of the stream has a validation part."""
            return all(stream.validates(task) for task in stream.scored_tasks())

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Every worker takes the same part of a batch, in equal parts; models need blocks."""
            found = [*self._uneven(lane), *self._blockless(lane), *self._reordered(lane)]
            return [*found, *self._too_short()]

        def _too_short(self) -> list[Problem]:
            """Fewer steps than intervals; of epochs it is known once the data are."""
            if self.steps is None or self.steps >= self.intervals:
                return []
            what = f"{self.steps} gradient steps cannot be split into {self.intervals} intervals"
            return [Problem("steps", what, "lower training.intervals or take more steps")]

        def _reordered(self, lane: LaneSettings) -> list[Problem]:
            """Batches of one domain each would change the order in which samples come."""
            if self.batches == "mixed" or not lane.ordered:
                return []
            what = f"stream {lane.sections['stream'].kind!r} says in which order samples come"
            return [Problem("batches", what, "use batches = 'mixed'")]

        def _blockless(self, lane: LaneSettings) -> list[Problem]:
            """The model has nothing whose activations could be computed again."""
            kind = lane.sections["model"].kind
            model = lookup(MODELS, kind, "model.kind")
            if not (self.checkpoint_activations and isinstance(model, type)):
                return []
            if not issubclass(model, Model) or model.has_blocks:  # no Model is refused elsewhere
                return []
            able = ", ".join(sorted(name for name, cls in MODELS.items() if cls.has_blocks))
            allowed = f"models with blocks: {able or 'none of ours'}, or a Model with has_blocks"
            return [Problem("checkpoint_activations", f"model {kind!r} has no blocks", allowed)]

        def _uneven(self, lane: LaneSettings) -> list[Problem]:
            """The batch cannot be shared out."""
            if self.batch % (lane.workers * self.accumulate) == 0:
                return []
            found = f"got {self.batch} with workers = {lane.workers}"
            allowed = (
                "every worker takes the same part of a batch: make batch a multiple of workers"
            )
            if self.accumulate > 1:
                found += f" and accumulate = {self.accumulate}"
                allowed = "a batch is passed in equal parts: make it a multiple of their product"
            return [Problem("batch", found, allowed)]

    def __init__(self, config: Config) -> None:
        self.config = config
