"""An agent's checkpoint under an inference policy, beside the plain model. Knows no RLlib."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.contract import CheckpointRef, InputError, Json, LaneSpec, TaskSpec, derive_seed
from workers.diagnostics import Gates
from workers.diagnostics.observing import joined, observe
from workers.inference.base import Forward, InferencePolicy, Subject, Turn
from workers.inference.plain import Plain
from workers.inference.running import Comparison, Part, compared, made
from workers.inference.steering import steerable
from workers.machine import pick_device
from workers.models.acting import ActingModel
from workers.models.cores import Past
from workers.parsing import checked
from workers.rl import TRAININGS
from workers.rl.building import build_stream
from workers.rl.environments.base import summary
from workers.rl.evaluator import Step, Watch, load_model, play


def infer(
    lane: LaneSpec, checkpoint: CheckpointRef, tasks: tuple[TaskSpec, ...], policy: Json
) -> Comparison:
    """Scores of ``tasks`` with the policy and without, in the evaluator's own episodes.

    Raises InputError where the agent routes nothing, or the policy cannot answer for it.
    """
    torch.set_num_threads(lane.threads)
    stream = build_stream(lane.settings["stream"], lane.seed)
    model = load_model(lane, checkpoint, stream).to(pick_device())
    acting = {name: layer for name, layer in steerable(model).items() if _acts(model, name)}
    if not acting:
        raise InputError(
            f"lane {lane.lane!r}: this agent has no router to steer; take a lane and stage whose "
            "layers are mixtures of two or more experts"
        )
    games = _Games(lane, stream, model)
    subject = Subject(
        model=model,
        kind="acts",
        logits=True,
        layers=acting,
        tasks=tasks,
        seed=lane.seed,
        gates=lambda: {task.name: games.gates(task) for task in tasks},
        references=None,
        right=None,
    )
    return compared(made(policy), subject, games.score)


def _acts(model: ActingModel, layer: str) -> bool:
    """Whether choosing an action passes the layer."""
    return not any(layer.startswith(f"{part}.") for part in model.not_acting)


class _Agent:
    """What plays: the model's answers as a policy gives them."""

    def __init__(self, model: ActingModel, policy: InferencePolicy, discount: float) -> None:
        self.model, self.policy, self.discount = model, policy, discount

    def initial_state(self, batch: int) -> Tensor:
        return self.model.initial_state(batch)

    def step(self, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        carried: list[Tensor] = []

        def forward(x: Tensor) -> Tensor:
            logits, after = self.model.step(x, state)
            carried.append(after)
            return logits

        logits = self.policy.answer(forward, observations)
        return logits, carried[0]

    def after(self, step: Step) -> None:
        """Let the policy see what came of its answer."""
        self.policy.learn(
            Turn(
                value=self._value(step.state),
                bootstrap=self._value(step.state_after),
                before=step.observations,
                after=step.observations_after,
                rewards=step.rewards,
                over=step.over,
                discount=self.discount,
            )
        )

    def _value(self, state: Tensor) -> Forward:
        """Values of observations that follow on a core's state."""

        def value(observations: Tensor) -> Tensor:
            if not self.model.recurrent:
                return self.model.value(observations)
            nowhere = torch.zeros(len(state), 1, dtype=torch.bool, device=state.device)
            past = Past(state.clone(), nowhere)
            return self.model.value(observations.unsqueeze(1), past=past).squeeze(1)

        return value


class _Games:
    """Episodes of a lane's tasks."""

    def __init__(self, lane: LaneSpec, stream: Any, model: ActingModel) -> None:
        self.lane, self.stream, self.model = lane, stream, model
        self.training: Any = checked(TRAININGS, lane.settings["training"])[1]

    def score(self, policy: InferencePolicy, task: TaskSpec, part: Part) -> dict[str, float] | None:
        """Figures of a part's episodes, ``score`` the share of the largest return."""
        first, last = self._episodes(part)
        if first == last:
            return None
        episodes = self._play(task, policy)
        told = summary(
            [one for one in episodes if first <= one.index < last],
            self.stream.largest_return(task),
            self.stream.smallest_return(task),
        )
        return {"score": told.pop("return_share"), **told}

    def gates(self, task: TaskSpec) -> dict[str, Gates]:
        """What the model's routers do in the validation episodes."""
        first, last = self._episodes("validation")
        if first == last:
            raise InputError(
                "the lane has no validation episodes to look at; give the run some "
                "(training.validation_episodes), or the policy what it would find there"
            )
        seen: list[dict[str, Gates]] = []

        def watch(step: int, x: Tensor, state: Tensor, running: NDArray[np.bool_]) -> None:
            rows = np.flatnonzero(running[first:last]) + first
            routed = take()
            if len(rows):
                seen.append({n: _rows(g, rows, len(running)) for n, g in routed.items()})

        with observe(self.model) as take:
            self._play(task, Plain(Plain.Config()), watch)
        return joined(seen)

    def _play(self, task: TaskSpec, policy: InferencePolicy, watch: Watch | None = None) -> Any:
        engine = self.stream.environment(task, self.training.evaluated)
        engine.seed(derive_seed(self.lane.seed, "evaluate", task.name))
        policy.begin(engine.num_envs)
        agent = _Agent(self.model, policy, self.training.gamma)
        return play(
            agent,
            engine,
            episodes=self.training.test_episodes + self.training.validated,
            max_steps=self.training.eval_max_steps,
            seed=derive_seed(self.lane.seed, "actions", task.name),
            watch=watch,
            after=agent.after if self._learns(policy) else None,
        )

    def _learns(self, policy: InferencePolicy) -> bool:
        return type(policy).learn is not InferencePolicy.learn

    def _episodes(self, part: Part) -> tuple[int, int]:
        """First episode of a part, and the one after its last."""
        tested, validated = self.training.test_episodes, self.training.validated
        return (0, tested) if part == "test" else (tested, tested + validated)


def _rows(gates: Gates, rows: NDArray[np.int64], samples: int) -> Gates:
    """Gates of some of the samples, whose tokens lie together."""
    each = len(gates.weights) // samples
    at = (torch.from_numpy(rows).unsqueeze(1) * each + torch.arange(each)).flatten()
    at = at.to(gates.weights.device)
    return Gates(
        weights=gates.weights[at], chosen=gates.chosen[at], probabilities=gates.probabilities[at]
    )
