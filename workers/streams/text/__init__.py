"""Texts as streams: documents, tokenizers, windows of tokens. Knows no model and no training."""

from workers.streams.text.known import KNOWN
from workers.streams.text.stream import Text
from workers.streams.text.tokenizers import TOKENIZERS, Encoder, Tokenizer

__all__ = ["KNOWN", "TOKENIZERS", "Encoder", "Text", "Tokenizer"]
