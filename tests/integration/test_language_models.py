"""Language models on a real cluster: the shipped study in small, and kill -9 while one is grown."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.file import load
from orchestrator.core.events import EditApplied, LaneOpened
from orchestrator.core.journal import read
from tests.commands import ROOT, Command
from tests.conftest import Finished
from tests.tokens import sentences
from workers.streams.places import ENVIRONMENT

pytestmark = pytest.mark.ray
pytest.importorskip("transformers")

STUDY = ROOT / "configs" / "text_domains.toml"
TEXTS = {
    "technical": "cooking",
    "dictionary": "sailing",
    "biology": "bridges",
    "law": "cooking",
    "medicine": "sailing",
    "maths": "bridges",
    "fiction": "cooking",
    "code": "sailing",
    "german": "bridges",
}
"""Text of the study -> whose words stand in for it."""

KILLED = """
name = "kill"
checkpoint_every = 2
[stream]
kind = "text"
path = "{texts}"
domains = ["law", "medicine"]
window = 16
train_tokens = 1600
validation_tokens = 160
test_tokens = 320
tokenizer = {{ vocabulary = 300 }}
[model]
kind = "huggingface"
settings = {{ model_type = "olmoe", hidden_size = 32, intermediate_size = 24, \
num_hidden_layers = 2, num_attention_heads = 4, num_key_value_heads = 4, num_experts = 4, \
num_experts_per_tok = 2, max_position_embeddings = 16, bos_token_id = 0, eos_token_id = 0, \
pad_token_id = 0 }}
[training]
steps = 40
batch = 8
intervals = 8
precision = "bfloat16"
learning_rate = {{ kind = "cosine" }}
[policies.growth]
kind = "periodic"
[[lanes]]
method = {{ kind = "replay", buffer = 50, batch = 2 }}
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every text of the study, made of a few words each."""
    folder = tmp_path_factory.mktemp("texts")
    for number, (name, words) in enumerate(TEXTS.items()):
        (folder / name).mkdir()
        for document in range(40):
            lines = sentences(words, 12, seed=100 * number + document)
            (folder / name / f"{document:02d}.txt").write_text("\n".join(lines))
    return folder


def small(texts: Path) -> list[str]:
    """What makes the study small: sizes, one seed, texts that are here."""
    found = {
        "stream.path": f'"{texts}"',
        "stream.window": "16",
        "stream.tokenizer.vocabulary": "300",
        "stream.base_train_tokens": "1600",
        "stream.train_tokens": "1600",
        "stream.validation_tokens": "160",
        "stream.test_tokens": "320",
        "model.settings.hidden_size": "32",
        "model.settings.intermediate_size": "16",
        "model.settings.num_hidden_layers": "2",
        "training.batch": "8",
    }
    lanes = STUDY.read_text().count("[[lanes]]")
    found |= {f"lanes.{number}.seeds": "[0]" for number in range(lanes)}
    return [part for key, value in found.items() for part in ("--set", f"{key}={value}")]


@pytest.mark.slow
def test_the_study_of_domains_in_small(
    growstage: Callable[..., Finished], texts: Path, cluster: str, runs: Path
) -> None:
    """Every lane of ``configs/text_domains.toml`` to its end, the base trained once."""
    data = {ENVIRONMENT: str(runs / "data"), "RAY_ADDRESS": cluster}
    settings = small(texts)
    done = growstage("run", STUDY, *settings, "--run-dir", runs / "study", timeout=800, **data)
    assert done.code == 0, done.err
    shown = growstage("show", runs / "study", "--json").json
    config = load(STUDY, settings[1::2])
    lanes = {lane["lane"]: lane for lane in shown["lanes"]}
    assert set(lanes) == {lane.name for lane in config.lanes}
    assert {lane["status"] for lane in lanes.values()} == {"done"}
    assert {lane["stages"][0]["id"] for lane in lanes.values()} == {
        lanes["joint-full-s0"]["stages"][0]["id"]
    }
    whole = lanes["joint-des-moe-s0"]["stages"][1]
    kinds = {edit["kind"] for edit in whole["edits"]}
    assert kinds == {"adapt_router", "set_phase", "refresh_mask"}
    for name, lane in lanes.items():
        for stage in lane["stages"]:
            for task, figures in stage["figures"].items():
                assert 0 < figures["bits_per_byte"] < 8, (name, task)
        base, last = lane["stages"][0]["figures"], lane["stages"][-1]["figures"]
        learnt = [task for task in last if task != "base"]
        before = sum(base[task]["bits_per_byte"] for task in learnt)
        assert sum(last[task]["bits_per_byte"] for task in learnt) < before, name


@pytest.mark.slow
def test_a_growing_model_killed_and_resumed(texts: Path, cluster: str, runs: Path) -> None:
    """The driver is killed twice, the worker once: same bits, every edit once."""
    env = {ENVIRONMENT: str(runs / "data"), "RAY_ADDRESS": cluster}
    config = runs / "kill.toml"
    config.write_text(KILLED.format(texts=texts))
    Command("orchestrator", "run", config, "--run-dir", runs / "whole", env=env).succeed()
    journal = runs / "killed" / "journal.jsonl"
    for lines in (5, 14):
        driver = Command("orchestrator", "run", config, "--run-dir", runs / "killed", env=env)
        driver.until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= lines)  # noqa: B023
        driver.kill()
    last = Command("orchestrator", "resume", runs / "killed", env=env)
    last.until(lambda: len(opened(journal)) >= 3)
    os.kill(opened(journal)[-1], signal.SIGKILL)
    last.succeed()
    assert essence(runs / "killed") == essence(runs / "whole")
    edits = [event for event in events(journal) if isinstance(event, EditApplied)]
    assert len({event.edit.id for event in edits}) == 1


def events(journal: Path) -> list[Any]:
    return [record.event for record, _ in read(journal)]


def opened(journal: Path) -> list[int]:
    """Process of each worker that opened the lane."""
    return [event.report.pid for event in events(journal) if isinstance(event, LaneOpened)]


def essence(run_dir: Path) -> Any:
    from orchestrator.session import report_of

    lane = report_of(run_dir)["lanes"][0]
    return {
        "matrix": lane["matrix"],
        "checkpoints": [stage["checkpoint"]["digest"] for stage in lane["stages"]],
        "edits": [[edit["fingerprint"] for edit in stage["edits"]] for stage in lane["stages"]],
    }
