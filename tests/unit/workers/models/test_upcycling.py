"""Dense models of transformers as mixtures: exact where the method is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.families import VOCABULARY, WINDOW
from workers.contract import InputError
from workers.models.huggingface import HuggingFace
from workers.models.huggingface.upcycling import FAMILIES
from workers.moe.upcycles import UPCYCLES, Copies, Slices

transformers = pytest.importorskip("transformers")

DENSE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
EXACT = (
    Copies.Config(experts=4, k=2),
    Copies.Config(experts=3, k=3),
    Slices.Config(copies=2, k=2),
    Slices.Config(copies=3, k=4),
)


def dense(family: str, folder: Path) -> Path:
    config = transformers.AutoConfig.for_model(family, **DENSE)
    torch.manual_seed(2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / family)
    return folder / family


def tokens() -> Tensor:
    return torch.randint(0, VOCABULARY, (3, WINDOW), generator=torch.Generator().manual_seed(4))


def logits_of(folder: Path) -> Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        found: Tensor = model(tokens()).logits
    return found


def upcycled(folder: Path, how: Any) -> HuggingFace:
    config = HuggingFace.Config(path=str(folder), upcycle=how)
    return HuggingFace(config, (WINDOW,), VOCABULARY, seed=0).eval()


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("how", EXACT, ids=str)
def test_the_mixture_answers_as_the_dense_model(family: str, how: Any, tmp_path: Path) -> None:
    folder = dense(family, tmp_path)
    model = upcycled(folder, how)
    with torch.no_grad():
        found = model(tokens())
    torch.testing.assert_close(found, logits_of(folder), atol=2e-6, rtol=1e-5)
    assert {layer.live for layer in model.routed.values()} == {UPCYCLES[how.kind](how).experts}


def test_slices_are_as_large_as_the_copies_they_are_cut_from(tmp_path: Path) -> None:
    model = upcycled(dense("llama", tmp_path), Slices.Config(copies=3, k=4))
    assert {width for s in model.routed.values() for width in s.layer_shape().widths} == {12}


def test_noise_moves_the_answers_and_parts_the_copies(tmp_path: Path) -> None:
    folder = dense("llama", tmp_path)
    model = upcycled(folder, Copies.Config(experts=4, k=2, noise=0.05))
    with torch.no_grad():
        moved = (model(tokens()) - logits_of(folder)).abs().max()
    assert 1e-4 < float(moved) < 1.0
    layer = next(iter(model.routed.values()))
    assert not torch.equal(layer.expert(0).down, layer.expert(1).down)


def test_an_upcycled_model_is_exported_as_a_mixture(tmp_path: Path) -> None:
    folder = dense("llama", tmp_path)
    upcycled(folder, Copies.Config(experts=4, k=2)).export(tmp_path / "mixture")
    torch.testing.assert_close(
        logits_of(tmp_path / "mixture"), logits_of(folder), atol=2e-6, rtol=1e-5
    )


def test_tensors_without_a_place_in_the_mixture_are_told(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("llama", **DENSE, attention_bias=True)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "biased")
    with pytest.raises(InputError, match="has no place for"):
        upcycled(tmp_path / "biased", Copies.Config())


def test_a_sliding_window_stays(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("mistral", **DENSE, sliding_window=4)
    torch.manual_seed(2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "sliding")
    with torch.no_grad():
        found = upcycled(tmp_path / "sliding", Copies.Config())(tokens())
    torch.testing.assert_close(found, logits_of(tmp_path / "sliding"), atol=2e-6, rtol=1e-5)


def test_what_cannot_be_cut_or_mixed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="k = 5 does not divide"):
        upcycled(dense("llama", tmp_path), Slices.Config(copies=2, k=5))
    config = transformers.AutoConfig.for_model("gpt2", n_layer=1, n_embd=32, n_head=4)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(InputError, match=r"no family of mixtures is known for .*'gpt2'"):
        upcycled(tmp_path / "gpt2", Copies.Config())
    with pytest.raises(ValueError, match="at least 2 experts"):
        Copies.Config(experts=1, k=1)
