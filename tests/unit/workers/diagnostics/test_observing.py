"""Samples are drawn evenly by seed; features and routing are seen without the model's help."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.unit.workers.moe.routers.parts import head
from workers.diagnostics import DIAGNOSTICS, Gates, Probe, chosen, measure, refuse_unknown
from workers.diagnostics.observing import (
    at_start,
    by_sample,
    drift_probe,
    gradients,
    observe,
    pooled,
    seeing,
)
from workers.models.actor_critic import ActorCritic
from workers.models.classifier import Classifier
from workers.models.cores import GRU
from workers.moe.layers import LAYERS, ChainLayer
from workers.moe.routers import OracleDomainRouter
from workers.moe.stepping import telling
from workers.streams import Part
from workers.streams.sampling import spread, strata
from workers.tables import construct


def test_a_draw_from_sorted_data_holds_every_class_and_domain() -> None:
    y = torch.arange(4).repeat_interleave(250)
    domain = torch.tensor([0, 1]).repeat_interleave(500)
    drawn = spread(strata(1000, domain, y), 32, seed=7)
    assert y[drawn].bincount().tolist() == [8, 8, 8, 8]
    assert drawn.equal(spread(strata(1000, domain, y), 32, seed=7))
    assert not drawn.equal(spread(strata(1000, domain, y), 32, seed=8))
    assert spread(strata(3, None), 32, seed=7).tolist() == [0, 1, 2]


def seen_in(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    with seeing(model) as seen:
        with seen:
            y = model(x)
        assert seen.outputs is not None
        assert seen.outputs.equal(y)
        return seen.activations


class Functional(nn.Module):
    """Activations as modules, as functions and as methods."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(3, 4), nn.Linear(4, 4), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        x = self.second(x).tanh()
        return self.act(x + 1) * torch.sigmoid(x)


def test_features_are_named_by_the_layer_whose_output_they_are_of() -> None:
    torch.manual_seed(0)
    model, x = Functional(), torch.randn(5, 3)
    found = seen_in(model, x)
    assert list(found) == ["first", "second", "act"]
    assert found["first"].equal(model.first(x).relu())
    relu = nn.ReLU()
    shared = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 4), relu)
    assert list(seen_in(shared, x)) == ["0", "2"]
    assert not relu._forward_hooks
    same = nn.ModuleList([nn.Linear(3, 3)])

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = same

        def forward(self, x: Tensor) -> Tensor:
            return self.same[0](self.same[0](x).relu()).relu()

    assert list(seen_in(Twice(), x)) == ["same.0.0", "same.0.1"]


def test_features_between_routed_layers_are_seen_and_inside_experts_not() -> None:
    config = Classifier.Config(experts=3)
    model = Classifier(config, (1, 4, 4), 5, 0).eval()
    found = seen_in(model, torch.rand(6, 1, 4, 4))
    assert [name for name in found if name.startswith("head")] == ["head.layers.0", "head.layers.1"]
    assert found["head.layers.0"].shape == (6, 256)


@pytest.mark.parametrize("core", [{}, {"core": GRU.Config(size=6)}])
def test_features_of_an_agent_are_seen_in_one_step(core: dict[str, Any]) -> None:
    config = ActorCritic.Config(encoder=8, hidden=(8, 7), experts=2, **core)
    model = ActorCritic(config, (4,), 3, 0).eval()
    with observe(model) as take, seeing(model) as seen, torch.inference_mode(), seen:
        model.step(torch.rand(5, 4), model.initial_state(5))
    found, gates = seen.activations, take()
    assert {"layers.0", "layers.1"} <= set(found)
    assert found["layers.1"].shape == (5, 7)
    assert gates["layers.0"].weights.shape == (5, 2)
    assert take() == {}, "taken"


def test_the_drift_probe_tells_the_middle_position_of_the_samples_asked_for() -> None:
    weights = torch.tensor([[0.1 * n, 1 - 0.1 * n] for n in range(6)])
    model = Classifier(Classifier.Config(experts=2), (1, 4, 4), 5, 0).eval()
    with observe(model) as take, torch.no_grad():
        model(torch.rand(6, 1, 4, 4))
    routed = take()
    name = next(iter(routed))
    routed = {name: replace(routed[name], weights=weights)}
    told = drift_probe(routed, 2, torch.tensor([1, 0]))
    assert told == {name: [[0.4, 0.6], [0.1, 0.9]]}


def test_gradients_leave_the_model_as_it_was() -> None:
    model = Functional()
    model.second.requires_grad_(False)
    found = gradients(model, functional.mse_loss, torch.randn(5, 3), torch.zeros(5, 4))
    assert found["second.weight"] is None
    assert found["first.weight"] is not None
    assert all(p.grad is None for p in model.parameters())


def test_some_tasks_are_told_by_their_places_among_all_of_the_stream() -> None:
    """Tasks of the third and the first of three domains, answered by an expert for each domain."""
    model = head(OracleDomainRouter.Config()).eval()
    tasks = [
        tasks_probe(model, torch.randn(4, 5), torch.zeros(4, dtype=torch.long), domain)
        for domain in ("c", "a")
    ]
    probe = pooled(tasks, ("c", "a"), functional.cross_entropy)
    assert probe.inputs_domain is not None
    assert probe.told is not None
    assert probe.inputs_domain.tolist() == [0] * 4 + [1] * 4
    assert probe.told.tolist() == [2] * 4 + [0] * 4
    assert probe.gradients is not None
    reached = [probe.gradients[f"layers.0.experts.{e}.up.weight"] for e in range(3)]
    assert [gradient is not None and bool(gradient.any()) for gradient in reached] == [
        True,
        False,
        True,
    ]


