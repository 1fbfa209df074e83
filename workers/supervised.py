"""The supervised loop: one lane's model, optimizer, method and data cursor on one device.

Plain torch, deterministic on CPU, free of Ray: a test calls it in-process, a worker actor is a
shell around it.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from workers import checkpoint, engines
from workers.augment import AUGMENTATIONS
from workers.choice import checked, parse
from workers.contract import (
    CheckpointRef,
    DivergedError,
    Edit,
    EditReport,
    EvaluationReport,
    InputError,
    IntervalReport,
    Json,
    LaneSpec,
    OpenReport,
    StageSpec,
    StartReport,
    TaskSpec,
    derive_seed,
)
from workers.methods import METHODS
from workers.moe import MODELS, routing, specialise, surgery
from workers.moe import optimizer as optimizer_state
from workers.moe.telemetry import keeping, recording, usage
from workers.optimizers import OPTIMIZERS
from workers.streams import TaskData
from workers.tables import choice, construct

ACCURACY_PROBE = 512
"""Training samples on which an interval's training accuracy is measured."""


class SupervisedTraining:
    """Minibatch training on labelled data: epochs or steps, optimizer, warm-up, clipping."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "supervised"
        epochs: float | None = None
        """Passes over the stage's training data; 1 where neither epochs nor steps is given."""
        steps: int | None = None
        """Gradient steps of a stage, whatever the size of its data."""
        intervals: int = 4
        """Equal parts a stage is split into: the driver may change the model between them."""
        batch: int = 64
        optimizer: Any = choice(OPTIMIZERS, "adamw")
        fresh_optimizer: bool = False
        """Build the optimizer anew at each stage (DynamicMoE's protocol)."""
        warmup: float = 0.0
        """Share of each stage over which the learning rate rises linearly from 0."""
        clip: float | None = None
        """Largest global gradient norm; None = no clipping."""
        augment: Any = choice(AUGMENTATIONS, "none")
        probe: int = 256
        """Training samples on which an edit's output change is measured."""
        eval_batch: int = 2048
        batches: Literal["mixed", "domain"] = "mixed"
        """``domain``: every batch holds samples of one domain only."""

        def __post_init__(self) -> None:
            if self.epochs is not None and self.steps is not None:
                raise ValueError("give epochs or steps, not both")
            for name in ("intervals", "batch", "eval_batch", "probe"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} must be at least 1")
            if not 0.0 <= self.warmup <= 1.0:
                raise ValueError("warmup must lie between 0 and 1")
            if (self.epochs or self.steps or 1) <= 0:
                raise ValueError("epochs and steps must be positive")

    def __init__(self, config: Config) -> None:
        self.config = config


@dataclass(slots=True)
class Cursor:
    """Where the loop stands in its stage; everything the order of batches depends on."""

    step: int = 0
    """Gradient steps done in this stage."""
    position: int = 0
    """Samples of the current epoch already used."""
    order_state: Tensor | None = None
    """State of the order generator before the current epoch's permutation."""


@dataclass(slots=True)
class _Stage:
    """What exists only while a stage is trained."""

    spec: StageSpec
    x: Tensor
    y: Tensor
    total_steps: int
    order: Tensor
    generator: torch.Generator
    domain: Tensor | None
    """Domain of each sample, int64 [N] on the CPU; None where nothing depends on it."""
    pure: int | None
    """Samples of a batch that holds one domain only; None = batches mix domains."""
    cursor: Cursor = field(default_factory=Cursor)


