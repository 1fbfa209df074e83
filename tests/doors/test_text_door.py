"""Language models on texts: whole lanes, killed and resumed, with growth and masks in them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.core.events import StageStarted
from tests.doors.lane import Outcome, run_killed, run_lane
from tests.tokens import WORDS, text_lane, write_texts
from workers.streams import places
from workers.streams.text import Encoder, Tokenizer


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path / "data"))
    return write_texts(tmp_path / "texts")


def figures(lane: Outcome, stage: int, task: str) -> dict[str, Any]:
    found: dict[str, Any] = lane.lane["stages"][stage]["figures"][task]
    return found


def test_a_language_model_goes_through_kills(tmp_path: Path, texts: Path) -> None:
    config = text_lane(texts, lanes=[{"method": {"kind": "replay", "buffer": 40, "batch": 3}}])
    whole = run_lane(tmp_path / "whole", config)
    assert [edit["kind"] for edit in whole.edits] == ["grow"] * 2
    assert whole.matrix[-1][-1] > whole.matrix[0][-1] + 0.1, "a domain is learnt when it comes"
    told = figures(whole, 2, "bridges")
    assert told["bits_per_byte"] == pytest.approx(8 * (1 - whole.matrix[-1][2]))
    assert told["perplexity"] == pytest.approx(math.exp(told["loss"]))
    assert 0 < told["token_accuracy"] < 1
    assert {name.partition("/")[0] for name in told} >= {"dormant_ratio", "srank", "load_cv"}
    assert run_killed(tmp_path / "killed", config).essence == whole.essence


def test_domains_together_after_a_base_are_told_apart(tmp_path: Path, texts: Path) -> None:
    names = list(WORDS)
    stream = {"base": names[:1], "domains": names[1:], "order": "joint"}
    policies = {
        "growth": {"kind": "periodic", "add": 1},
        "masks": {"kind": "usage_masks"},
    }
    layer = {"selector": {"kind": "topk", "k": 2}}
    model = {"kind": "tests.tokens:TinyTokens", "max_experts": 5, "experts": 3, "layer": layer}
    config = text_lane(texts, stream=stream, policies=policies, model=model)
    whole = run_lane(tmp_path / "whole", config)
    told = figures(whole, 1, "joint")
    for name in names[1:]:
        assert told[f"score/{name}"] == pytest.approx(1 - told[f"bits_per_byte/{name}"] / 8)
    counts = next(iter(whole.intervals.values()))["counts"]
    assert "base" in next(iter(counts.values()))
    assert run_killed(tmp_path / "killed", config).essence == whole.essence


class Bytes(Tokenizer):
    """Every byte is a token."""

    outputs = 257

    def encoder(self, texts, folder):
        return ByteEncoder()


class ByteEncoder(Encoder):
    """Id 0 ends a document, byte b is id b + 1."""

    end, identity = 0, "bytes"
    bytes_V = np.array([0] + [1] * 256)

    def encode(self, texts):
        for text in texts:
            yield np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 1


def test_a_tokenizer_from_outside_goes_through_kills(tmp_path: Path, texts: Path) -> None:
    config = text_lane(texts, stream={"tokenizer": f"{__name__}:Bytes"})
    whole = run_lane(tmp_path / "whole", config)
    told = figures(whole, 0, "cooking")
    assert told["bits_per_byte"] == pytest.approx(told["loss"] / math.log(2), rel=0.02)
    assert run_killed(tmp_path / "killed", config).essence == whole.essence


def test_joint_training_takes_all_texts_so_far(tmp_path: Path, texts: Path) -> None:
    config = text_lane(texts, lanes=[{"method": "joint"}])
    whole = run_lane(tmp_path / "whole", config)
    begun = [record.event for record in whole.records if isinstance(record.event, StageStarted)]
    assert [event.report.samples for event in begun] == [100, 200, 300]
    assert min(whole.matrix[-1]) > 0.55
