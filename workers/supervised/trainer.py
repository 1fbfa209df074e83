"""The supervised loop: one lane's model, optimizer, method and data cursor on one device.

Plain torch, deterministic on CPU, free of Ray: a test calls it in-process, a worker actor is a
shell around it. Whether other workers train the same lane beside it, only ``replicas`` knows.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import nullcontext
from dataclasses import asdict, replace

import torch
from torch import Tensor

from workers import checkpoint, trainers
from workers.contract import (
    CheckpointRef,
    DivergedError,
    EditReport,
    IntervalReport,
    Json,
    LaneSpec,
    OpenReport,
    StageSpec,
    StartReport,
    Taken,
    derive_seed,
    domains_of,
)
from workers.diagnostics.observing import at_start
from workers.edits import Edit, EditProbe
from workers.machine import leave_memory_unfilled, pick_device, resident_mb
from workers.methods import MethodContext
from workers.moe.growth import optimizer_state, surgery
from workers.moe.routed import IDLE, Routed, StepContext, observing, routed_layers
from workers.moe.stepping import drop_gradients, go_on, stepping, telling
from workers.moe.tallies import forget_counts, take_counts, take_gate_weights, take_sums
from workers.parsing import parse
from workers.streams import Part
from workers.supervised.augmentations import AUGMENTATIONS
from workers.supervised.batches import equal_parts
from workers.supervised.building import (
    build_method,
    build_model,
    build_optimizer,
    build_stream,
    training_config,
)
from workers.supervised.data_parallel import ALONE, Replicas
from workers.supervised.learning_rates import Course
from workers.supervised.merging import merge_into
from workers.supervised.objectives import measured, sums
from workers.supervised.precision import clipped_norm
from workers.supervised.recomputation import recompute_blocks
from workers.supervised.signals import VALIDATING, Interval, newest_gain
from workers.supervised.stage import Assigned, Stage, mixing, prepare
from workers.supervised.starting import begin_with, check_reader
from workers.tables import construct


class SupervisedTrainer:
    """Trainer of supervised lanes (see ``workers.contract.Trainer``)."""

    def __init__(self, replicas: Replicas = ALONE) -> None:
        """``replicas``: this worker's tie to the others that train the same lane."""
        self.replicas = replicas
        self.stage: Stage | None = None

    # ------------------------------------------------------------ contract

    def open(
        self, lane: LaneSpec, ref: CheckpointRef | None, taken: Taken | None = None
    ) -> OpenReport:
        """Build the lane's model, or restore it with everything that training depends on.

        ``taken``: the stage at whose end another lane wrote the checkpoint.
        """
        _make_deterministic(lane)
        self.lane = lane
        self.device = pick_device()
        self.stream = build_stream(lane)
        self.method = build_method(lane, self.stream)
        self.config = training_config(lane)
        self.model = build_model(lane, self.stream)
        begun = (
            None if ref is not None or lane.start is None else begin_with(self.model, lane.start)
        )
        if ref is None and lane.merged is not None:
            merge_into(self.model, lane.merged, self.stream, lane.seed)
        self.model = self.model.to(self.device)
        if self.config.checkpoint_activations:
            recompute_blocks(self.model)
        self.layers = routed_layers(self.model)
        self.optimizer = self._new_optimizer()
        if begun is not None and lane.start is not None and lane.start.optimizer:
            self._take_optimizer(begun)
        self.course = Course(self.config, len(self.stream.tasks()))
        self.augment = construct(AUGMENTATIONS, self.config.augment)
        self.domains = domains_of(self.stream.tasks())
        self.stage = None
        self.revision = 0
        if ref is not None:
            self._restore(checkpoint.read_of(ref, lane, taken), taken)
        self.method.watch(self.model)
        self.replicas.watch(self.model)
        return OpenReport(
            shape=surgery.shape(self.model),
            seq=0 if ref is None else ref.seq,
            backend=trainers.kernels(lane, self.device.type),
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    def start(self, stage: StageSpec) -> StartReport:
        """Point the loop at the stage's task; seeds everything random from the stage's seed."""
        torch.manual_seed(stage.seed)
        self.stage = self._prepared(stage)
        afresh = self.method.starts_afresh and stage.index > 0
        if afresh:
            self.model.load_state_dict(self._untrained(stage).state_dict())
        if afresh or self.config.fresh_optimizer:
            self.optimizer = self._new_optimizer()
        notes = self.method.begin_stage(self._context(self.stage))
        self.replicas.watch(self.model)  # a method may have frozen parts, or freed some
        forget_counts(self.model)
        data = self.stage.data
        sizes = {f"{name}_samples": str(len(part)) for name, part in data.parts.items()}
        del sizes["train_samples"]
        return StartReport(
            source=data.source,
            data_digest=data.digest,
            samples=len(self.stage.part),
            fields={**sizes, "device": str(self.device), **data.notes, **notes},
            figures=self._measured(self.stage),
        )

    def run_interval(self, n: int, revision: int = 0) -> IntervalReport:
        """Train the ``n``-th of the stage's equal parts (from 1); with the last, end the stage.

        ``revision``: number of edits that the model must have taken in; raises DivergedError where
        it has another.
        """
        stage = self._current()
        if revision != self.revision:
            raise DivergedError(
                f"interval {n} is to be trained at revision {revision}, the model is at revision "
                f"{self.revision}"
            )
        began = time.perf_counter()
        target = stage.steps * n // stage.spec.intervals
        interval = Interval(
            stage.step,
            target - stage.step,
            always=self.config.clip is not None,
            coherence="gradient_coherence" in self.lane.signals,
        )
        context = self._context(stage)
        if stage.assigned is None:
            self._train_score(stage)
        before = stage.assigned or {}
        self.model.train()
        while stage.step < target:
            self._step(stage, context, interval)
        score = self._train_score(stage)
        validating = self._validating(stage)
        terms = self.replicas.sum_named(interval.sums())
        counts, tokens = take_counts(self.model, self.replicas.sum_counts)
        gate_weights = take_gate_weights(self.model, self.replicas.sum_counts)
        selected = take_sums(self.model, self.replicas.sum_counts)
        metrics = interval.metrics()
        if stage.done:
            self.method.end_stage(context)
        return IntervalReport(
            stage=stage.spec.id,
            n=n,
            steps=stage.step,
            metrics={
                **metrics,
                **{name: total / len(interval.losses) for name, total in terms.items()},
                "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
                f"train_{self.stream.objective.score_name}": score,
            },
            signals={
                **interval.signals(metrics, score, self._flips(before, stage.assigned or {})),
                **interval.requested(),
                **validating,
            },
            gate_weights=gate_weights,
            counts=counts,
            tokens=tokens,
            sums=selected,
            revision=revision,
            seconds=time.perf_counter() - began,
            rss_mb=resident_mb(),
        )

    def apply(self, edit: Edit) -> EditReport:
        """Change the model and its optimizer in place.

        Raises DivergedError where an edit before this one is missing, or this one is in already.
        """
        edit.check_next(self.revision)
        stage = self._current()
        seen, objective = stage.probe, self.stream.objective
        probe = EditProbe(seen.x, seen.y, seen.domain, lambda y: objective.losses(y, seen.y))
        report, change = surgery.follow(self.model, self.optimizer, edit, probe)
        self.revision, stage.assigned = edit.revision, None
        self.method.watch(self.model)
        self.method.edited(replace(self._context(stage), change=change), report)
        self.replicas.watch(self.model)  # a method may have frozen parts, or freed some
        return report

    def save(self, uri: str, seq: int) -> CheckpointRef:
        """Write everything the lane's future depends on; changes nothing.

        Of several workers the first one writes; the others say what they would have written.
        """
        stage = self.stage
        cursor: Json = None
        rng = {"torch": torch.get_rng_state()}
        if stage is not None and not stage.done:
            rng["order"] = stage.batches.order_state
            cursor = {"step": stage.step, "position": stage.batches.position}
        state = {
            "trainer": self.lane.trainer,
            "reader": self.stream.reader,
            "revision": self.revision,
            "arch": surgery.arch(self.model),
            "settings_digest": self.lane.built_from,
            "lane_seed": self.lane.seed,
            "stage": None if stage is None or cursor is None else asdict(stage.spec),
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

    # ------------------------------------------------------------ a gradient step

    def _step(self, stage: Stage, context: MethodContext, interval: Interval) -> None:
        """One gradient step. Every worker forms the same batch, then learns from its part of it."""
        index = stage.batches.next()
        x, y = stage.part.x[index].to(self.device), stage.part.y[index].to(self.device)
        x, y = self.method.extend_batch(x, y)
        if stage.part.domain is not None and len(y) != len(index):
            raise mixing(self.method, f"extend_batch makes {len(y)} samples of {len(index)}")
        x, samples = self.augment(x), len(y)
        mine = self.replicas.part(samples)
        taken = mine.stop - mine.start
        share = taken / samples
        if taken < samples:
            x, y = x[mine], y[mine]
        self.course.set(self.optimizer, stage.spec.index, stage.step, stage.steps)
        for group in self.optimizer.param_groups:  # Optimizer.zero_grad asks the profiler first
            for parameter in group["params"]:
                parameter.grad = None
        told = self._told(stage, index, mine) if self.layers else IDLE
        own = self.replicas.own_draws(stage.spec.seed, stage.step)
        with own, stepping(self.layers, told) if self.layers else nullcontext():
            loss = self._accumulated(x, y, share, interval, told)
        drop_gradients(self.layers)
        interval.losses.append(self.replicas.sum_gradients(loss, share))
        self.method.after_backward(context)
        if stage.step in interval.measured:
            interval.measure(self.model, clipped_norm(self.model, self.config.clip))
        self.optimizer.step()
        self.method.after_step(context)
        stage.step += 1

    def _told(self, stage: Stage, index: Tensor, mine: slice) -> StepContext:
        """What routed layers are told about a step on this worker's part of the batch."""
        if stage.part.domain is None:
            return StepContext(stage.progress)
        domain_B = stage.part.domain[index[mine]].to(self.device)
        return StepContext(stage.progress, self.domains, domain_B)

    def _accumulated(
        self, x: Tensor, y: Tensor, share: float, interval: Interval, told: StepContext
    ) -> Tensor:
        """Gradients of the mean loss on these samples, passed at once or part by part; its value,
        0 where there are none."""
        if not share:
            return torch.zeros((), device=self.device)
        if self.config.accumulate == 1:
            return self._backward(x, y, share, interval)
        losses = []
        for part in equal_parts(len(y), self.config.accumulate):
            go_on(self.layers, told.part(part))
            weight = (part.stop - part.start) / len(y)
            losses.append(self._backward(x[part], y[part], share, interval, weight))
        return torch.stack(losses).sum()

    def _backward(
        self, x: Tensor, y: Tensor, share: float, interval: Interval, weight: float = 1.0
    ) -> Tensor:
        """Gradients of the loss, times the weight of these samples among the step's."""
        loss = self.method.loss(self.model, x, y)
        terms = self.model.auxiliary_losses()
        if terms:
            loss = loss + torch.stack(tuple(terms.values())).sum()
        if weight != 1.0:
            loss = loss * weight
        loss.backward()
        for name, term in terms.items():
            interval.terms[name].append(term.detach() * (share * weight))
        return loss.detach()

    # ------------------------------------------------------------ inside

    def _train_score(self, stage: Stage) -> float:
        """Score on samples that stand for the stage."""
        with observing(self.model, _heaviest) as seen:
            score = self._score(stage.scored)
        stage.assigned = {layer: torch.cat(passes) for layer, passes in seen.items() if passes}
        return score

    def _score(self, part: Part) -> float:
        """Score on these samples, each worker measuring its part of them."""
        objective, x, y = self.stream.objective, part.x, part.y
        mine = self.replicas.part(len(y))
        batch = self.config.evaluated(objective)
        with telling(self.model, None if part.domain is None else part.domain[mine]):
            found = sums(measured(self.model, objective, x[mine], y[mine], batch, figures=False))
        total = self.replicas.sum_counts(torch.tensor(list(found.values()), dtype=torch.float64))
        score: float = objective.summary(dict(zip(found, total.tolist(), strict=True)), len(y))[
            "score"
        ]
        return score

    def _validating(self, stage: Stage) -> dict[str, float]:
        """Signals asked for that are scores on the validation part."""
        wanted = [name for name in VALIDATING if name in self.lane.signals]
        if not wanted or stage.validated is None:
            return {}
        part = stage.validated
        score = self._score(part)
        found = {"validation_score": score} if "validation_score" in wanted else {}
        if "newest_gain" in wanted:
            found |= newest_gain(self.model, score, lambda: self._score(part))
        return found

    def _flips(self, before: Assigned, after: Assigned) -> float:
        """Largest share over layers of tokens that went to another expert, of all workers'."""
        if not self.layers:
            return 0.0
        counts = torch.zeros(2, len(self.layers), dtype=torch.float64)
        for place, layer in enumerate(self.layers):
            if layer in after:  # a worker may have no sample
                counts[:, place] += torch.tensor(
                    [float((before[layer] != after[layer]).sum()), len(after[layer])]
                )
        flipped_L, tokens_L = self.replicas.sum_counts(counts)
        return float((flipped_L / tokens_L).max())

    def _measured(self, stage: Stage) -> dict[str, Json]:
        """What the lane's policies want to know of the model at a stage's start."""
        if not self.lane.start_diagnostics:
            return {}
        objective, shape = self.stream.objective, self.stream.input_shape
        return at_start(
            self.lane.start_diagnostics,
            self.model,
            stage.part,
            self.domains,
            derive_seed(stage.spec.seed, "start"),
            most=objective.most_looked_at,
            kept=lambda samples: objective.kept(samples, shape, self.stream.outputs),
            batch=self.config.evaluated(objective),
            loss=objective.loss,
        )

    def _prepared(self, spec: StageSpec) -> Stage:
        """The stage's data and the order of its batches, from its first step."""
        known = len(self.domains) > 1 or self.lane.by_domain
        domains = self.domains if known and self.layers else ()
        validates = any(name in VALIDATING for name in self.lane.signals)
        return prepare(spec, self.stream, self.method, self.config, domains, self.device, validates)

    def _restore(self, saved: checkpoint.Checkpoint, taken: Taken | None) -> None:
        """Everything back as it was when the checkpoint was written; where another lane did that
        with another method, as this lane would have written it."""
        state = saved.state
        check_reader(self.stream, saved)
        surgery.ensure_arch(self.model, state["arch"])
        self.model.load_state_dict(saved.tensors["model"])
        self.optimizer = self._new_optimizer()
        self._take_optimizer(saved)
        if taken is None or taken.same_method:
            self.method.load_state(saved.tensors["method"], self.model)
        elif taken.stage is not None:
            self._learn_from(taken.stage)
        self.revision = state["revision"]
        if state["stage"] is not None:
            spec, problems = parse(StageSpec, state["stage"], "stage")
            assert not problems, problems
            self.stage = self._prepared(spec)
            self.stage.step = state["cursor"]["step"]
            self.stage.batches.resume(state["cursor"]["position"], saved.tensors["rng"]["order"])
        torch.set_rng_state(saved.tensors["rng"]["torch"])

    def _take_optimizer(self, saved: checkpoint.Checkpoint) -> None:
        optimizer_state.load_named_state(self.model, self.optimizer, saved.tensors["optimizer"])

    def _learn_from(self, spec: StageSpec) -> None:
        """Have the method learn from a stage that was trained without it."""
        stage = self._prepared(spec)
        stage.step = stage.steps
        self.model.train()
        self.method.end_stage(self._context(stage))

    def _context(self, stage: Stage) -> MethodContext:
        """What the method's hooks may look at and change."""
        return MethodContext(
            model=self.model,
            optimizer=self.optimizer,
            stage=stage.spec,
            data=stage.data,
            domains=self.domains,
            device=self.device,
            objective=self.stream.objective,
            seed=derive_seed(stage.spec.seed, "method"),
            steps=stage.steps,
            total=self.replicas.sum_counts,
        )

    def _untrained(self, stage: StageSpec) -> torch.nn.Module:
        """A model as the lane's settings make it, drawn by the stage's seed."""
        drawn = replace(self.lane, seed=derive_seed(stage.seed, "afresh"))
        model: torch.nn.Module = build_model(drawn, self.stream)
        return model

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return build_optimizer(self.config, self.model)

    def _current(self) -> Stage:
        assert self.stage is not None, "no stage has been started"
        return self.stage


def _make_deterministic(lane: LaneSpec) -> None:
    """Threads and seeds of this process, so that a rerun gives the same bits."""
    torch.set_num_threads(lane.threads)
    torch.use_deterministic_algorithms(True)
    leave_memory_unfilled()
    torch.manual_seed(derive_seed(lane.seed, "lane"))


def _heaviest(routed: Routed) -> torch.Tensor:
    """Place of the expert that weighs most in each token's output, int64 [T]."""
    return routed.weights.argmax(-1)
