"""Folders of models that would run code: refused, and nothing of theirs is executed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from workers.contract import InputError
from workers.models.huggingface.loading import config_of, stock_model, transformers


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Llama's config, without weights."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    config = transformers().AutoConfig.for_model(
        "llama", **sizes, num_attention_heads=2, num_key_value_heads=2
    )
    made = tmp_path / "model"
    config.save_pretrained(made)
    return made


def test_pickled_weights_are_not_opened(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    config = transformers().AutoConfig.from_pretrained(folder)
    with pytest.raises(InputError, match="safetensors"):
        stock_model(str(folder), config, 0)
    assert not mark.exists()


def test_code_beside_a_config_is_not_imported(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    told = json.loads((folder / "config.json").read_text())
    told["model_type"] = "llama_of_their_own"
    told["auto_map"] = {"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.M"}
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "theirs.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: ...\nclass M: ...\n")
    with pytest.raises(InputError):
        config_of(str(folder), {}, None)
    assert not mark.exists()
