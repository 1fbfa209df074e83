"""Scores a checkpoint on the tasks of its stream: a forward pass and environments, no RLlib.

The score is the mean return as a share of the task's largest one. It is reported as it is: an
agent that only loses health can score slightly below zero.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.checkpoint import read_of
from workers.contract import (
    CheckpointRef,
    EvaluationReport,
    LaneSpec,
    TaskSpec,
    derive_seed,
    domains_of,
)
from workers.diagnostics import Diagnostic, Gates, Probe, made, measure
from workers.diagnostics.observing import (
    DRIFT_SAMPLES,
    PROBE_SAMPLES,
    Seen,
    drift_probe,
    observe,
    pooled,
    seeing,
)
from workers.evaluation import Measured, evaluation
from workers.machine import pick_device
from workers.models.acting import ActingModel
from workers.moe.growth.surgery import ensure_arch
from workers.parsing import checked
from workers.rl import TRAININGS
from workers.rl.building import build_model, build_stream, sample_actions
from workers.rl.dlpack import as_tensor
from workers.rl.environments.base import ACHIEVEMENT, BatchedEnvironment, Episode, summary
from workers.rl.floor_routing import FloorGates

Watch = Callable[[int, Tensor, Tensor, NDArray[np.bool_]], None]
"""Told of each step after the model answered: its number, observations and states [N, ...] before
it, and which environments still play."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of N environments, after it was taken."""

    observations: Tensor
    """Before it [N, ...]."""
    state: Tensor
    """The model's, before it [N, S]."""
    observations_after: Tensor
    state_after: Tensor
    rewards: Tensor
    """Float [N]."""
    over: Tensor
    """Whether the episode ended with it, bool [N]."""


class Player(Protocol):
    """What plays: an ``ActingModel``, or something around one."""

    def initial_state(self, batch: int) -> Tensor: ...

    def step(self, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor]: ...


class RLEvaluator:
    """Plays the first episode of each environment, actions drawn from the policy.

    The episodes of the first ``test_episodes`` environments are the test part, those of the next
    ``validation`` ones the validation part: all begin and are stepped together, so that the second
    part costs nothing of its own. What the agent meets in test episodes is what its features and
    routing are measured on, so these figures also move with what it does. Only drift is told on
    inputs that never change: the first observations of the test episodes.
    """

    def evaluate(
        self, lane: LaneSpec, checkpoint: CheckpointRef, tasks: tuple[TaskSpec, ...]
    ) -> EvaluationReport:
        """Scores in task order; the same checkpoint always gets the same ones (on CPU)."""
        began = time.perf_counter()
        torch.set_num_threads(lane.threads)
        _, training = checked(TRAININGS, lane.settings["training"])
        diagnostics = made(training.diagnostics)
        stream = build_stream(lane.settings["stream"], lane.seed)
        model, start = _restored(lane, checkpoint, stream)
        model.to(pick_device())
        with observe(model) as take, seeing(model) as seen:
            found = {
                task.name: _Task(lane, training, stream, model, task, start, take, seen).measure(
                    diagnostics
                )
                for task in tasks
            }
        probe = pooled([one.probe for one in found.values()], domains_of(tasks))
        return evaluation(found, measure(probe, diagnostics, ("model",)), began)


class _Task:
    """One task's episodes, and what is seen of the model in them."""

    def __init__(
        self,
        lane: LaneSpec,
        training: Any,
        stream: Any,
        model: ActingModel,
        task: TaskSpec,
        start: dict[str, Tensor],
        take: Callable[[], dict[str, Gates]],
        seen: Seen,
    ) -> None:
        self.lane, self.training, self.stream, self.task = lane, training, stream, task
        self.model, self.start, self.take, self.seen = model, start, take, seen
        self.floors = FloorGates()
        self.visits = Visits(derive_seed(lane.seed, "probe", task.name))
        self.drift: dict[str, list[list[float]]] = {}
        self.tells = False
        """Whether events are told of what was met."""

    def measure(self, diagnostics: dict[str, Diagnostic]) -> Measured:
        """Play, then look at the model on what was met."""
        self.tells = any(diagnostic.needs_events for diagnostic in diagnostics.values())
        training, task = self.training, self.task
        self.engine = self.stream.environment(task, training.evaluated)
        self.engine.seed(derive_seed(self.lane.seed, "evaluate", task.name))
        self.take()
        tested, validated = training.test_episodes, training.validated
        episodes = play(
            self.model,
            self.engine,
            episodes=tested + validated,
            max_steps=training.eval_max_steps,
            seed=derive_seed(self.lane.seed, "actions", task.name),
            watch=self._step,
        )
        figures = self._summary([one for one in episodes if one.index < tested])
        validation = None
        if validated:
            told = self._summary([one for one in episodes if one.index >= tested])
            validation = told["return_share"]
        probe = self._probe()
        return Measured(
            score=figures["return_share"],
            validation=validation,
            figures=(
                figures | self.floors.by_floor() | measure(probe, diagnostics, ("task", "layer"))
            ),
            gate_weights=self.floors.total(),
            drift=self.drift,
            probe=probe,
        )

    def _step(
        self, step: int, observations: Tensor, state: Tensor, running: NDArray[np.bool_]
    ) -> None:
        """Take in what the routers did and what was met in test episodes."""
        tested = running & (np.arange(len(running)) < self.training.test_episodes)
        routed = self.take()
        self.floors.add(routed, self.engine.floors(), tested)
        self.visits.add(observations, state, tested, self._events)
        if step == 0:
            first = torch.from_numpy(np.flatnonzero(tested)[:DRIFT_SAMPLES])
            self.drift = drift_probe(routed, len(running), first)

    def _events(self, row: int) -> frozenset[str]:
        """What holds for an environment now: its floor, the achievements of its episode."""
        if not self.tells:
            return frozenset()
        held = [name for name, got in self.engine.outcome(row).items() if got]
        achieved = [name for name in held if name.startswith(ACHIEVEMENT)]
        return frozenset([f"floor{int(self.engine.floors()[row])}", *achieved])

    @torch.inference_mode()
    def _probe(self) -> Probe:
        """The model's answers to observations met in test episodes."""
        observations, state = self.visits.kept()
        with self.seen:
            outputs, _ = self.model.step(observations, state)
        alike = torch.zeros(len(observations), dtype=torch.long, device=observations.device)
        return Probe(
            model=self.model,
            inputs=observations,
            outputs=outputs,
            activations=self.seen.activations,
            routed=self.take(),
            domains=self.task.domains,
            domain=alike,
            start=self.start,
            inputs_domain=alike,
            events=self.visits.events(),
        )

    def _summary(self, episodes: list[Episode]) -> dict[str, float]:
        stream = self.stream
        return summary(
            episodes, stream.largest_return(self.task), stream.smallest_return(self.task)
        )


