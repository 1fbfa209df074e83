"""The supervised loop: one lane's model, optimizer, method and data cursor on one device.

Plain torch, deterministic on CPU, free of Ray: a test calls it in-process, a worker actor is a
shell around it. Whether other workers train the same lane beside it, only ``replicas`` knows.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from workers import checkpoint, trainers
from workers.contract import (
    CheckpointRef,
    DivergedError,
    Edit,
    EditReport,
    InputError,
    IntervalReport,
    Json,
    LaneSpec,
    OpenReport,
    StageSpec,
    StartReport,
    derive_seed,
)
from workers.methods import METHODS
from workers.moe.domains import specialise
from workers.moe.growth import optimizer_state, surgery
from workers.moe.routed import (
    StepContext,
    drop_gradients,
    routed_layers,
    stepping,
    take_counts,
    take_gate_weights,
)
from workers.parsing import checked, parse
from workers.streams import TaskData
from workers.supervised.augmentations import AUGMENTATIONS
from workers.supervised.batches import Batches
from workers.supervised.building import build_model, build_stream, pick_device, training_config
from workers.supervised.data_parallel import ALONE, Replicas
from workers.supervised.evaluator import correct
from workers.supervised.optimizers import OPTIMIZERS
from workers.tables import construct

ACCURACY_PROBE = 512
"""Training samples on which an interval's training accuracy is measured."""


@dataclass(slots=True)
class _Stage:
    """What exists only while a stage is trained."""

    spec: StageSpec
    x: Tensor
    y: Tensor
    batches: Batches
    total_steps: int
    step: int = 0
    """Gradient steps done."""


