"""Texts and a language model that are small enough to train in seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from workers.contract import derive_seed
from workers.models import Model
from workers.moe.layers import LAYERS
from workers.moe.seeding import seeded
from workers.tables import choice, construct

WORDS = {
    "cooking": "boil the salt water and stir flour into warm butter until it is smooth",
    "sailing": "haul a jib sheet as we tack past that buoy against strong northern wind",
    "bridges": "every girder rests upon piers whose concrete carries load down towards rock",
}


def sentences(domain: str, count: int, seed: int = 0) -> list[str]:
    """So many sentences of a domain's own words."""
    rng = np.random.default_rng([seed, len(domain), ord(domain[0])])
    words = WORDS[domain].split()
    return [" ".join(rng.choice(words, rng.integers(6, 12))) + "." for _ in range(count)]


def write_texts(folder: Path, documents: int = 40, lines: int = 12) -> Path:
    """One domain of each form of file: a folder of .txt, a .jsonl, a .parquet."""
    import pyarrow
    from pyarrow import parquet

    texts = {
        name: ["\n".join(sentences(name, lines, seed)) for seed in range(documents)]
        for name in WORDS
    }
    (folder / "cooking").mkdir(parents=True)
    for number, text in enumerate(texts["cooking"]):
        (folder / "cooking" / f"{number:03d}.txt").write_text(text)
    rows = [json.dumps({"text": text}) for text in texts["sailing"]]
    (folder / "sailing.jsonl").write_text("\n".join(rows) + "\n")
    parquet.write_table(pyarrow.table({"text": texts["bridges"]}), folder / "bridges.parquet")
    return folder


def text_stream(folder: Path, **settings: Any) -> dict[str, Any]:
    """Section ``stream`` over the texts in ``folder``, windows and vocabulary small."""
    return {
        "kind": "text",
        "path": str(folder),
        "domains": list(WORDS),
        "window": 16,
        "validation_tokens": 160,
        "test_tokens": 320,
        "tokenizer": {"vocabulary": 300},
        **settings,
    }


class TinyTokens(Model):
    """A token sees itself and the mean of those before it: embedding, routed layer, linear map."""

    capabilities = frozenset({"tokens"})

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "tests.tokens:TinyTokens"
        width: int = 16
        layer: Any = choice(LAYERS, "moe")
        experts: int = 2
        max_experts: int | None = None

    def __init__(
        self, config: Config, input_shape: tuple[int, ...], outputs: int, seed: int
    ) -> None:
        super().__init__()
        own = derive_seed(seed, "layer")
        sizes = (2 * config.width, 2 * config.width)
        self.layer = construct(
            LAYERS, config.layer, *sizes, config.experts, config.max_experts, own
        )
        with seeded(seed):
            self.embedding = nn.Embedding(outputs, config.width)
            self.last = nn.Linear(2 * config.width, outputs)
        self.activation = nn.ReLU()

    def forward(self, x_BS: Tensor) -> Tensor:
        h_BSD = self.embedding(x_BS)
        so_far = h_BSD.cumsum(1) / h_BSD.new_tensor(range(1, x_BS.shape[1] + 1))[:, None]
        both = self.activation(self.layer(nn.functional.pad(h_BSD, (0, h_BSD.shape[-1]))))
        both = both + nn.functional.pad(so_far, (h_BSD.shape[-1], 0))
        logits: Tensor = self.last(both)
        return logits


def text_lane(folder: Path, **changes: Any) -> dict[str, Any]:
    """A raw config: three domains, an expert more at each stage."""
    stream = {"train_tokens": 1600, **changes.pop("stream", {})}
    return {
        "stream": text_stream(folder, **stream),
        "model": {"kind": "tests.tokens:TinyTokens", "max_experts": 5},
        "training": {
            "epochs": 2,
            "intervals": 3,
            "batch": 10,
            "optimizer": {"kind": "adamw", "lr": 1e-2},
            "diagnostics": ["all"],
        },
        "policies": {"growth": {"kind": "periodic", "add": 1}},
        "lanes": [{}],
        **changes,
    }
