"""Models from outside: one that acts (with memory and without), one that is no classifier head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.config.file import check
from tests.doors import rl
from workers.contract import InputError, LayerShape
from workers.models import MODELS, ActingModel, Model, capability_problem
from workers.models.cores import Past
from workers.moe.growth.growable import Growable, Grown, Growth, count_parameters
from workers.moe.growth.surgery import arch, ensure_arch
from workers.moe.seeding import seeded
from workers.rl.building import build_model

TOY = {"kind": "tests.unit.workers.rl.toy:ToyStream"}
PPO = {"kind": "ppo", **rl.SMALL}


class Committee(Growable):
    """The mean of linear maps, each drawn from a seed of its own."""

    def __init__(self, inputs: int, outputs: int, members: int, seed: int) -> None:
        super().__init__()
        self.sizes, self.members = (inputs, outputs), nn.ModuleList()
        self._add(members, seed)

    def _add(self, members: int, seed: int) -> None:
        for _ in range(members):
            with seeded(seed + len(self.members)):
                self.members.append(nn.Linear(*self.sizes))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)

    @property
    def live(self) -> int:
        return len(self.members)

    def grow(self, growth: Growth) -> Grown:
        added = growth.experts - self.live
        self._add(added, growth.seed)
        return Grown(parents=[None] * added)

    def layer_shape(self) -> LayerShape:
        return LayerShape(
            experts=self.live, widths=(0,) * self.live, parameters=count_parameters(self)
        )

    def arch(self) -> Any:
        return {"members": self.live}

    def ensure_arch(self, arch: Any) -> None:
        del self.members[arch["members"] :]
        self._add(arch["members"] - self.live, 0)


class Player(ActingModel):
    """A committee that gives logits and values together."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str
        experts: int = 1
        max_experts: int | None = None

    def __init__(
        self, config: Config, observation_shape: Any, actions: int, seed: int, layout: Any = None
    ) -> None:
        super().__init__()
        self.both = Committee(math.prod(observation_shape), actions + 1, config.experts, seed)

    def answer(self, observations: Tensor, past: Past | None = None) -> tuple[Tensor, Tensor]:
        y = self.both(observations.flatten(1))
        return y[:, :-1], y[:, -1]


