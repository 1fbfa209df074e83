"""Stock causal language models: from a folder, or from settings with random weights.

Nothing is fetched: a folder must lie on this machine.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workers.contract import InputError, Json
from workers.moe.seeding import seeded
from workers.streams.places import named_folder

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
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


def config_of(path: str, settings: Mapping[str, Json], vocabulary: int | None) -> Any:
    """The library's config: of the folder, with ``settings`` over it, or of ``settings`` alone.

    ``vocabulary``: number of tokens where neither says one. Raises InputError on settings that no
    model has.
    """
    library = transformers()
    given = dict(settings)
    try:
        if path:
            folder = _folder(path)
            safely = {"local_files_only": True, "trust_remote_code": False}
            read = library.AutoConfig.from_pretrained(folder, **safely)
            _check_settings(read, given)
            return library.AutoConfig.from_pretrained(folder, **safely, **given)
        family = given.pop("model_type", None)
        _check_settings(library.AutoConfig.for_model(family), given)
        if vocabulary is not None:
            given.setdefault("vocab_size", vocabulary)
        given.setdefault("pad_token_id", None)  # else that token's embedding would never learn
        return library.AutoConfig.for_model(family, **given)
    except Exception as error:  # the library raises whatever a config leads it to
        if isinstance(error, InputError):
            raise
        where = path or f"settings {dict(settings)}"
        raise InputError(
            f"model huggingface: {where} give no config ({str(error).splitlines()[0]}); give a "
            'folder as path, or settings = { model_type = "olmoe", ... }'
        ) from error


def _check_settings(config: Any, given: Mapping[str, Json]) -> None:
    """Refuse settings that are nearly those of the family.

    Not all unknown ones: models read some that their configs do not list (``head_dim``).
    """
    known = {*config.to_dict(), *config.attribute_map}
    for name in given:
        near = [] if name in known else difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if near:
            raise InputError(
                f"model huggingface: a model of type {config.model_type!r} has no setting "
                f"{name!r}; it has {near[0]!r}"
            )


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
            made, told = library.AutoModelForCausalLM.from_pretrained(
                _folder(path),
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,  # other files are pickles, which run code
                trust_remote_code=False,
                output_loading_info=True,
            )
            _check_complete(path, told)
        else:
            with seeded(seed):
                made = library.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        where = path or f"settings of type {config.model_type!r}"
        raise InputError(
            f"model huggingface: {where} give no causal language model ({error})"
        ) from error
    return made


def _check_complete(path: str, told: Mapping[str, Any]) -> None:
    """Refuse a folder that does not hold every tensor of its model."""
    wrong = [*told["missing_keys"], *(key[0] for key in told["mismatched_keys"])]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(
            f"{_folder(path)}: its files hold no {wrong[0]}{more} as its config asks for; fetch "
            "the model again, or leave out settings that change its shape"
        )


def fingerprint(path: str) -> str:
    """SHA-256 (16 hex digits) that tells the folder's model from others.

    Over config.json whole, and over name, size, first and last megabyte of each file of weights:
    a safetensors file begins with names, shapes and places of its tensors.
    """
    total, folder = hashlib.sha256(), _folder(path)
    for file in sorted(folder.iterdir()):
        if file.suffix != ".safetensors" and file.name != "config.json":
            continue
        size = file.stat().st_size
        total.update(f"{file.name} {size}\n".encode())
        with open(file, "rb") as data:
            total.update(data.read(1 << 20))
            data.seek(max(0, size - (1 << 20)))
            total.update(data.read(1 << 20))
    return total.hexdigest()[:16]


def _folder(path: str) -> Path:
    """The folder of a model; InputError where it holds none."""
    folder = named_folder(path)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: no config.json there; give a folder that `save_pretrained` of transformers "
            "wrote, or fetch one: `growstage data fetch model/NAME`"
        )
    return folder