class SupervisedTrainer:
    """Trainer of supervised lanes (see ``workers.contract.Trainer``)."""

    def __init__(self, replicas: Replicas = ALONE) -> None:
        """``replicas``: this worker's tie to the others that train the same lane."""
        self.replicas = replicas
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
        self.stream = build_stream(lane)
        method_class, method = checked(METHODS, lane.settings["method"])
        self.method = method_class(method, derive_seed(lane.seed, "method"))
        self.config = training_config(lane)
        self.model = build_model(lane, self.stream).to(self.device)
        self.optimizer = self._new_optimizer()
        self.augment = construct(AUGMENTATIONS, self.config.augment)
        self.routed = routed_layers(self.model)
        tasks = self.stream.tasks()
        self.domains = tuple(dict.fromkeys(name for task in tasks for name in task.domains))
        self.stage = None
        seq = 0
        if ref is not None:
            self._restore(checkpoint.read(ref))
            seq = ref.seq
        self.replicas.watch(self.model)
        return OpenReport(
            shape=surgery.shape(self.model),
            seq=seq,
            backend=trainers.kernels(lane, self.device.type),
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
        self.replicas.watch(self.model)  # a method may have frozen parts
        take_gate_weights(self.model)  # start counting gate weights anew
        take_counts(self.model)
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
        while stage.step < target:
            self._step(stage, losses, norms)
        metrics = {
            "loss": torch.stack(losses).mean().item(),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "train_accuracy": self._train_accuracy(),
        }
        if norms:
            metrics["gradient_norm"] = torch.stack(norms).mean().item()
        counts, tokens = take_counts(self.model, self.replicas.sum_counts)
        return IntervalReport(
            counts=counts,
            tokens=tokens,
            mask_version=mask_version,
            stage=stage.spec.id,
            n=n,
            steps=stage.step,
            metrics=metrics,
            usage=take_gate_weights(self.model, self.replicas.sum_counts),
            seconds=time.perf_counter() - began,
            rss_mb=resident_mb(),
        )

    def apply(self, edit: Edit) -> EditReport:
        """Change the model and its optimizer in place."""
        x, _ = self._probe(self.config.probe)
        report = surgery.apply(self.model, self.optimizer, edit, x)
        self.replicas.watch(self.model)
        return report

    def save(self, uri: str, seq: int) -> CheckpointRef:
        """Write everything the lane's future depends on; at the stage's end, end the stage.

        Of several workers the first one writes; the others say what they would have written.
        """
        stage = self.stage
        cursor: Json = None
        rng = {"torch": torch.get_rng_state()}
        if stage is not None:
            if stage.step == stage.total_steps:
                self.method.end_stage(self.stream.data(stage.spec.task))
                self.stage = None
            else:
                rng["order"] = stage.batches.order_state
                cursor = {"step": stage.step, "position": stage.batches.position}
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
        put = checkpoint.write if self.replicas.rank == 0 else checkpoint.foretell
        return put(uri, tensors, state, seq=seq, stage=name)

    def close(self) -> None:
        """Leave the lane's other workers; nothing else outlives the process."""
        self.replicas.close()

    # ------------------------------------------------------------ inside

    def _step(self, stage: _Stage, losses: list[Tensor], norms: list[Tensor]) -> None:
        """One gradient step; appends its loss and gradient norm, which stay on the device.

        Every worker forms the same batch, then learns from its part of it.
        """
        config = self.config
        index = stage.batches.next()
        x, y = self.method.extend_batch(self.augment(stage.x[index]), stage.y[index])
        part = self.replicas.part(len(y))
        context = StepContext(progress=stage.step / stage.total_steps)
        if stage.batches.domain is not None:
            domain_B = stage.batches.domain[index][part].to(self.device)
            context = replace(context, domains=self.domains, domain_B=domain_B)
        warm = int(config.warmup * stage.total_steps)
        if warm:
            share = min(1.0, (stage.step + 1) / warm)
            for group in self.optimizer.param_groups:
                group["lr"] = config.optimizer.lr * share
        self.optimizer.zero_grad(set_to_none=True)
        own_draws = self.replicas.own_draws(stage.spec.seed, stage.step)
        with own_draws, stepping(self.routed, context):
            loss = self._backward(x[part], y[part])
            drop_gradients(self.routed)
        loss = self.replicas.sum_gradients(loss, (part.stop - part.start) / len(y))
        if config.clip is not None:
            norms.append(nn.utils.clip_grad_norm_(self.model.parameters(), config.clip))
        self.optimizer.step()
        stage.step += 1
        losses.append(loss)

    def _backward(self, x: Tensor, y: Tensor) -> Tensor:
        """Gradients of the loss on these samples; its value, 0 where there are none."""
        if not len(y):
            return torch.zeros((), device=self.device)
        loss = self.method.loss(self.model, x, y)
        loss.backward()
        return loss.detach()

    def _train_accuracy(self) -> float:
        """Accuracy on the stage's first training samples, each worker measuring its part."""
        x, y = self._probe(ACCURACY_PROBE)
        part = self.replicas.part(len(y))
        right = correct(self.model, x[part], y[part], self.config.eval_batch)
        return int(self.replicas.sum_counts(right.sum())) / len(y)

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
        domain = self._domains_of(spec, data, len(y))
        order = derive_seed(spec.seed, "order")
        batches = Batches(len(y), config.batch, order, domain, config.batches == "domain")
        epochs = 1.0 if config.epochs is None else config.epochs
        total = config.steps or max(1, round(epochs * batches.per_epoch))
        if total < config.intervals:
            raise InputError(
                f"task {spec.task.name!r}: {total} gradient steps cannot be split into "
                f"{config.intervals} intervals; lower training.intervals or train longer"
            )
        x, y = x.to(self.device), y.to(self.device)
        self.stage = _Stage(spec=spec, x=x, y=y, batches=batches, total_steps=total)
        return data

    def _domains_of(self, spec: StageSpec, data: TaskData, samples: int) -> Tensor | None:
        """Domain of each training sample, as its place in the stream's domains."""
        wanted = len(self.domains) > 1 or self.method.specialises
        if not wanted or not self.routed or self.method.mixes:
            return None
        places = torch.tensor([self.domains.index(name) for name in spec.task.domains])
        if samples != len(data.train_y):
            raise InputError(
                f"method {self.lane.method}: training_data gives {samples} samples, the task has "
                f"{len(data.train_y)}, so their domains are unknown; its class must say "
                "`mixes = True`"
            )
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
            self.stage.step = state["cursor"]["step"]
            self.stage.batches.resume(state["cursor"]["position"], saved.tensors["rng"]["order"])
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


def resident_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
