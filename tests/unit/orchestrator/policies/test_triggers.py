"""Growth triggers as pure functions: they fire where something was planted, and nowhere else."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.config.file import ConfigError
from orchestrator.policies import POLICIES, Policy
from orchestrator.policies.deviation import deviation
from orchestrator.policies.signals import usage_entropies
from tests.fakes import tiny
from tests.views import policy, report, view
from workers.contract import Json

INTERVALS = 5


def made(kind: str, **config: Any) -> Policy:
    cls: Any = POLICIES[kind]
    return policy(cls.Config(**config), intervals=INTERVALS)


def asked(
    one: Policy,
    reports: Sequence[dict[str, Any]],
    start: Callable[[int], dict[str, Any]] = lambda stage: {},
    **seen: Any,
) -> tuple[list[tuple[int, Any]], list[Json]]:
    """(interval of the lane, edit) of each edit, and every memory, of a lane with these reports."""
    edits: list[tuple[int, Any]] = []
    memories: list[Json] = [None]
    experts = 1
    for at, fields in enumerate(reports):
        stage, n = divmod(at, INTERVALS)
        told = [report(i + 1, **reports[stage * INTERVALS + i]) for i in range(n + 1)]
        moments = [0, n + 1] if n == 0 else [n + 1]
        for moment in moments:
            shown = view(
                n=moment,
                index=stage,
                intervals=INTERVALS,
                experts=experts,
                layers=seen.get("layers", {"l": experts}),
                reports=tuple(told) if moment else (),
                start=_start(start(stage)),
            )
            found, memory = one.propose(shown, memories[-1])
            memories.append(memory)
            for edit in found:
                edits.append((stage * INTERVALS + moment, edit))
                experts = max(experts, edit.experts)  # type: ignore[attr-defined]
        assert fields is reports[at]
    return edits, memories


def _start(figures: dict[str, Any]) -> Any:
    from workers.contract import StartReport

    return StartReport(source="", data_digest="", samples=1, figures=figures)


def signal(name: str, values: Sequence[float]) -> list[dict[str, Any]]:
    return [{"signals": {name: value}} for value in values]


def noise(seed: int, count: int, scale: float = 0.1, mean: float = 1.0) -> list[float]:
    drawn = random.Random(seed)
    return [mean + scale * drawn.gauss(0, 1) for _ in range(count)]


# ---------------------------------------------------------------- plateau


def test_plateau_fires_where_the_loss_stands_still() -> None:
    falling = [2.0 * 0.8**i for i in range(15)]
    one = made("plateau", window=2, over="stream", cooldown=100, max_experts=4)
    assert asked(one, signal("loss", falling))[0] == []
    flat = [*falling, *[falling[-1]] * 15]
    ((at, edit),) = asked(one, signal("loss", flat))[0]
    last = 15  # the first interval whose window of 2 lies on the flat, against the 2 before
    values = flat[: at + 1]
    assert at > last
    before, now = sum(flat[at - 4 : at - 2]) / 2, sum(flat[at - 2 : at]) / 2
    assert edit.cause.figures == {"before": pytest.approx(before), "now": pytest.approx(now)}
    assert before - now <= 0.02 * before
    earlier = sum(flat[at - 5 : at - 3]) / 2 - sum(flat[at - 3 : at - 1]) / 2
    assert earlier > 0.02 * sum(flat[at - 5 : at - 3]) / 2, "not one interval sooner"
    assert (edit.cause.policy, edit.cause.trigger, edit.experts) == ("plateau", "flat", 2)
    assert len(values) > 4


def test_plateau_of_a_stage_forgets_it_and_good_is_good_enough() -> None:
    values = [1.0] * 30
    by_stage = made("plateau", window=3, max_experts=9)
    assert asked(by_stage, signal("loss", values))[0] == [], "six do not fit into a stage"
    good = made("plateau", window=2, above=1.5, max_experts=9)
    assert asked(good, signal("loss", values))[0] == []


def test_what_is_due_at_a_stages_end_grows_at_the_next_start() -> None:
    one = made("plateau", window=2, patience=2, cooldown=0, max_experts=9)
    edits, _ = asked(one, signal("loss", [1.0] * 20))
    assert [at for at, _ in edits] == [5, 10, 15], "interval 4 and 5 of each stage are evidence"
    assert [edit.after_interval for _, edit in edits] == [0, 0, 0]
    assert [edit.experts for _, edit in edits] == [2, 3, 4]


def test_cooldown_patience_and_the_largest_number() -> None:
    flat = signal("loss", [1.0] * 60)
    often = {"window": 1, "over": "stream"}
    free = [at for at, _ in asked(made("plateau", **often, cooldown=0, max_experts=99), flat)[0]]
    assert free[:5] == [2, 4, 6, 8, 10], "two values after each growth; 10 is the next start"
    rare = [at for at, _ in asked(made("plateau", **often, cooldown=11, max_experts=99), flat)[0]]
    assert all(b - a >= 11 for a, b in pairwise(rare))
    assert len(asked(made("plateau", **often, max_experts=3), flat)[0]) == 2
    late = asked(made("plateau", **often, patience=3, max_experts=99), flat)[0]
    assert late[0][0] == 4, "the third decision in a row with evidence"


# ---------------------------------------------------------------- plasticity


def test_plasticity_loss_fires_on_the_slope_of_stage_ends() -> None:
    ends = [0.9, 0.9, 0.9, 0.86, 0.80, 0.80]
    rows = [{"signals": {"train_score": 0.1 * (n + 1)}} for _ in ends for n in range(INTERVALS)]
    for stage, end in enumerate(ends):
        rows[stage * INTERVALS + 4] = {"signals": {"train_score": end}}
    ((at, edit),) = asked(made("plasticity_loss", stages=4, fall=0.02, max_experts=4), rows)[0]
    assert at == 25, "after stages 1..4 with slope -0.034; those of 0..3 fall by 0.012 only"
    x, y = [-1.5, -0.5, 0.5, 1.5], ends[1:5]
    slope = sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)
    assert edit.cause.figures["slope"] == pytest.approx(slope)
    steady = [{"signals": {"train_score": 0.9}}] * 30
    assert asked(made("plasticity_loss", max_experts=4), steady)[0] == []


def test_dormant_units_fire_at_a_stages_start() -> None:
    one = made("plasticity_loss", dormant=0.3, max_experts=4, cooldown=0)
    assert one.start_diagnostics == ("dormant_ratio",)
    assert made("plasticity_loss").start_diagnostics == ()
    told = {0: {"a": 0.1, "b": 0.2}, 1: {"a": 0.1, "b": 0.6}, 2: {"a": 0.2, "b": 0.38}}
    rows = [{"signals": {"train_score": 0.9}}] * 15
    edits, _ = asked(one, rows, start=lambda stage: {"dormant_ratio": told[stage]})
    assert [at for at, _ in edits] == [5], "a mean of 0.35"
    assert edits[0][1].cause.figures == {"dormant_ratio": pytest.approx(0.35)}


# ---------------------------------------------------------------- routing


def test_usage_entropy_by_its_formula() -> None:
    weights = {"a": [0.5, 0.25, 0.25], "b": [1.0], "c": [1.0, 0.0]}
    shown = view(layers={"a": 3, "b": 1, "c": 2}, seen={"gate_weights": weights})
    found = usage_entropies(shown)
    expected = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)) / math.log(3)
    assert found == {"a": pytest.approx(expected), "b": 1.0, "c": 0.0}


def test_saturated_routing_grows_the_most_evenly_used_layer() -> None:
    even, skew = {"gate_weights": {"a": [0.5, 0.5], "b": [0.9, 0.1]}}, {"a": 0.6, "b": 0.1}
    uneven = {"gate_weights": {"a": [skew["a"] + 0.3, 0.1], "b": [0.9, 0.1]}}
    one = made("routing_saturation", max_experts=9, cooldown=50)
    rows = [uneven] * 3 + [even] * 2 + [uneven] + [even] * 6
    ((at, edit),) = asked(one, rows, layers={"a": 2, "b": 2})[0]
    assert at == 9, "three in a row"
    assert (edit.layers, edit.experts) == (("a",), 3)
    assert edit.cause.figures["usage_entropy/a"] == 1.0
    ((at, _), *_) = asked(one, [uneven] * 3 + [even] * 9, layers={"a": 2, "b": 2})[0]
    assert at == 6, "a stage's start between them, where nothing is seen, is no break"
    both = made("routing_saturation", every=True, max_experts=9)
    assert asked(both, [even] * 12, layers={"a": 2, "b": 2})[0] == []


def test_a_layer_is_chosen_by_the_figures_of_the_stages_start() -> None:
    one = made("plateau", window=1, layers="gate_gradient_variance", max_experts=9, over="stream")
    assert one.start_diagnostics == ("gate_gradient_variance",)
    told = {"gate_gradient_variance": {"a": 0.1, "b": 0.4}}
    rows = signal("loss", [1.0] * 4)
    ((_, edit), *_) = asked(one, rows, start=lambda stage: told, layers={"a": 2, "b": 3})[0]
    assert (edit.layers, edit.experts) == (("b",), 4)
    alone = {"gate_gradient_variance": {"b": 0.4}}  # a router of one expert has no gradient
    ((_, edit), *_) = asked(one, rows, start=lambda stage: alone, layers={"a": 1, "b": 3})[0]
    assert (edit.layers, edit.experts) == (("a",), 2)


# ---------------------------------------------------------------- drift


def test_deviation_by_its_recursion() -> None:
    memory, mean, variance = None, 0.0, 0.0
    values = noise(1, 20)
    for place, value in enumerate(values):
        z, memory = deviation(value, memory, 0.9)
        if place == 0:
            mean, expected = value, 0.0
        else:
            d = value - mean
            expected = d / math.sqrt(variance) if variance > 1e-24 else d / 1e-12
            mean, variance = mean + 0.1 * d, 0.9 * (variance + 0.1 * d * d)
        assert z == pytest.approx(expected)
    assert memory == [pytest.approx(mean), pytest.approx(variance), 20]


def test_gradients_must_grow_and_agree() -> None:
    def rows(norm: float, coherence: float) -> list[dict[str, Any]]:
        calm = [
            {"signals": {"gradient_norm": value, "gradient_coherence": 0.01}}
            for value in noise(3, 20)
        ]
        late = {"signals": {"gradient_norm": norm, "gradient_coherence": coherence}}
        return [*calm, late, *calm[:4]]

    plain = made("gradient_drift", max_experts=4, cooldown=30)
    assert [at for at, _ in asked(plain, rows(3.0, 0.01))[0]] == [21], "any direction"
    assert plain.watches == ("gradient_norm",)
    one = made("gradient_drift", coherence=0.1, max_experts=4, cooldown=30)
    ((at, edit),) = asked(one, rows(3.0, 0.6))[0]
    assert at == 21
    assert edit.cause.figures["gradient_norm"] == 3.0
    assert edit.cause.figures["z"] > 3
    assert asked(one, rows(3.0, 0.01))[0] == [], "noise"
    assert asked(one, rows(1.1, 0.6))[0] == [], "as large as before"
    assert set(one.watches) == {"gradient_norm", "gradient_coherence"}


DETECTORS: dict[str, dict[str, Any]] = {
    "adwin": {"kind": "adwin"},
    "kswin": {"kind": "kswin", "alpha": 0.0005},
    "page_hinkley": {"kind": "page_hinkley", "delta": 0.05, "threshold": 0.8},
    "jump": {"kind": "jump", "z": 5.0, "warmup": 20},
}


SOON = {"adwin": 20}
"""Its bound for few values is wide."""


def detector(name: str, **config: Any) -> Policy:
    growth = {"kind": "drift_detector", "detector": DETECTORS[name], "max_experts": 9, **config}
    lane = tiny(policies={"growth": growth}, training={"intervals": INTERVALS}).lanes[0]
    found: Policy = lane.live_policies()["growth"]
    return found


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_fires_once_after_a_planted_change(name: str) -> None:
    late = 40
    values = [*noise(5, late), *noise(6, 25, mean=2.0)]
    edits, memories = asked(detector(name), signal("loss", values))
    assert len(edits) == 1
    at, edit = edits[0]
    assert late < at <= late + SOON.get(name, 12), "not before, and soon"
    assert edit.cause.figures["after"] > edit.cause.figures["before"]
    assert edit.cause.trigger == "loss drifts up"
    down = [3.0 - value for value in values]
    assert asked(detector(name), signal("loss", down))[0] == [], "learning is no drift"
    assert len(asked(detector(name, direction="any"), signal("loss", down))[0]) == 1
    assert all(len(memory["own"] or ()) <= 128 for memory in memories[1:])


@pytest.mark.parametrize("name", DETECTORS)
def test_stationary_noise_fires_seldom(name: str) -> None:
    """At most one false growth in 1000 intervals, over 20 seeds of 50."""
    fired = sum(
        len(asked(detector(name), signal("loss", noise(seed, 50)))[0]) for seed in range(20)
    )
    assert fired <= 1


def test_a_detector_remembers_no_more_than_it_keeps_and_folds_back() -> None:
    rows = signal("loss", noise(2, 60))
    one = detector("adwin", keep=16)
    _, memories = asked(one, rows)
    assert max(len(memory["own"]) for memory in memories[1:]) == 16
    import json

    again = json.loads(json.dumps(memories[40]))
    shown = view(n=4, index=7, intervals=INTERVALS, seen=rows[39])
    assert one.propose(shown, again) == one.propose(shown, memories[40])


def test_usage_entropy_is_a_signal_like_any_other() -> None:
    one = made("drift_detector", signal="usage_entropy", direction="any", max_experts=5)
    shown = view(seen={"gate_weights": {"l": [0.5, 0.5]}}, layers={"l": 2})
    assert one.propose(shown, None)[1]["own"] == [1.0]
    assert made("drift_detector", signal="usage_entropy/l").propose(shown, None)[1]["own"] == [1.0]


# ---------------------------------------------------------------- trials


def trial(gain: float | None, **config: Any) -> tuple[list[tuple[int, Any]], list[Json]]:
    cls: Any = POLICIES["plateau"]
    when = cls.Config(window=1, over="stream", cooldown=50, max_experts=4)
    told: dict[str, float] = {"loss": 1.0}
    told |= {} if gain is None else {"newest_gain/l": gain}
    one = policy(
        POLICIES["probe_experts"].Config(when=when, **config),  # type: ignore[attr-defined]
        intervals=INTERVALS,
    )
    found: list[tuple[int, Any]] = []
    memory, experts = None, 1
    memories = []
    for at in range(1, 10):
        stage, n = divmod(at - 1, INTERVALS)
        shown = view(
            n=n + 1,
            index=stage,
            intervals=INTERVALS,
            experts=experts,
            layers={"l": experts},
            seen={"signals": told},
        )
        edits, memory = one.propose(shown, memory)
        memories.append(memory)
        for edit in edits:
            found.append((at, edit))
            experts = max(experts, getattr(edit, "experts", 0)) if edit.kind == "grow" else experts
    return found, memories


def test_a_trial_is_kept_where_it_wins_and_removed_where_it_does_not() -> None:
    kept, _ = trial(0.02, trial=2)
    assert [(at, edit.kind) for at, edit in kept] == [(2, "grow")]
    lost, memories = trial(0.001, trial=2)
    assert [(at, edit.kind) for at, edit in lost] == [(2, "grow"), (4, "prune")]
    prune = lost[1][1]
    assert prune.experts == {"l": (1,)}
    assert prune.cause.figures == {"newest_gain/l": 0.001}
    assert memories[1]["trial"] == {"l": 1}
    assert memories[3]["trial"] is None
    untold, _ = trial(None, trial=2)
    assert [edit.kind for _, edit in untold] == ["grow"], "what nobody measured is not removed"


# ---------------------------------------------------------------- at the door


@pytest.mark.parametrize(
    ("growth", "told"),
    [
        ({"kind": "plateau", "signal": "surprise"}, "nobody fills a signal 'surprise'; lanes of"),
        ({"kind": "drift_detector", "signal": "return_share"}, "gradient_coherence, gradient_norm"),
        ({"kind": "plateau"}, "max_experts: missing"),
        ({"kind": "plateau", "window": 2, "max_experts": 3}, "two windows of 2 intervals"),
        ({"kind": "plasticity_loss", "stages": 5, "max_experts": 3}, "the stream has 5"),
        ({"kind": "drift_detector", "patience": 2}, "a change comes once"),
        ({"kind": "probe_experts", "when": "periodic"}, "'periodic' is no trigger"),
        ({"kind": "probe_experts", "when": {"kind": "plateau", "add": 2}}, "when.add: got 2"),
        ({"kind": "drift_detector", "detector": "cusum"}, "unknown name 'cusum'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_cure(growth: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(policies={"growth": growth})
    assert told in str(caught.value)


def test_layers_under_a_schedule_do_not_grow_one_by_one() -> None:
    head = {"kind": "moe", "hidden": [16, 16], "schedule": "descending"}
    growth = {"kind": "routing_saturation", "max_experts": 4}
    with pytest.raises(ConfigError, match="layers grow one by one"):
        tiny(model={"head": head}, policies={"growth": growth})


def test_validation_signals_need_a_validation_part() -> None:
    stream = {"kind": "split", "validation": 0.0}
    growth = {"kind": "plateau", "signal": "validation_score", "window": 1, "max_experts": 3}
    with pytest.raises(ConfigError, match=r"without a validation part; set stream\.validation"):
        tiny(stream=stream, policies={"growth": growth})


def test_costly_signals_are_asked_for_by_the_lane() -> None:
    growth = {"kind": "probe_experts", "when": {"kind": "plateau", "window": 1, "max_experts": 3}}
    lane = tiny(policies={"growth": growth}).lanes[0]
    assert lane.spec().signals == ("newest_gain",)
    assert lane.sections["model"].max_experts == 3
    assert tiny().lanes[0].spec().signals == ()