class Summing(ActingModel):
    """Carries the sum of what it has seen in the episode, and has a critic of its own."""

    not_acting = ("critic",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str
        experts: int = 1
        max_experts: int | None = None

    def __init__(
        self, config: Config, observation_shape: Any, actions: int, seed: int, layout: Any = None
    ) -> None:
        super().__init__()
        self.state_size = math.prod(observation_shape)
        self.actor = Committee(self.state_size, actions, config.experts, seed)
        self.critic = Committee(self.state_size, 1, config.experts, seed + 100)

    @classmethod
    def remembers(cls, config: Any) -> bool:
        return True

    def step(self, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        after = state + observations
        return self.actor(after), after

    def _sums(self, observations: Tensor, past: Past | None) -> Tensor:
        if past is None:
            return observations
        sums, state = [], past.state
        for seen, begins in zip(observations.unbind(1), past.begins.unbind(1), strict=True):
            state = state.masked_fill(begins[:, None], 0.0) + seen
            sums.append(state)
        return torch.stack(sums, 1)

    def forward(self, observations: Tensor, past: Past | None = None) -> Tensor:
        return self.actor(self._sums(observations, past))

    def answer(self, observations: Tensor, past: Past | None = None) -> tuple[Tensor, Tensor]:
        sums = self._sums(observations, past)
        return self.actor(sums), self.critic(sums).squeeze(-1)


class Prototypes(Model):
    """Class scores are similarities to prototypes in a space that a committee maps to."""

    capabilities = frozenset({"labels"})

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str
        experts: int = 1
        max_experts: int | None = None

    def __init__(self, config: Config, input_shape: Any, outputs: int, seed: int) -> None:
        super().__init__()
        self.space = Committee(math.prod(input_shape), 8, config.experts, seed)
        with seeded(seed):
            self.prototypes = nn.Parameter(torch.randn(outputs, 8))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.space(x.flatten(1)), self.prototypes)


class Mute(Model):
    """A model that can do nothing."""

    Config = Player.Config


class Stranger(nn.Module):
    """Not a model of ours."""

    Config = Player.Config


PLAYERS = [Player, Summing]


def named(model: type) -> str:
    """Import path of a model of this file."""
    return f"tests.doors.test_model_door:{model.__name__}"


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("model", PLAYERS)
def test_an_acting_model_goes_through_a_whole_lane_with_losses_of_its_worker(tmp_path, model):
    spec = rl.lane(TOY, {"kind": named(model)}, lr=0.02)
    reports, scored = rl.run(spec, tmp_path, lose=True)
    assert [report.steps for report in reports] == [128, 256, 128, 256]
    assert [report.revision for report in reports] == [0, 1, 1, 2]
    assert [report.metrics["lifetime_steps"] for report in reports] == [128, 256, 384, 512]
    assert len(scored.scores) == 2


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_an_acting_model_learns(tmp_path):
    spec = rl.lane(TOY, {"kind": named(Player)}, lr=0.05, steps_per_stage=8192)
    _, scored = rl.run(spec, tmp_path)
    assert scored.scores[1] > 0.5, "a policy that draws at random has 0.25"


@pytest.mark.parametrize("model", PLAYERS)
def test_an_acting_model_acts_as_it_learns(model):
    net = build_model({"kind": named(model), "experts": 2}, (4,), 4, 3)
    seen, state = torch.rand(5, 6, 4), net.initial_state(5)
    if not net.recurrent:
        assert torch.equal(net.step(seen[:, 0], state)[0], net.answer(seen[:, 0])[0])
        return
    begins = torch.zeros(5, 6, dtype=torch.bool)
    logits, values = net.answer(seen, Past(state, begins))
    for t in range(6):
        one, state = net.step(seen[:, t], state)
        assert torch.allclose(one, logits[:, t], atol=1e-6)
    assert torch.equal(net.value(seen, past=Past(net.initial_state(5), begins)), values)


def test_a_model_for_labels_keeps_its_shape_and_names():
    model = Prototypes(Prototypes.Config(kind="own"), (1, 2, 2), 3, 0)
    other = Prototypes(Prototypes.Config(kind="own", experts=3), (1, 2, 2), 3, 0)
    ensure_arch(model, arch(other))
    model.load_state_dict(other.state_dict())
    x = torch.rand(5, 1, 2, 2)
    assert torch.equal(model(x), other(x))
    assert model.auxiliary_losses() == {}


@pytest.mark.parametrize(
    ("kind", "needed", "words"),
    [
        (
            "classifier",
            "acts",
            "'classifier' is a model for: labels; the stream needs one for acts",
        ),
        ("actor_critic", "labels", "classifier, or a Model with this capability"),
        ("tests.doors.test_model_door:Mute", "acts", "is a model for: nothing"),
        ("tests.doors.test_model_door:Stranger", "acts", "is no Model"),
        ("tests.doors.test_model_door:Nobody", "acts", "cannot import"),
    ],
)
def test_a_model_that_cannot_do_it_is_refused_with_what_can(kind, needed, words):
    assert words in str(capability_problem(kind, needed, "model.kind"))


@pytest.mark.parametrize(
    ("sections", "path", "words"),
    [
        ({"model": "classifier"}, "model.kind", "needs one for acts: actor_critic"),
        ({"method": "joint"}, "method.kind", "hooks that only these trainers call: supervised"),
        ({"model": named(Summing), "training": {"kind": "ppo", "num_envs": 3, "rollout": 16,
          "steps_per_stage": 48, "minibatches": 2}}, "training.minibatches", "whole sequences"),
        ({"model": named(Player), "stream": "craftax"}, "stream.observations", "'dense'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_model_that_acts_is_refused_when_planned(sections, path, words):
    raw = {"stream": TOY, "model": named(Player), "training": PPO, "lanes": [{}]}
    fitting = check({"name": "door", **raw}, "door").lanes[0]
    assert fitting.sections["model"].kind == named(Player)
    with pytest.raises(InputError) as refused:
        check({"name": "door", **raw, **sections}, "door")
    assert f"lanes.0.{path}" in str(refused.value)
    assert words in str(refused.value)


def test_a_model_that_reads_dense_ones_only_plays_craftax_in_that_form():
    stream = {"kind": "craftax", "observations": "dense"}
    raw = {"stream": stream, "model": named(Player), "training": PPO, "lanes": [{}]}
    assert check({"name": "door", **raw}, "door").lanes


def test_a_model_for_labels_goes_through_a_whole_lane_killed_and_resumed(tmp_path):
    harness = pytest.importorskip("tests.doors.lane")
    raw = {
        "stream": {"kind": "split", "dataset": "digits"},
        "model": named(Prototypes),
        "training": {"epochs": 2, "intervals": 2},
        "policies": {"growth": {"kind": "periodic"}},
        "lanes": [{}],
    }
    (tmp_path / "killed").mkdir()
    whole = harness.run_lane(tmp_path, raw)
    killed = harness.run_killed(tmp_path / "killed", raw)
    assert [edit["kind"] for edit in whole.edits] == ["grow"] * 4
    assert killed.essence == whole.essence


def test_models_are_chosen_by_what_they_can_do():
    for name, cls in MODELS.items():
        for capability in cls.capabilities:
            assert capability_problem(name, capability, "model.kind") is None
    with pytest.raises(InputError, match="needs one for acts"):
        build_model({"kind": "classifier"}, (4,), 4, 0)
