"""Good input, from which hostile input is made."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from workers import checkpoint
from workers.packing import pack

ROOT = Path(__file__).resolve().parents[2]
STREAM_FILES = ("digits_growth", "grow_and_mask", "split_fashion_mnist", "triggers")


def stream_files() -> list[bytes]:
    """Checked-in stream files without comments, shortest first."""
    found = [(ROOT / "configs" / f"{name}.toml").read_bytes() for name in STREAM_FILES]
    return sorted((_bare(text) for text in found), key=len)


def _bare(text: bytes) -> bytes:
    kept = [line for line in text.splitlines() if line.strip() and not line.startswith(b"#")]
    return b"\n".join(kept) + b"\n"


def journals() -> list[bytes]:
    """Recorded ones."""
    return [path.read_bytes() for path in sorted((ROOT / "tests/recorded").glob("*/*.jsonl"))]


def stream_tables() -> list[Any]:
    """The stream files as TOML reads them."""
    return [tomllib.loads(text.decode()) for text in stream_files()]


def histories() -> list[Any]:
    """The recorded journals' records, without what chains them."""
    found = []
    for journal in journals():
        records = [json.loads(line) for line in journal.splitlines()]
        found.append([{k: v for k, v in one.items() if k != "after"} for one in records])
    return found


def configs() -> list[Any]:
    """The configs in their first records."""
    return [records[0]["event"]["config"] for records in histories()]


@cache
def checkpoint_files() -> Mapping[str, bytes]:
    """A small checkpoint, some of it in few bits."""
    tensors = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "c"
        packed = {"p": pack(torch.arange(8.0).reshape(2, 4), 4, 4)}
        state = {"trainer": "supervised", "settings_digest": "d"}
        checkpoint.write_packed(str(place), tensors, packed, state, seq=3, stage="s")
        return {path.name: path.read_bytes() for path in place.iterdir()}


def idx() -> list[bytes]:
    """Three images of 2 x 2 as an idx file, plain and packed."""
    plain = bytes((0, 0, 8, 3)) + struct.pack(">3I", 3, 2, 2) + bytes(range(12))
    return [plain, gzip.compress(plain)]


@cache
def images() -> list[bytes]:
    """One small image in each format that a folder may hold."""
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    return [_image(image, name) for name in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")]


def _image(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def wheels() -> list[bytes]:
    """Packages as pip brings them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/a.txt", "a" * 100)
        archive.writestr("data/b.txt", "b")
    return [out.getvalue()]


def tars() -> list[bytes]:
    """Packages as npm brings them; one holds links that lead out of it and round."""
    return [_tar(), _tar("../../out", "/etc/passwd", "data/a.txt", "data/loop")]


def _tar(*links: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        told = tarfile.TarInfo("data/a.txt")
        told.size = 3
        archive.addfile(told, io.BytesIO(b"abc"))
        for number, link in enumerate(links):
            entry = tarfile.TarInfo("data/loop" if link == "data/loop" else f"data/l{number}")
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            archive.addfile(entry)
    return out.getvalue()


def json_lines() -> list[bytes]:
    """Documents, a line each."""
    return ["\n".join(json.dumps({"text": t}) for t in ("one two", "três")).encode() + b"\n"]


@cache
def parquets() -> list[bytes]:
    """A table of texts, numbers and labels."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"text": ["a", "b"] * 4, "n": [1.0, 2.0] * 4, "label": ["x", "y"] * 4})
    out = io.BytesIO()
    parquet.write_table(table, out)
    return [out.getvalue()]


def tables() -> list[bytes]:
    """A table as text."""
    rows = [f"{number},{number % 3}.5,{'xy'[number % 2]}" for number in range(10)]
    return ["\n".join(["n,m,label", *rows]).encode() + b"\n"]


def keel() -> list[bytes]:
    """A table of the KEEL repository."""
    return [b"@relation v\n@data\n1.0, 2.0, a\n1.5, 2.5, b\n0.5, 1.0, a\n2.0, 2.0, b\n"]


def arrays() -> list[bytes]:
    """Arrays as numpy writes them: one, and several in a zip file."""
    single, several = io.BytesIO(), io.BytesIO()
    np.save(single, np.arange(8, dtype=np.float32).reshape(2, 4))
    np.savez(several, a=np.arange(3))
    return [single.getvalue(), several.getvalue()]


@cache
def tokenizer() -> dict[str, bytes]:
    """The files of a small tokenizer, and those of GPT-2's kind."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=270,
        special_tokens=["<end>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the cat sat on the mat"] * 4, trainer)
    whole = json.loads(made.to_str())
    merges = "\n".join(" ".join(pair) for pair in whole["model"]["merges"])
    return {
        "tokenizer.json": json.dumps(whole).encode(),
        "tokenizer_config.json": b'{"eos_token": "<end>"}',
        "vocab.json": json.dumps(whole["model"]["vocab"]).encode(),
        "merges.txt": b"#version: 0.2\n" + merges.encode(),
    }


@cache
def gguf() -> bytes:
    """The smallest Llama as a GGUF file."""
    import gguf as library

    vocabulary, width = 8, 32
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        file = library.GGUFWriter(path, "llama")
        file.add_block_count(1)
        file.add_context_length(16)
        file.add_embedding_length(width)
        file.add_feed_forward_length(width)
        file.add_head_count(2)
        file.add_head_count_kv(2)
        file.add_layer_norm_rms_eps(1e-5)
        file.add_vocab_size(vocabulary)
        file.add_tokenizer_model("gpt2")
        file.add_token_list(["<end>", "t", "0", "t0", "a", "b", "c", "d"])
        file.add_token_merges(["t 0"])
        file.add_eos_token_id(0)
        file.add_bos_token_id(0)
        square = np.zeros((width, width), np.float32)
        names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        for name in names:
            file.add_tensor(f"blk.0.{name}.weight", square)
        for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
            file.add_tensor(f"{name}.weight", square[0])
        for name in ("token_embd", "output"):
            file.add_tensor(f"{name}.weight", np.zeros((vocabulary, width), np.float32))
        file.write_header_to_file()
        file.write_kv_data_to_file()
        file.write_tensors_to_file()
        file.close()
        return path.read_bytes()


@cache
def model_folder() -> dict[str, Any]:
    """The ``config.json`` of a small mixture."""
    from workers.models.huggingface.loading import transformers

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_experts": 2}
    told: dict[str, Any] = transformers().AutoConfig.for_model("olmoe", **sizes, **heads).to_dict()
    return told
