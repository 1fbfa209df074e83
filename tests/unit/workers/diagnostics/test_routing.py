"""Diagnostics of routing against hand-worked values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.diagnostics import DIAGNOSTICS, Figures, Gates, Probe


def probe(
    weights: list[list[float]], domain: list[int] | None = None, chosen: Tensor | None = None
) -> Probe:
    """What one layer did with as many samples as there are rows."""
    weights_TE, nothing = torch.tensor(weights), torch.zeros(0)
    chosen = weights_TE > 0 if chosen is None else chosen
    gates = Gates(weights=weights_TE, chosen=chosen, probabilities=weights_TE)
    domains = ("a",) if domain is None else tuple("abc"[: max(domain) + 1])
    places = [0] * len(weights) if domain is None else domain
    return Probe(
        model=nn.Identity(),
        inputs=nothing,
        outputs=nothing,
        routed={"layer": gates},
        domains=domains,
        domain=torch.tensor(places),
    )


def made(name: str, **settings: Any) -> Any:
    cls: Any = DIAGNOSTICS[name]
    return cls(cls.Config(kind=name, **settings))


def figures(name: str, seen: Probe) -> Figures:
    return made(name).figures(seen)


SPLIT = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
EVEN = [[0.5, 0.5]] * 4
ONE = [[1.0, 0.0]] * 4


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "conditional_entropy": (0.0, 1.0, 0.0),
        "marginal_entropy": (1.0, 1.0, 0.0),
        "load_cv": (0.0, 0.0, 1.0),
        "load_peak": (1.0, 1.0, 2.0),
        "dead_experts": (0.0, 0.0, 1.0),
        "switch_balance": (1.0, 1.0, 2.0),
        "experts_per_token": (1.0, 2.0, 1.0),
    }.items(),
)
def test_healthy_idle_and_collapsed_routing(name: str, values: tuple[float, ...]) -> None:
    found = [figures(name, probe(weights))["layer"] for weights in (SPLIT, EVEN, ONE)]
    assert found == pytest.approx(values, abs=1e-12)


def test_entropies_of_uneven_gates() -> None:
    rows = [[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]]
    each = [-sum(p * math.log(p) for p in row) for row in rows]
    assert figures("conditional_entropy", probe(rows))["layer"] == pytest.approx(
        sum(each) / 2 / math.log(3)
    )
    mean = [0.65, 0.175, 0.175]
    assert figures("marginal_entropy", probe(rows))["layer"] == pytest.approx(
        -sum(p * math.log(p) for p in mean) / math.log(3)
    )


def test_weights_that_do_not_sum_to_1_are_shares_of_their_token() -> None:
    scaled = probe([[0.2, 0.0], [0.8, 0.0], [0.0, 0.1], [0.0, 0.4]])
    assert figures("load_cv", scaled)["layer"] == pytest.approx(0.0)
    dropped = probe([[0.0, 0.0], [0.5, 0.5]])
    assert figures("conditional_entropy", dropped)["layer"] == pytest.approx(0.5)


def test_a_variable_number_of_experts_has_a_mean_and_a_variance() -> None:
    found = figures("experts_per_token", probe([[1.0, 0.0, 0.0], [0.4, 0.3, 0.3]]))
    assert found == {"layer": 2.0, "layer/variance": 1.0, "layer/k=1": 0.5, "layer/k=3": 0.5}


def test_co_selection() -> None:
    together = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    assert figures("co_selection", probe(together))["layer"] == pytest.approx(2 / 3)
    assert figures("co_selection", probe(EVEN))["layer"] == pytest.approx(1.0)


def test_domains_that_share_no_expert_and_domains_that_share_all() -> None:
    for weights, specialised, overlap in ((SPLIT, 1.0, 0.0), (EVEN, 0.0, 1.0)):
        seen = probe(weights, [0, 0, 1, 1])
        assert figures("specialisation", seen)["layer"] == pytest.approx(specialised)
        assert figures("domain_overlap", seen)["layer"] == pytest.approx(overlap)
    assert figures("domain_overlap", probe(SPLIT)) == {}


def test_a_sample_of_several_tokens_has_one_domain() -> None:
    seen = probe(SPLIT, [0, 1])
    assert figures("specialisation", seen)["layer"] == pytest.approx(1.0)


def test_a_layer_with_one_expert_has_no_routing() -> None:
    alone = probe([[1.0], [1.0]])
    for name, cls in DIAGNOSTICS.items():
        if (
            cls.scope != "layer"
            and cls.__module__.endswith("routing")
            and name != "expert_relevance"
        ):
            assert figures(name, alone) == {}


def test_relevance_of_experts_by_domain() -> None:
    rows = [[0.9, 0.1, 0.0], [0.6, 0.0, 0.4], [0.0, 0.0, 1.0]]
    told = made("expert_relevance").told(probe(rows, [0, 0, 1]))
    assert told["layer"]["a"]["tokens"] == [0.5, 0.25, 0.25]
    assert told["layer"]["a"]["gates"] == pytest.approx([0.75, 0.05, 0.2])
    assert told["layer"]["b"] == {"tokens": [0.0, 0.0, 1.0], "gates": [0.0, 0.0, 1.0]}
    flat = figures("expert_relevance", probe(rows, [0, 0, 1]))
    assert flat["layer/a/tokens/0"] == 0.5


def test_where_all_experts_run_the_largest_weight_is_the_token_choice() -> None:
    told = made("expert_relevance").told(probe([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]))
    assert told["layer"]["a"]["tokens"] == pytest.approx([2 / 3, 1 / 3])
