"""The decoder: the transformer it says it is, with layers that grow."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.edits import Grow
from workers.models.decoder import Decoder, rotary, turned
from workers.moe.experts import GatedExpert
from workers.moe.growth import surgery
from workers.moe.growth.schedules import SCHEDULES
from workers.moe.layers import LAYERS
from workers.supervised.precision import lower

VOCABULARY, WINDOW = 50, 12


def decoder(**given: Any) -> Decoder:
    config = Decoder.Config(**{"width": 32, "depth": 2, "heads": 4, **given})
    return Decoder(config, (WINDOW,), VOCABULARY, seed=3).eval()


def tokens(windows: int = 3) -> Tensor:
    return torch.randint(
        0, VOCABULARY, (windows, WINDOW), generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_with_one_expert_it_is_llama(kv_heads: int | None) -> None:
    transformers = pytest.importorskip("transformers")
    model = decoder(kv_heads=kv_heads)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads or 4,
        rms_norm_eps=torch.finfo(torch.float32).eps,
        tie_word_embeddings=True,
    )
    llama = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        llama.model.embed_tokens.weight.copy_(model.embedding.weight)
        llama.model.norm.weight.copy_(model.norm.weight)
        for theirs, ours in zip(llama.model.layers, model.blocks, strict=True):
            attention: Any = ours.attention
            names = {"q_proj": "queries", "k_proj": "keys", "v_proj": "values", "o_proj": "output"}
            for their_name, name in names.items():
                getattr(theirs.self_attn, their_name).weight.copy_(getattr(attention, name).weight)
            expert: Any = ours.layer.experts["0"]  # type: ignore[union-attr, index]
            gate, up = expert.gate_up.chunk(2)
            theirs.mlp.gate_proj.weight.copy_(gate)
            theirs.mlp.up_proj.weight.copy_(up)
            theirs.mlp.down_proj.weight.copy_(expert.down)
        x = tokens()
        torch.testing.assert_close(model(x), llama(x).logits, atol=1e-6, rtol=1e-5)


def test_later_tokens_change_nothing_before_them() -> None:
    model, x = decoder(experts=4), tokens()
    other = x.clone()
    other[:, 7:] = (other[:, 7:] + 1) % VOCABULARY
    with torch.no_grad():
        before, after = model(x), model(other)
    torch.testing.assert_close(before[:, :7], after[:, :7], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(before[:, 7:], after[:, 7:], atol=1e-3)


def test_rotary_scores_depend_on_distances_only() -> None:
    cosine, sine = rotary(20, 8, 10_000.0)
    query, key = torch.randn(8), torch.randn(8)
    at = turned(torch.stack([query] * 20), cosine, sine)
    of = turned(torch.stack([key] * 20), cosine, sine)
    for distance in (0, 1, 5):
        scores = torch.stack([at[s + distance] @ of[s] for s in range(20 - distance)])
        torch.testing.assert_close(scores, scores[0].expand_as(scores), atol=1e-4, rtol=1e-4)


def test_parameters_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = decoder(experts=2).state_dict()
    torch.manual_seed(2)
    other = decoder(experts=2).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_grows_under_a_schedule() -> None:
    config = SCHEDULES["descending"].Config()  # type: ignore[attr-defined]
    model = decoder(experts=2, max_experts=8, depth=4, schedule=config)
    grow = Grow(id="e", stage="s", after_interval=0, cause="test", seed=5, revision=1, experts=8)
    report = surgery.apply(model, None, grow, tokens())
    assert [shape.experts for shape in report.after.layers.values()] == [8, 6, 3, 1]


@pytest.mark.parametrize("kind", ["moe", "chain", "residual", "linear"])
def test_any_layer_of_the_table_fits(kind: str) -> None:
    config = LAYERS[kind].Config()  # type: ignore[attr-defined]
    if kind in ("moe", "chain"):
        config = dataclasses.replace(config, expert=GatedExpert.Config(width=8))
    model = decoder(experts=3, layer=config).train()
    model(tokens()).square().mean().backward()
    assert all(p.grad is not None for p in model.blocks[0].attention.parameters())  # type: ignore[union-attr]


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 2 x heads"):
        Decoder.Config(width=30, heads=4)
    with pytest.raises(ValueError, match="kv_heads must divide"):
        Decoder.Config(width=32, heads=4, kv_heads=3)
    with pytest.raises(ValueError, match="depth must be at least 1"):
        Decoder.Config(depth=0)


def test_it_runs_in_bfloat16() -> None:
    model = decoder(experts=2)
    with torch.no_grad():
        exact = model(tokens())
        lower(model)
        assert 0 < float((model(tokens()) - exact).abs().max()) < 0.05
