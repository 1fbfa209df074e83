"""Stock causal language models: from a folder, or from settings with random weights.

Nothing is fetched: a folder must lie on this machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workers.contract import InputError, Json
from workers.moe.seeding import seeded

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Names that families give the number of experts in their settings."""


def transformers() -> Any:
    """The library; InputError with the cure where it is not installed."""
    try:
        import transformers as library
    except ImportError as error:
        raise InputError(
            f"model huggingface: transformers cannot be imported ({error}); install it with "
            "`pip install 'growstage[hf]'`"
        ) from error
    library.utils.logging.disable_progress_bar()
    return library


@lru_cache(maxsize=8)
def settings_of(path: str) -> Json:
    """What the folder's config.json says; InputError where there is none."""
    folder = Path(path).expanduser()
    file = folder / "config.json"
    if folder.is_dir() and not file.is_file() and gguf_of(path) is not None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{folder}: no config.json there ({error.strerror}); give a folder that "
            "`save_pretrained` wrote, or one with a .gguf file"
        ) from error
    except ValueError as error:
        raise InputError(f"{file}: is not JSON ({error}); fetch the model again") from error
    if "model_type" not in found:
        raise InputError(f"{file}: names no model_type; give the folder of a transformers model")
    return found


def gguf_of(path: str) -> str | None:
    """Name of the one .gguf file in the folder; None where it has none, or a config of its own."""
    folder = Path(path).expanduser()
    files = sorted(folder.glob("*.gguf"))
    if (folder / "config.json").is_file() or not files:
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(f"{folder}: several .gguf files ({names}); keep one of them there")
    return files[0].name


def config_of(path: str, settings: Mapping[str, Json], vocabulary: int | None) -> Any:
    """The library's config: of the folder, with ``settings`` over it, or of ``settings`` alone.

    ``vocabulary``: number of tokens where neither says one. Raises InputError on settings that no
    model has.
    """
    library = transformers()
    given = dict(settings)
    try:
        if path:
            more = {} if gguf_of(path) is None else {"gguf_file": gguf_of(path)}
            return library.AutoConfig.from_pretrained(
                Path(path).expanduser(), local_files_only=True, **more, **given
            )
        family = given.pop("model_type", None)
        if vocabulary is not None:
            given.setdefault("vocab_size", vocabulary)
        return library.AutoConfig.for_model(family, **given)
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        where = path or f"settings {dict(settings)}"
        raise InputError(
            f"model huggingface: {where} give no config ({str(error).splitlines()[0]}); give a "
            'folder as path, or settings = { model_type = "olmoe", ... }'
        ) from error


def stock_model(path: str, config: Any, seed: int) -> nn.Module:
    """The library's model in float32: the folder's weights, or drawn from the seed.

    Under ``torch.device("meta")`` no weight is read or drawn.
    """
    library = transformers()
    config._experts_implementation = "eager"
    nowhere = torch.empty(0).device.type == "meta"
    made: nn.Module
    try:
        if path and not nowhere:
            more = {} if gguf_of(path) is None else {"gguf_file": gguf_of(path)}
            made = library.AutoModelForCausalLM.from_pretrained(
                Path(path).expanduser(),
                config=None if more else config,
                dtype=torch.float32,
                local_files_only=True,
                **more,
            )
        else:
            with seeded(seed):
                made = library.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        where = path or f"settings of type {config.model_type!r}"
        raise InputError(
            f"model huggingface: {where} give no causal language model ({error})"
        ) from error
    return made


def fingerprint(path: str) -> str:
    """SHA-256 (16 hex digits) that tells the folder's model from others.

    Over config.json whole, and over name, size, first and last megabyte of each file of weights:
    a safetensors file begins with names, shapes and places of its tensors.
    """
    total, folder = hashlib.sha256(), Path(path).expanduser()
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".safetensors", ".gguf", ".bin") and file.name != "config.json":
            continue
        size = file.stat().st_size
        total.update(f"{file.name} {size}\n".encode())
        with open(file, "rb") as data:
            total.update(data.read(1 << 20))
            data.seek(max(0, size - (1 << 20)))
            total.update(data.read(1 << 20))
    return total.hexdigest()[:16]
