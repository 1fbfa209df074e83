"""Configs that make no sense are refused before anything runs: place, reason and cure."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.file import ConfigError, check
from tests import chains
from tests.families import settings

Raw = dict[str, Any]

DIGITS = {"kind": "split", "dataset": "digits"}
HIDDEN = {"kind": "domains", "domains": [{"name": "turned", "rotate": 90.0}]}
"""Two domains, which nobody tells at test time."""
GIVEN = {**HIDDEN, "domain_given": True}
TOY = {"kind": "tests.unit.workers.rl.toy:ToyStream"}
PPO = {"kind": "ppo", "num_envs": 8, "rollout": 16, "steps_per_stage": 256, "intervals": 2}
PREFIX = "lanes.0.model.head.layer"
OVER_SEQUENCE = {"kind": "depthwise", "over": "sequence"}
PRUNE = {"less": {"kind": "prune", "keep": 1}}
WRAPPED = {"kind": "drift_guard", "inner": "percentile_batch"}
OLMOE = {"kind": "huggingface", "settings": settings("olmoe")}


def labels(stream: Raw = DIGITS, **layer: Any) -> Raw:
    head = {"kind": "moe", "hidden": [16], "layer": {"kind": "moe", **layer}}
    return {"stream": stream, "model": {"experts": 4, "head": head}}


def agent(learners: int = 1, **layer: Any) -> Raw:
    model = {"kind": "actor_critic", "experts": 4, "layer": {"kind": "moe", **layer}}
    return {"stream": TOY, "training": {**PPO, "num_learners": learners}, "model": model}


def language(model: Raw | None = None, **layer: Any) -> Raw:
    decoder = {"kind": "decoder", "width": 16, "depth": 1, "heads": 2, "experts": 4}
    decoder |= {"layer": {"kind": "moe", **layer}}
    return {
        "stream": {"kind": chains.KIND},
        "model": model or decoder,
        "training": {"steps": 4},
    }


def merging(parents: list[str], **lanes: Raw) -> Raw:
    """Lanes by name, and a lane ``mixed`` made of others; each with a trunk 16 wide and two
    experts, the mixture with four, unless it says otherwise."""
    merged = {"merge": {"kind": "branch_train_mix", "parents": parents}, "model": trunk(16, 4)}
    entries = {**lanes, "mixed": {**merged, **lanes.get("mixed", {})}}
    common = {"stream": DIGITS, "model": trunk(16, 2)}
    return {**common, "lanes": [{"name": name, **entry} for name, entry in entries.items()]}


def trunk(width: int, experts: int) -> Raw:
    layer = {"kind": "moe", "expert": {"kind": "bottleneck", "width": 4}}
    return {
        "experts": experts,
        "backbone": {"kind": "mlp", "hidden": [width]},
        "head": {"kind": "moe", "hidden": [16], "layer": layer},
    }


def with_policies(raw: Raw, policies: Raw) -> Raw:
    return {**raw, "policies": policies}


REFUSED: dict[str, tuple[Raw, str, str, str]] = {
    "expert_choice acts": (
        agent(selector="expert_choice"),
        "lanes.0.model.layer.selector.kind",
        "those that come later included",
        "such as topk",
    ),
    "expert_choice predicts": (
        language(selector="expert_choice"),
        "lanes.0.model.layer.selector.kind",
        "those that come later included",
        "such as topk",
    ),
    **{
        f"{router} unknown": (
            labels(HIDDEN, router=router),
            f"{PREFIX}.router.kind",
            "the stream hides a sample's domain at test time",
            "set stream.domain_given = true",
        )
        for router in ("per_task_gate", "hierarchical_multigate", "oracle_domain")
    },
    "oracle acts": (
        agent(router="oracle_domain"),
        "lanes.0.model.layer.router.kind",
        "learns from what its own model does",
        "use router linear",
    ),
    "oracle replays": (
        {**labels(GIVEN, router="oracle_domain"), "method": "replay"},
        f"{PREFIX}.router.kind",
        "method 'replay' mixes domains",
        "use method finetune",
    ),
    "prune below k": (
        with_policies(labels(selector={"kind": "topk", "k": 2}), PRUNE),
        "lanes.0.policies.less.keep",
        "got 1",
        "needs at least 2",
    ),
    "prune below k inside": (
        with_policies(
            labels(selector={"kind": "ratio_skip", "inner": {"kind": "topk", "k": 3}}),
            {"less": {"kind": "prune", "keep": 2}},
        ),
        "lanes.0.policies.less.keep",
        "got 2",
        "needs at least 3",
    ),
    "prune below a library's k": (
        with_policies(language(OLMOE), PRUNE),
        "lanes.0.policies.less.keep",
        "got 1",
        "needs at least 2",
    ),
    "merge of other trunks": (
        merging(["one-s0", "two-s0"], one={}, two={"model": trunk(24, 2)}),
        "lanes.2.merge",
        "backbone.layers.0.weight is (16, 64) in the mixture, (24, 64) in the trained model",
        "give both the same settings but for the routed layers",
    ),
    "merge of agents": (
        merging(["one-s0", "two-s0"], one=agent(), two=agent(), mixed=agent()),
        "lanes.2.merge",
        "lanes of trainer rl begin with an untrained model",
        "leave it out",
    ),
    "merge of an agent and others": (
        merging(["one-s0", "two-s0"], one=agent(), two={}),
        "lanes.2.merge.parents.0",
        "trained by rl, this one by supervised",
        "merge lanes of one trainer",
    ),
    "merge in a circle": (
        merging(
            ["one-s0", "two-s0"],
            one={"merge": {"kind": "branch_train_mix", "parents": ["mixed-s0", "two-s0"]}},
            two={},
        ),
        "lanes",
        "one-s0, mixed-s0 are made of each other",
        "take one of them out",
    ),
    "memory on two workers": (
        {**labels(more_experts=["memory"]), "workers": 2},
        f"{PREFIX}.more_experts.0.kind",
        "2 workers, which see other tokens each",
        "needs one worker",
    ),
    "drift guard without growth": (
        labels(selector="drift_guard"),
        f"{PREFIX}.selector.kind",
        "no policy of the lane adds experts",
        "use its inner selector alone",
    ),
    "two learners": (
        agent(2, selector="percentile_batch"),
        "lanes.0.model.layer.selector.kind",
        "several learners would each keep their own",
        "set training.num_learners to 1 or 0",
    ),
    "two learners, inside": (
        with_policies(agent(2, selector=WRAPPED), {"growth": {"kind": "periodic"}}),
        "lanes.0.model.layer.selector.inner.kind",
        "several learners would each keep their own",
        "set training.num_learners to 1 or 0",
    ),
    "routed over a sequence": (
        language(expert=OVER_SEQUENCE),
        "model.layer",
        "reads whole sequences",
        "use it among shared_experts",
    ),
    "routed over a sequence, inside": (
        language(more_experts=[{"kind": "normed", "inner": OVER_SEQUENCE}]),
        "model.layer",
        "reads whole sequences",
        "use it among shared_experts",
    ),
    "a sequence of images": (
        labels(shared=1, shared_experts=[OVER_SEQUENCE]),
        f"{PREFIX}.shared_experts.0.over",
        "got 'sequence'",
        "must be 'features' where inputs are no sequences",
    ),
}


def checked(raw: Raw) -> Any:
    return check({"name": "refused", "lanes": [{}], **raw}, "test")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_one_problem_with_place_reason_and_cure(name: str) -> None:
    raw, path, reason, cure = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        checked(raw)
    (problem,) = caught.value.problems
    assert problem.path == path
    before, found, after = str(problem).partition(reason)
    assert found, str(problem)
    assert cure in after, (before, after)


ALLOWED: dict[str, Raw] = {
    "expert_choice": labels(selector="expert_choice"),
    "gates": labels(GIVEN, router="per_task_gate"),
    "oracle": labels(HIDDEN, router={"kind": "oracle_domain", "oracle": True}),
    "prune": with_policies(labels(selector={"kind": "switch"}), PRUNE),
    "prune of a library's": with_policies(language(OLMOE), {"less": {"kind": "prune", "keep": 2}}),
    "merge": merging(["one-s0", "two-s0"], one={}, two={}),
    "memory": labels(more_experts=["memory"]),
    "drift guard": with_policies(
        labels(selector="drift_guard"), {"growth": {"kind": "periodic", "max_experts": 9}}
    ),
    "one learner": agent(1, selector="percentile_batch"),
    "shared over a sequence": language(shared=1, shared_experts=[OVER_SEQUENCE]),
}


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_what_makes_sense_is_not_refused(name: str) -> None:
    checked(ALLOWED[name])
