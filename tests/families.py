"""Tiny models of every tested family of mixtures, as settings of the model ``huggingface``."""

from __future__ import annotations

from typing import Any

VOCABULARY, WINDOW = 96, 32

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_LATENT = {
    "num_key_value_heads": 4,
    "intermediate_size": 40,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "deepseek_v2": {**_LATENT, "topk_method": "greedy"},
    "deepseek_v3": _LATENT,
    "gpt_oss": {"head_dim": 8, "intermediate_size": 24, "num_local_experts": 8},
    "granitemoe": {"intermediate_size": 24, "num_local_experts": 8},
    "mixtral": {"intermediate_size": 24, "num_local_experts": 8},
    "olmoe": {"intermediate_size": 24, "num_experts": 8},
    "qwen2_moe": {
        "intermediate_size": 40,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 24,
        "num_experts": 8,
    },
    "qwen3_moe": {
        "head_dim": 8,
        "intermediate_size": 40,
        "moe_intermediate_size": 24,
        "num_experts": 8,
    },
}
"""Family -> what its settings have beside the common ones."""


def settings(family: str, **more: Any) -> dict[str, Any]:
    """Settings of a tiny model with 8 experts in each mixture, of which a token takes 2."""
    return {"model_type": family, **_COMMON, **FAMILIES[family], **more}
