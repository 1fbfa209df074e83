"""What people take out of a run of language models: folders of transformers, figures of routers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from orchestrator.__main__ import app
from orchestrator.report import traces
from tests.doors.lane import run_lane
from tests.families import settings
from tests.tokens import text_lane, write_texts
from workers.contract import InputError
from workers.streams import places

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of a finished run: an olmoe that grew from 8 to 9 experts over two domains of text."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(places.ENVIRONMENT, str(root / "data"))
        texts = write_texts(root / "texts")
        model = {"kind": "huggingface", "settings": settings("olmoe", vocab_size=300)}
        raw = text_lane(texts, model=model, stream={"domains": ["cooking", "sailing"]})
        run_lane(root / "run", raw)
        yield root / "run"


def cli(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("stage", "experts", "text"),
    [
        (0, 8, "boil the salt water and stir flour into warm butter"),
        (1, 9, "haul a jib sheet as we tack past that buoy against strong northern wind"),
    ],
)
def test_a_stage_s_model_is_loaded_by_transformers(
    run: Path, tmp_path: Path, stage: int, experts: int, text: str
) -> None:
    done = cli("export", run, "finetune-s0", stage, tmp_path / "model")
    assert done.exit_code == 0, done.output
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert model.config.num_experts == experts
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == text
    with torch.no_grad():
        loss = float(model(ids, labels=ids).loss)
    assert loss < 5.7, "below the entropy of 300 tokens drawn evenly, 5.70 nats"
    read = traces.trace(run, "finetune-s0", stage, None, text)
    assert len(read["tokens"]) == min(16, ids.shape[1])


def test_a_folder_that_is_there_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="is there already"):
        app(
            ["export", str(run), "finetune-s0", "0", str(tmp_path / "model")], standalone_mode=False
        )
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_stages_that_are_not_there_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished stage of lane 'finetune-s0' 7"):
        app(["export", str(run), "finetune-s0", "7", str(tmp_path / "m")], standalone_mode=False)
    with pytest.raises(InputError, match="no lane with a finished stage 'other'"):
        app(["export", str(run), "other", "0", str(tmp_path / "m")], standalone_mode=False)


def test_a_text_s_way_through_the_experts_is_drawn(run: Path, tmp_path: Path) -> None:
    done = cli("trace", run, "--text", "stir the butter", "--out", tmp_path / "t.png", "--json")
    assert done.exit_code == 0, done.output
    read = json.loads(done.output)
    assert "".join(read["tokens"]) == "stir the butter"
    assert len(read["gates"]) == 2
    for rows in read["gates"].values():
        assert len(rows) == len(read["tokens"])
        for row in rows:
            assert len(row) == 9
            assert sum(weight > 0 for weight in row) == 2
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_text_the_first_held_out_window_is_read(run: Path) -> None:
    read = traces.trace(run, None, 0, "sailing", None)
    assert (read["stage"], read["task"], len(read["tokens"])) == (0, "sailing", 16)
