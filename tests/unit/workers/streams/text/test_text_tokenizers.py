"""Tokenizers: deterministic, lossless, and honest about the bytes of each token."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tokens import WORDS, sentences
from workers.contract import InputError
from workers.parsing import choose
from workers.streams.text import TOKENIZERS

library = pytest.importorskip("tokenizers")

TEXT = "Grüße, 世界! naïve 😀 <|endoftext|>\n\n  def f(x):\treturn x  # <s>\n"


def build(kind: str, **settings):
    cls, config, problems = choose(TOKENIZERS, {"kind": kind, **settings}, "tokenizer")
    assert not problems, problems
    return cls(config)


def training(key: str = "key"):
    texts = [text for domain in WORDS for text in sentences(domain, 200)]
    return lambda names, characters: (key, iter(texts))


def never(names, characters):
    raise AssertionError("not trained")


def ids(encoder, text: str) -> list[int]:
    (found,) = encoder.encode([text])
    return found.tolist()


@pytest.fixture
def bpe(tmp_path):
    return build("bpe", vocabulary=400).encoder(training(), tmp_path)


def test_bpe_is_lossless_and_counts_bytes(bpe):
    for text in (TEXT, "boil the salt water", "\x00\x7f\xa0"):
        found = ids(bpe, text)
        assert bpe.end not in found, "what looks like the end of a text is text"
        assert bpe.decode(found) == text
        assert bpe.bytes_V[found].sum() == len(text.encode())
    assert bpe.bytes_V[bpe.end] == 0
    assert bpe.end == 0
    assert len(ids(bpe, "boil the salt water")) <= 5, "merges were learnt"


def test_bpe_is_trained_once(tmp_path, bpe):
    folder = next(tmp_path.glob("bpe-400-key"))

    def again(names, characters):
        return "key", (pytest.fail("trained again") for _ in range(1))

    kept = build("bpe", vocabulary=400).encoder(again, tmp_path)
    assert kept.identity == bpe.identity
    other = build("bpe", vocabulary=300).encoder(training(), tmp_path)
    assert other.identity != bpe.identity
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert folder.is_dir()


def test_bpe_of_another_process_is_the_same(tmp_path, bpe):
    script = (
        "from tests.unit.workers.streams.text.test_text_tokenizers import *\n"
        f"print(build('bpe', vocabulary=400).encoder(training(), Path({str(tmp_path / 'b')!r}))"
        ".identity)"
    )
    root = Path(__file__).parents[5]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == bpe.identity


def test_a_small_text_leaves_ids_unused(tmp_path):
    tokenizer = build("bpe", vocabulary=5000)
    encoder = tokenizer.encoder(lambda names, characters: ("k", iter(["abab abab"])), tmp_path)
    assert tokenizer.outputs == 5000 > len(encoder.bytes_V)


# ---------------------------------------------------------------- files of others


def write_metaspace(folder: Path) -> None:
    """A tokenizer of the kind of SentencePiece: metaspaces, unknown characters as bytes."""
    made = library.Tokenizer(library.models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = library.pre_tokenizers.Metaspace(prepend_scheme="never")
    made.decoder = library.decoders.Sequence(
        [
            library.decoders.ByteFallback(),
            library.decoders.Fuse(),
            library.decoders.Metaspace(prepend_scheme="never"),
        ]
    )
    every = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = library.trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "</s>"], show_progress=False
    )
    made.train_from_iterator(sentences("cooking", 100), trainer)
    told = json.loads(made.to_str())
    size = len(told["model"]["vocab"])
    told["model"]["vocab"] |= {token: size + number for number, token in enumerate(every)}
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(told))


def test_a_metaspace_is_one_byte(tmp_path):
    write_metaspace(tmp_path / "t")
    (tmp_path / "t" / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}')
    tokenizer = build("huggingface", path=str(tmp_path / "t"))
    assert tokenizer.problems("stream.tokenizer") == []
    encoder = tokenizer.encoder(never, tmp_path)
    for text in ("boil the salt water", "butter 世界 Z"):
        found = ids(encoder, text)
        assert encoder.decode(found) == text
        assert encoder.bytes_V[found].sum() == len(text.encode())
    assert encoder.end == 1
    assert encoder.bytes_V[1] == 0


def test_a_byte_level_file_is_read_as_it_is(tmp_path, bpe):
    folder = next(tmp_path.glob("bpe-*"))
    tokenizer = build("huggingface", path=str(folder), end="<|endoftext|>")
    encoder = tokenizer.encoder(never, tmp_path)
    assert tokenizer.outputs == 400
    assert ids(encoder, TEXT) == ids(bpe, TEXT)
    assert np.array_equal(encoder.bytes_V, bpe.bytes_V)


def test_the_two_files_of_gpt2_are_read(tmp_path, bpe):
    told = json.loads((next(tmp_path.glob("bpe-*")) / "tokenizer.json").read_text())["model"]
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "vocab.json").write_text(json.dumps(told["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in told["merges"])
    (tmp_path / "pair" / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    encoder = build("huggingface", path=str(tmp_path / "pair"), end="<|endoftext|>").encoder(
        never, tmp_path
    )
    assert ids(encoder, TEXT) == ids(bpe, TEXT)
    assert encoder.bytes_V[ids(encoder, TEXT)].sum() == len(TEXT.encode())


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no tokenizer.json and no vocab.json with merges.txt"),
        ({"tokenizer.json": "{"}, "cannot be read"),
        ({"tokenizer.json": None}, "names no eos_token; set tokenizer.end"),
        ({"tokenizer.json": None, "tokenizer_config.json": "{"}, "is no JSON"),
    ],
)
def test_a_folder_without_a_tokenizer_is_a_problem(tmp_path, bpe, files, words):
    good = (next(tmp_path.glob("bpe-*")) / "tokenizer.json").read_text()
    (tmp_path / "t").mkdir()
    for name, content in files.items():
        (tmp_path / "t" / name).write_text(good if content is None else content)
    (problem,) = build("huggingface", path=str(tmp_path / "t")).problems("stream.tokenizer")
    assert problem.path == "stream.tokenizer.path"
    assert words in str(problem)


def test_an_end_that_is_no_token_is_refused(tmp_path, bpe):
    folder = next(tmp_path.glob("bpe-*"))
    tokenizer = build("huggingface", path=str(folder), end="</doc>")
    with pytest.raises(InputError, match="has no token '</doc>'"):
        tokenizer.encoder(never, tmp_path)
    (problem,) = tokenizer.problems("stream.tokenizer")
    assert problem.allowed == "set tokenizer.end"


def test_a_tokenizer_that_loses_text_is_refused(tmp_path):
    made = library.Tokenizer(library.models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = library.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (problem,) = build("huggingface", path=str(tmp_path), end="a").problems("stream.tokenizer")
    assert "nobody can tell the bytes of tokens of Whitespace" in str(problem)


@pytest.mark.parametrize(("key", "value"), [("vocabulary", 256), ("characters", 0)])
def test_settings_that_cannot_be_are_refused(key, value):
    _, config, problems = choose(TOKENIZERS, {"kind": "bpe", key: value}, "tokenizer")
    assert config is None
    assert f"{key} must be at least" in str(problems[0])