class Visits:
    """At most PROBE_SAMPLES observations with the core's state before them, one a step.

    Which environment's is drawn by seed, and every step has the same chance to be kept (reservoir
    sampling).
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._kept: list[tuple[Tensor, Tensor, frozenset[str]]] = []
        self._met = 0

    def add(
        self,
        observations: Tensor,
        state: Tensor,
        allowed: NDArray[np.bool_],
        events: Callable[[int], frozenset[str]] = lambda row: frozenset(),
    ) -> None:
        """One step's observations and states [N, ...]; ``allowed`` [N]: which may be drawn;
        ``events``: what holds for one of them now."""
        if not allowed.any():
            return
        row = int(self._rng.choice(np.flatnonzero(allowed)))
        self._met += 1
        place = len(self._kept)
        if place == PROBE_SAMPLES:
            place = int(self._rng.integers(self._met))
            if place >= PROBE_SAMPLES:
                return
            self._kept.pop(place)
        self._kept.insert(place, (observations[row].clone(), state[row].clone(), events(row)))

    def kept(self) -> tuple[Tensor, Tensor]:
        """Observations [n, ...] and states [n, S]."""
        observations, states, _ = zip(*self._kept, strict=True)
        return torch.stack(observations), torch.stack(states)

    def events(self) -> dict[str, Tensor]:
        """Event -> whether it held, bool [n]."""
        told = [events for _, _, events in self._kept]
        names = sorted(frozenset().union(*told))
        return {name: torch.tensor([name in events for events in told]) for name in names}


def load_model(lane: LaneSpec, checkpoint: CheckpointRef, stream: Any) -> ActingModel:
    """The model of a checkpoint, in the shape it had grown to."""
    return _restored(lane, checkpoint, stream)[0]


def _restored(
    lane: LaneSpec, checkpoint: CheckpointRef, stream: Any
) -> tuple[ActingModel, dict[str, Tensor]]:
    """The model of a checkpoint in evaluation mode, and the untrained model's parameters."""
    saved = read_of(checkpoint, lane)
    facts = stream.facts
    model = build_model(
        lane.settings["model"],
        facts.observation_shape,
        facts.actions,
        lane.seed,
        stream.layout,
    )
    device = pick_device()
    start = {name: p.detach().to(device, copy=True) for name, p in model.named_parameters()}
    ensure_arch(model, saved.state["arch"])
    model.load_state_dict(saved.tensors["model"])
    return model.eval(), start


@torch.inference_mode()
def play(
    model: Player,
    engine: BatchedEnvironment,
    *,
    episodes: int,
    max_steps: int,
    seed: int,
    watch: Watch | None = None,
    after: Callable[[Step], None] | None = None,
) -> list[Episode]:
    """The first episode of each of the first ``episodes`` environments.

    An episode still running after ``max_steps`` counts as it stands. ``after`` is told of each
    step once it was taken.
    """
    generator = torch.Generator().manual_seed(seed)
    observations, state = engine.reset(), model.initial_state(engine.num_envs)
    device = state.device
    total, length = np.zeros(engine.num_envs), np.zeros(engine.num_envs, np.int64)
    running = np.arange(engine.num_envs) < episodes
    played: list[Episode] = []
    for step in range(max_steps):
        seen, before = as_tensor(observations).to(device), state
        logits, state = model.step(seen, before)
        if watch is not None:
            watch(step, seen, before, running)
        actions, _ = sample_actions(logits, generator)
        observations, rewards, terminated, truncated = engine.step(actions.numpy())
        done = terminated | truncated
        if after is not None:
            now = as_tensor(observations).to(device)
            gained, ended = torch.from_numpy(rewards.copy()), torch.from_numpy(done.copy())
            after(Step(seen, before, now, state, gained.to(device), ended.to(device)))
        total[running] += rewards[running]
        length[running] += 1
        last = step + 1 == max_steps
        for i in np.flatnonzero(running & (done | last)):
            episode = Episode(
                index=int(i),
                total=float(total[i]),
                length=int(length[i]),
                outcome=engine.outcome(int(i)),
                truncated=not terminated[i],
            )
            played.append(episode)
            running[i] = False
        if not running.any():
            break
    return played
