"""How many bytes of text each token of a tokenizer stands for, told by how it spells them.

Exact for byte-level vocabularies, where every character of a token is one byte. Where words begin
with a metaspace, that is a space; a tokenizer that puts one before every text counts one byte too
many for each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.contract import InputError

if TYPE_CHECKING:
    import tokenizers

METASPACE = "\u2581"
ONE_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def token_bytes(library: tokenizers.Tokenizer) -> np.ndarray:
    """int64 [V]: 0 for special tokens and ids without a token.

    Raises InputError for a kind of tokenizer that loses text, so that nobody can tell.
    """
    told = json.loads(library.to_str())
    kinds = set(_kinds(told["pre_tokenizer"])) | set(_kinds(told["decoder"]))
    added = {entry["id"]: entry for entry in told["added_tokens"]}
    byte_level = "ByteLevel" in kinds
    if not byte_level and not {"Metaspace", "ByteFallback"} & kinds:
        raise InputError(
            f"nobody can tell the bytes of tokens of {', '.join(sorted(kinds)) or 'no kind'}; use "
            "a byte-level tokenizer, or one of the kind of SentencePiece"
        )
    vocabulary = library.get_vocab(with_added_tokens=True)
    found = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for token, number in vocabulary.items():
        if number in added:
            found[number] = 0 if added[number]["special"] else len(token.encode())
        elif byte_level:
            found[number] = len(token)
        elif ONE_BYTE.fullmatch(token):
            found[number] = 1
        else:
            found[number] = len(token.replace(METASPACE, " ").encode())
    return found


def _kinds(part: Any) -> Iterator[str]:
    """Types of a part of a tokenizer and of the parts inside it."""
    if isinstance(part, list):
        for item in part:
            yield from _kinds(item)
    elif isinstance(part, dict):
        if isinstance(part.get("type"), str):
            yield part["type"]
        for item in part.values():
            yield from _kinds(item)
