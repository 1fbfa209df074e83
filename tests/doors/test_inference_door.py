"""Door: an inference policy from outside answers for a finished stage, by the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor
from typer.testing import CliRunner

from orchestrator.__main__ import app
from orchestrator.report import inference
from tests.doors.lane import run_lane
from workers.contract import InputError
from workers.inference import Forward, InferencePolicy, Subject
from workers.inference.steering import Rule, steered

OWN = f"{__name__}:Flattened"


class Flattened(InferencePolicy):
    """Routers' logits divided by a temperature, chosen on validation parts."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(InferencePolicy.Config):
        """Temperatures to choose from."""

        most: int = 3
        """The largest of 1, 2, ..."""

    def prepare(self, subject: Subject) -> None:
        super().prepare(subject)
        self.temperature = 1

    @property
    def choices(self) -> Sequence[int]:
        return range(1, self.config.most + 1)

    def choose(self, choice: int) -> None:
        self.temperature = choice

    def answer(self, forward: Forward, x: Tensor) -> Tensor:
        def rule(select: Any, logits_TE: Tensor, allowed_TE: Tensor | None) -> Any:
            return select(logits_TE / self.temperature, allowed_TE)

        rules: dict[str, Rule] = dict.fromkeys(self.subject.layers, rule)
        with steered(self.subject.layers, rules):
            return forward(x)

    def figures(self) -> dict[str, float]:
        return {"temperature": float(self.temperature)}


RAW: dict[str, Any] = {
    "stream": {"kind": "split", "dataset": "digits"},
    "training": {"epochs": 4, "optimizer": {"kind": "adamw", "lr": 5e-3}},
    "model": {"experts": 2, "max_experts": 6, "head": {"kind": "moe", "hidden": [24]}},
    "policies": {"growth": "periodic"},
    "lanes": [{"method": "replay"}],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of a finished run, and what its lane came to."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    return folder, run_lane(folder, RAW)


def evaluated(run: Any, policy: str, *more: Any) -> Any:
    words = ["evaluate", run[0], "--policy", policy, "--no-tracking", "--json", *more]
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.output.strip().splitlines()[-1])


def test_it_answers_and_is_told_by_its_name(run: Any) -> None:
    told = evaluated(run, f"{OWN}:most=2")
    assert told["policy"] == {"kind": OWN, "most": 2}
    assert list(told["choices"]) == ["1", "2"]
    assert told["told"]["temperature"] == told["chosen"][0]
    best = max(told["choices"].values(), key=sum)
    assert told["validation"] == best
    assert "difference" in inference.text(told)


def test_the_plain_model_scores_what_the_run_s_evaluation_did(run: Any) -> None:
    _, outcome = run
    told = evaluated(run, "plain")
    assert told["scores"] == told["plain"] == pytest.approx(list(outcome.matrix[-1]), abs=1e-12)
    early = evaluated(run, "plain", "--stage", 1, "--tasks", told["tasks"][0])
    assert early["scores"] == pytest.approx([outcome.lane["matrix"][-4][0]], abs=1e-12)


@pytest.mark.parametrize(
    "policy",
    [
        "k_sweep",
        "k_sweep:k=1",
        "k_sweep:ensemble=true",
        '{kind = "expert_gain", experts = {"head.layers.0" = [0, 1]}}',
        "router_bias:steps=2",
        "neighbour_rerouting:memory=32",
        "neighbour_rerouting:form=gradient,memory=32,steps=1",
        "self_contrast:b=0.2",
    ],
)
def test_every_entry_answers_and_answers_the_same_again(run: Any, policy: str) -> None:
    few = ("--tasks", "classes 0,1", "--tasks", "classes 8,9")
    told = evaluated(run, policy, "--lane", "replay-s0", *few)
    assert told == evaluated(run, policy, *few)
    assert all(0.0 <= score <= 1.0 for score in told["scores"])
    assert told["figures"] != told["plain_figures"] or told["chosen"], "it changed the answers"


def test_ranked_experts_matter_to_what_they_are_ranked_for(run: Any) -> None:
    task = evaluated(run, "plain")["tasks"][-1]
    told = evaluated(run, f"expert_gain:on={task},top=2")
    assert len(told["told"]) == 2


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("k_sweeep", "unknown name 'k_sweeep'; allowed: expert_gain, k_sweep"),
        ("k_sweep:k=0", "k must be at least 1"),
        ("k_sweep:depth=3", "unknown key; allowed keys: choose, ensemble, k, kind"),
        ("k_sweep:k", "cannot import 'k_sweep:k'"),
        ("{kind = ", "no TOML table"),
    ],
)
def test_a_mistake_is_named(policy: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inference.settings(policy)


def test_texts_of_policies_are_read_as_toml_values() -> None:
    assert inference.settings("expert_gain:on=classes 8,9,top=2")["on"] == "classes 8,9"
    found = inference.settings('expert_gain:experts={"head.layers.0" = [0, 1]},mode=scale,gain=3')
    assert found["experts"] == {"head.layers.0": (0, 1)}
    assert (found["mode"], found["gain"]) == ("scale", 3.0)