class SupervisedTrainer:
    """Trainer of supervised lanes (see ``workers.contract.Trainer``)."""

    def __init__(self) -> None:
        self.stage: _Stage | None = None

    # ------------------------------------------------------------ contract

    def open(self, lane: LaneSpec, ref: CheckpointRef | None) -> OpenReport:
        """Build the lane's model, or restore it with everything that training depends on."""
        torch.set_num_threads(lane.threads)
        torch.use_deterministic_algorithms(True)
        # Nothing here reads memory it has not written; filling it first costs time at every op.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.manual_seed(derive_seed(lane.seed, "lane"))
        self.lane = lane
        self.device = pick_device()
        self.stream = _stream(lane)
        method_class, method = checked(METHODS, lane.settings["method"])
        self.method = method_class(method, derive_seed(lane.seed, "method"))
        self.config = _training(lane)
        self.model = build_model(lane, self.stream).to(self.device)
        self.optimizer = self._new_optimizer()
        self.augment = construct(AUGMENTATIONS, self.config.augment)
        self.banks = tuple(specialise.banks(self.model).values())
        tasks = self.stream.tasks()
        self.domains = tuple(dict.fromkeys(name for task in tasks for name in task.domains))
        self.stage = None
        seq = 0
        if ref is not None:
            self._restore(checkpoint.read(ref))
            seq = ref.seq
        return OpenReport(
            shape=surgery.shape(self.model),
            seq=seq,
            backend=engines.kernels(lane, self.device.type),
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    def start(self, stage: StageSpec) -> StartReport:
        """Point the loop at the stage's task; seeds everything random from the stage's seed."""
        torch.manual_seed(stage.seed)
        data = self._load(stage)
        if self.config.fresh_optimizer:
            self.optimizer = self._new_optimizer()
        assert self.stage is not None
        notes = self.method.begin_stage(self.model, stage, data, self.domains)
        usage(self.model)  # start counting gate weights anew
        specialise.take_counts(self.model)
        return StartReport(
            source=data.source,
            data_digest=data.digest,
            samples=len(self.stage.y),
            fields={"test_samples": str(len(data.test_y)), "device": str(self.device), **notes},
        )

    def run_interval(self, n: int, mask_version: int = 0) -> IntervalReport:
        """Train the ``n``-th of the stage's equal parts (from 1), under masks of this version.

        Raises DivergedError where the model has other masks.
        """
        stage = self._current()
        present = specialise.mask_version(self.model)
        if present != mask_version:
            raise DivergedError(
                f"interval {n} is to be trained under mask version {mask_version}, the model has "
                f"version {present}"
            )
        began = time.perf_counter()
        target = stage.total_steps * n // stage.spec.intervals
        self.model.train()
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        while stage.cursor.step < target:
            self._step(stage, losses, norms)
        x, y = self._probe(ACCURACY_PROBE)
        metrics = {
            "loss": torch.stack(losses).mean().item(),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "train_accuracy": accuracy(self.model, x, y, self.config.eval_batch),
        }
        if norms:
            metrics["gradient_norm"] = torch.stack(norms).mean().item()
        counts, tokens = specialise.take_counts(self.model)
        return IntervalReport(
            counts=counts,
            tokens=tokens,
            mask_version=mask_version,
            stage=stage.spec.id,
            n=n,
            steps=stage.cursor.step,
            metrics=metrics,
            usage=usage(self.model),
            seconds=time.perf_counter() - began,
            rss_mb=resident_mb(),
        )

    def apply(self, edit: Edit) -> EditReport:
        """Change the model and its optimizer in place."""
        x, _ = self._probe(self.config.probe)
        return surgery.apply(self.model, self.optimizer, edit, x)

    def save(self, uri: str, seq: int) -> CheckpointRef:
        """Write everything the lane's future depends on; at the stage's end, end the stage."""
        stage = self.stage
        cursor: Json = None
        rng = {"torch": torch.get_rng_state()}
        if stage is not None:
            if stage.cursor.step == stage.total_steps:
                self.method.end_stage(self.stream.data(stage.spec.task))
                self.stage = None
            else:
                assert stage.cursor.order_state is not None
                rng["order"] = stage.cursor.order_state
                cursor = {"step": stage.cursor.step, "position": stage.cursor.position}
        state = {
            "engine": "supervised",
            "arch": surgery.arch(self.model),
            "settings_digest": self.lane.built_from,
            "lane_seed": self.lane.seed,
            "stage": asdict(stage.spec) if stage is not None and cursor is not None else None,
            "cursor": cursor,
        }
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_state.named_state(self.model, self.optimizer),
            "method": self.method.state(),
            "rng": rng,
        }
        name = None if stage is None else stage.spec.id
        return checkpoint.write(uri, tensors, state, seq=seq, stage=name)

    def close(self) -> None:
        """Nothing outlives the process."""

    # ------------------------------------------------------------ inside

    def _step(self, stage: _Stage, losses: list[Tensor], norms: list[Tensor]) -> None:
        """One gradient step; appends its loss and gradient norm, which stay on the device."""
        config = self.config
        x, y = self._batch(stage)
        x, y = self.method.extend_batch(self.augment(x), y)
        specialise.set_progress(self.banks, stage.cursor.step / stage.total_steps)
        warm = int(config.warmup * stage.total_steps)
        if warm:
            share = min(1.0, (stage.cursor.step + 1) / warm)
            for group in self.optimizer.param_groups:
                group["lr"] = config.optimizer.lr * share
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.method.loss(self.model, x, y)
        loss.backward()
        specialise.drop_masked(self.banks)
        if config.clip is not None:
            norms.append(nn.utils.clip_grad_norm_(self.model.parameters(), config.clip))
        self.optimizer.step()
        stage.cursor.step += 1
        losses.append(loss.detach())

    def _batch(self, stage: _Stage) -> tuple[Tensor, Tensor]:
        """The next batch in the stage's order; the last one of an epoch may be smaller."""
        cursor = stage.cursor
        if cursor.position >= len(stage.order):
            _shuffle(stage)
        index = stage.order[cursor.position : cursor.position + self.config.batch]
        if stage.domain is not None:
            domain = stage.domain[index]
            if stage.pure is not None:
                index = index[: int((domain == domain[0]).cumprod(0).sum())]
                domain = domain[: len(index)]
            specialise.point(self.banks, self.domains, domain.to(self.device))
        cursor.position += len(index)
        return stage.x[index], stage.y[index]

    def _load(self, spec: StageSpec) -> TaskData:
        """Load the stage's data and set the order of its batches."""
        data = self.stream.data(spec.task)
        past: list[TaskData] = []
        if self.method.needs_past:
            past = [self.stream.data(task) for task in self.stream.tasks()[: spec.task.index]]
        x, y = self.method.training_data(data, past)
        if len(y) == 0:
            raise InputError(f"task {spec.task.name!r}: no training samples; check its settings")
        config = self.config
        domain = self._domains_of(spec, data)
        pure = config.batch if config.batches == "domain" and domain is not None else None
        parts = [len(y)] if pure is None else domain.bincount().tolist()  # type: ignore[union-attr]
        per_epoch = sum(-(-samples // config.batch) for samples in parts)
        epochs = 1.0 if config.epochs is None else config.epochs
        total = config.steps if config.steps is not None else max(1, round(epochs * per_epoch))
        if total < config.intervals:
            raise InputError(
                f"task {spec.task.name!r}: {total} gradient steps cannot be split into "
                f"{config.intervals} intervals; lower training.intervals or train longer"
            )
        self.stage = _Stage(
            spec=spec,
            x=x.to(self.device),
            y=y.to(self.device),
            total_steps=total,
            order=torch.empty(0, dtype=torch.int64),
            generator=torch.Generator().manual_seed(derive_seed(spec.seed, "order")),
            domain=domain,
            pure=pure,
        )
        _shuffle(self.stage)
        return data

    def _domains_of(self, spec: StageSpec, data: TaskData) -> Tensor | None:
        """Domain of each training sample, as its place in the stream's domains."""
        wanted = len(self.domains) > 1 or self.method.specialises
        if not wanted or not self.banks or self.method.mixes:
            return None
        places = torch.tensor([self.domains.index(name) for name in spec.task.domains])
        if data.train_domain is None:
            return places[0].repeat(len(data.train_y))
        return places[data.train_domain]

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        """Everything back as it was when the checkpoint was written."""
        state = saved.state
        if state.get("engine") != "supervised":
            raise InputError(
                f"checkpoint of engine {state.get('engine')!r} given to a supervised lane"
            )
        if state["settings_digest"] != self.lane.built_from:
            raise InputError("checkpoint was written by a lane with other settings")
        surgery.ensure_arch(self.model, state["arch"])
        self.model.load_state_dict(saved.tensors["model"])
        self.optimizer = self._new_optimizer()
        optimizer_state.load_named_state(self.model, self.optimizer, saved.tensors["optimizer"])
        self.method.load_state(saved.tensors["method"])
        if state["stage"] is not None:
            spec, problems = parse(StageSpec, state["stage"], "stage")
            assert not problems, problems
            self._load(spec)
            assert self.stage is not None
            self.stage.generator.set_state(saved.tensors["rng"]["order"])
            _shuffle(self.stage)
            self.stage.cursor.step = state["cursor"]["step"]
            self.stage.cursor.position = state["cursor"]["position"]
        torch.set_rng_state(saved.tensors["rng"]["torch"])

    def _probe(self, samples: int) -> tuple[Tensor, Tensor]:
        """The first training samples of the stage: the same ones at every call."""
        stage = self._current()
        return stage.x[:samples], stage.y[:samples]

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return construct(OPTIMIZERS, self.config.optimizer).build(self.model)

    def _current(self) -> _Stage:
        assert self.stage is not None, "no stage has been started"
        return self.stage


class SupervisedEvaluator:
    """Accuracy of a checkpoint on the test data of each task."""

    def __init__(self) -> None:
        self.streams: dict[str, Any] = {}

    def evaluate(
        self, lane: LaneSpec, ref: CheckpointRef, tasks: tuple[TaskSpec, ...]
    ) -> EvaluationReport:
        """Scores in task order; accuracy over the whole output layer (class-incremental)."""
        began = time.perf_counter()
        torch.set_num_threads(lane.threads)
        key = f"{lane.built_from}-{lane.seed}"
        stream = self.streams.setdefault(key, _stream(lane))
        saved = checkpoint.read(ref)
        model = build_model(lane, stream)
        surgery.ensure_arch(model, saved.state["arch"])
        model.load_state_dict(saved.tensors["model"])
        model.to(pick_device())
        batch = _training(lane).eval_batch
        report = EvaluationReport(scores=[], seconds=0.0)
        specialised = len({name for task in tasks for name in task.domains}) > 1
        for task in tasks:
            x, y = stream.test(task)
            with recording(model), keeping(model if specialised else nn.Module()) as kept:
                right = correct(model, x, y, batch)
                report.usage[task.name] = usage(model)
            report.scores.append(float(right.double().mean()))
            if specialised:
                report.details[task.name] = {
                    **_by_domain(right, task, stream.test_domains(task)),
                    **routing.measure(kept),
                }
                report.probes[task.name] = routing.probe(kept)
        return replace(report, seconds=time.perf_counter() - began)


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> float:
    """Share of samples (x [N, C, H, W], y [N]) whose largest logit is their label."""
    return float(correct(model, x, y, batch).double().mean())


def correct(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
    """Bool [N] on the CPU: is the largest logit the sample's label? In evaluation mode."""
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        right = [
            model(part.to(device)).argmax(-1) == labels.to(device)
            for part, labels in zip(x.split(batch), y.split(batch), strict=True)
        ]
    model.train()
    return torch.cat(right).cpu()


def _by_domain(right: Tensor, task: TaskSpec, domain: Tensor | None) -> dict[str, float]:
    """Accuracy on each domain of a task that mixes several."""
    if domain is None:
        return {}
    return {
        f"accuracy/{name}": float(right[domain == place].double().mean())
        for place, name in enumerate(task.domains)
    }


def build_model(lane: LaneSpec, stream: Any) -> nn.Module:
    """The untrained model of a lane: depends on settings and the lane's seed only."""
    cls, config = checked(MODELS, lane.settings["model"])
    model: nn.Module = cls(
        config, stream.input_shape, stream.outputs, derive_seed(lane.seed, "model")
    )
    return model


def pick_device() -> torch.device:
    """The GPU the cluster gave this worker, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resident_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _stream(lane: LaneSpec) -> Any:
    cls, config = checked(engines.streams(), lane.settings["stream"])
    return cls(config, lane.seed)


def _training(lane: LaneSpec) -> Any:
    return checked(engines.trainings(), lane.settings["training"])[1]


def _one_domain_at_a_time(stage: _Stage, batch: int) -> Tensor:
    """The order cut into batches of one domain each, the batches in random order."""
    assert stage.domain is not None
    domain = stage.domain[stage.order]
    parts = [
        part for place in domain.unique() for part in stage.order[domain == place].split(batch)
    ]
    turn = torch.randperm(len(parts), generator=stage.generator)
    return torch.cat([parts[i] for i in turn])


def _shuffle(stage: _Stage) -> None:
    """Draw the next epoch's order, remembering the generator's state before it."""
    stage.cursor.order_state = stage.generator.get_state()
    stage.order = torch.randperm(len(stage.y), generator=stage.generator)
    if stage.pure is not None:
        stage.order = _one_domain_at_a_time(stage, stage.pure)
    stage.cursor.position = 0