def tasks_probe(model: nn.Module, x: Tensor, y: Tensor, domain: str) -> Probe:
    """What an evaluator sees of a task of one domain of a, b and c."""
    known = torch.full((len(x),), "abc".index(domain))
    with observe(model) as take, torch.no_grad(), telling(model, known):
        outputs, routed = model(x), take()
    none = torch.zeros(len(x), dtype=torch.long)
    return Probe(
        model=model,
        inputs=x,
        outputs=outputs,
        targets=y,
        routed=routed,
        domains=(domain,),
        domain=none,
        inputs_domain=none,
        stream_domains=("a", "b", "c"),
    )


def test_a_list_names_settings_names_and_groups() -> None:
    entries = ["cheap", "k_curve", {"kind": "dormant_ratio", "tau": 0.1, "name": "strict"}]
    found, problems = chosen(entries, "d")
    assert problems == []
    cheap = [name for name, cls in DIAGNOSTICS.items() if cls.cheap]
    assert list(found) == [*cheap, "k_curve", "strict"]
    ranks = {"effective_rank", "srank", "participation_ratio"}
    assert ranks < set(cheap), "measured unasked"
    assert found["strict"].config.tau == 0.1
    assert list(chosen(["all"], "d")[0]) == list(DIAGNOSTICS)
    plasticity = chosen(["plasticity"], "d")[0]
    assert plasticity["dormant_ratio"].config.tau == 0.025
    assert plasticity["dormant_ratio_0.1"].config.tau == 0.1
    assert {*ranks, "gradient_norms"} < set(plasticity)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["dormancy"], "diagnostics.0.kind: unknown name 'dormancy'"),
        ([{"kind": "srank", "delta": 2}], "delta must be at least 0 and below 1"),
        (["srank", {"kind": "srank", "delta": 0.5}], "two diagnostics are called 'srank'"),
    ],
)
def test_what_nobody_can_measure_is_refused(entries: list[Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        refuse_unknown(entries)


def test_every_diagnostic_has_a_unit_a_source_and_a_first_line() -> None:
    for cls in DIAGNOSTICS.values():
        assert cls.unit
        assert cls.source
        assert cls.scope in ("task", "layer", "model")
        assert cls.__doc__


def test_relevance_at_the_start_of_a_stage_sees_samples_of_every_domain() -> None:
    model = Classifier(Classifier.Config(experts=3), (1, 4, 4), 5, 0).train()
    x, y = torch.rand(40, 1, 4, 4), torch.zeros(40, dtype=torch.long)
    domain = torch.tensor([0, 1]).repeat_interleave(20)
    entries = [{"kind": "expert_relevance", "samples": 8}]
    part = Part(x, y, domain)
    told = at_start(entries, model, part, ("a", "b"), 3)["expert_relevance"]
    assert model.training
    assert told == at_start(entries, model, part, ("a", "b"), 3)["expert_relevance"]
    layer = told["head.layers.0"]
    assert set(layer) == {"a", "b"}
    assert len(layer["a"]["gates"]) == 3
    assert sum(layer["b"]["tokens"]) == pytest.approx(1.0)


def test_routing_is_told_of_samples_whose_outputs_are_not_kept() -> None:
    model = Classifier(Classifier.Config(experts=3), (1, 4, 4), 5, 0)
    part = Part(torch.rand(40, 1, 4, 4), torch.arange(40) % 5, torch.arange(40) % 2)
    entries, domains = ["expert_relevance", "dormant_ratio"], ("a", "b")
    whole = at_start(entries, model, part, domains, 3)
    few = at_start(entries, model, part, domains, 3, kept=lambda samples: 4, batch=7)
    for layer, told in whole["expert_relevance"].items():
        for domain in domains:
            expected = pytest.approx(told[domain]["gates"], abs=1e-6)
            assert few["expert_relevance"][layer][domain]["gates"] == expected
    assert set(few["dormant_ratio"]) == set(whole["dormant_ratio"])
    capped = at_start(entries, model, part, domains, 3, most=5)
    assert capped["expert_relevance"] != whole["expert_relevance"]


def test_only_the_scopes_asked_for_are_measured() -> None:
    found, _ = chosen(["all"], "d")
    assert {diagnostic.scope for diagnostic in found.values()} == {"task", "layer", "model"}
    model = nn.Linear(2, 2)
    nothing = torch.zeros(0)
    probe = Probe(
        model=model, inputs=nothing, outputs=nothing, domains=("d",), domain=nothing.long()
    )
    told = measure(probe, found, ("model",))
    assert {name.split("/")[0] for name in told} == {"weight_norm"}
    assert measure(probe, found, ("task", "layer")) == {}


def test_rounds_of_a_chain_lie_with_their_token() -> None:
    """Domain by domain, and drift sample by sample: what one token does stays that token's."""
    layer = construct(LAYERS, ChainLayer.Config(rounds=3), 16, 16, 2, 2, 0).eval()
    torch.manual_seed(0)
    x = torch.randn(6, 16)
    with observe(layer) as take, torch.no_grad():
        layer(x[:4])
        layer(x[4:])
        together = take()[""].weights
        alone = torch.cat([(layer(x[i : i + 1]), take()[""].weights)[1] for i in range(6)])
    assert together.allclose(alone, atol=1e-6)
    assert by_sample(Gates(weights=alone, chosen=alone > 0, probabilities=alone), 6).allclose(
        alone.view(6, 3, 2).mean(1)
    )
