"""A small part of ``make fuzz`` with the same inputs each time; what is found shrinks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz import seeds
from tests.fuzz.attack import judged, warm
from tests.fuzz.targets import TARGETS

EXAMPLES = 25
DEEP = 5000
STATE = json.loads(seeds.checkpoint_files()["state.json"])


def state(**changes: Any) -> tuple[str, bytes]:
    """The state of a checkpoint with keys replaced; None = left out."""
    told = {key: value for key, value in {**STATE, **changes}.items() if value is not None}
    return "state.json", json.dumps(told).encode()


TOKENIZER = {name: seeds.tokenizer()[name] for name in ("tokenizer.json", "tokenizer_config.json")}
FOUND: dict[str, list[Any]] = {
    "stream file": [b"name = " + b"[" * DEEP],
    "set": ["stream.kind=" + "[" * DEEP],
    "journal": [b"", b"\n", b"[" * DEEP + b"\n", seeds.journals()[0] + b"[" * DEEP + b"\n"],
    "chained-journal": [[], seeds.histories()[0][1:]],
    "journal-config": [None, [], 1.5, {}, {"lanes": 1.5}, {"lanes": [None]}],
    "ledger": [b"[" * DEEP + b"\n"],
    "tokenizer": [{**TOKENIZER, "tokenizer_config.json": b"null"}],
    "checkpoint": [
        state(stage=None),
        state(seq="3"),
        state(groups=None),
        state(groups=["packed"]),
        state(packed={"q": STATE["packed"]["p"]}),
        state(packed={"p": {**STATE["packed"]["p"], "bits": 10**9}}),
        state(packed={"p": {**STATE["packed"]["p"], "dtype": "torch.load"}}),
        ("state.json", b"[" * DEEP),
    ],
    "idx": [("x", bytes((0, 0, 8, 3)) + b"\xff" * 12), ("x.gz", b"\x1f\x8b")],
    "npy": [b"PK\x03\x04-", seeds.arrays()[0].replace(b"(2, 4)", b"(2, 4 ")],
    "arrays": [b"PK\x03\x04-", seeds.arrays()[0].replace(b"(2, 4)", b"(2, 4 ")],
    "jsonl": [b'{"text": ' + b"[" * DEEP],
    "csv-table": [b"\xee,m,label\n0,0.5,x\n1,1.5,y\n"],
    "model-folder": [{**seeds.model_folder(), "hidden_act": [[]]}],
}
"""Input that once ended in a traceback, by target."""


@pytest.mark.parametrize(("name", "value"), [(n, value) for n in FOUND for value in FOUND[n]])
def test_what_was_found_is_taken_or_refused_in_words(name: str, value: Any) -> None:
    warm(TARGETS[name])
    assert judged(TARGETS[name], value)[1] is None


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.slow])
def test_good_input_is_taken(name: str) -> None:
    """Of the others this is said below."""
    warm(TARGETS[name])


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if not target.slow])
def test_hostile_input_gets_one_message(name: str) -> None:
    target = TARGETS[name]
    warm(target)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs())
    def one(value: Any) -> None:
        assert judged(target, value)[1] is None

    one()
