"""The compiled full game does to the bit what Craftax itself did when it was recorded
(``tests/craftax_recorded.py``: how, and with what). Compiles no JAX."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from tests.craftax_recorded import ENVS, FACTS, FORM, SCRIPT, Recording
from workers.rl.environments.craftax.native import library
from workers.rl.environments.craftax.native.engine import NativeEngine

pytestmark = pytest.mark.skipif(library.load().functions is None, reason=library.load().why)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording()


@pytest.fixture(scope="module")
def engine() -> NativeEngine:
    return NativeEngine(FACTS, ENVS, FORM)


@pytest.mark.parametrize("number", range(len(SCRIPT)))
def test_a_recorded_part_is_played_to_the_bit(
    recording: Recording, engine: NativeEngine, number: int
) -> None:
    played = recording.play(engine, number)
    for step, (mine, theirs) in enumerate(zip(played, recording.checksums(number), strict=True)):
        wrong = [name for name, value in mine.items() if value != theirs[name]]
        assert not wrong, f"after step {step} of {recording.parts[number]}"


def test_all_floors_and_actions_and_ends_are_recorded(
    recording: Recording, engine: NativeEngine
) -> None:
    floors, ends, nobody = set[int](), 0, zlib.crc32(bytes(ENVS))
    for number in range(len(recording.parts)):
        for seen in recording.play(engine, number):
            floors.update(engine.floors().tolist())
            ends += seen.get("terminated", nobody) != nobody
    assert floors == set(range(len(FACTS.floors)))
    assert ends >= len(recording.parts)
    actions = np.concatenate([recording.actions(n) for n in range(len(recording.parts))])
    assert set(actions.ravel().tolist()) == set(range(FACTS.actions))


def test_one_other_action_is_noticed(recording: Recording, engine: NativeEngine) -> None:
    recording.actions(0)[0, 3] = (recording.actions(0)[0, 3] + 1) % FACTS.actions
    played = list(recording.play(engine, 0))
    recorded = list(recording.checksums(0))
    assert played[0]["map"] == recorded[0]["map"]
    assert played[1] != recorded[1]
