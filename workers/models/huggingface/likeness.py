"""A look at a stock model before and after its mixtures are replaced: the answers must stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import InputError
from workers.models.huggingface.convention import TESTED, Mixture

TOKENS = 8
"""Tokens that are passed through the model."""
TOLERANCE = 1e-4
"""Largest difference of a block's outputs, as a share of the largest of them."""


@contextmanager
def alike(lm: Any, mixtures: Sequence[Mixture]) -> Iterator[None]:
    """Replace mixtures inside the block; raises InputError where one then answers otherwise.

    One block of each kind is looked at: a pass of a few tokens through the stock model, then
    each of these blocks alone with what it was given. On the meta device nothing is compared.
    """
    kinds = {(type(m.block), type(m.router), type(m.experts)): m for m in mixtures}
    asked = {mixture.name: mixture for mixture in kinds.values()}
    calls: dict[str, tuple[Any, ...]] = {}

    def watch(name: str) -> Callable[..., None]:
        def keep(_: Any, args: Any, kwargs: Any, output: Any) -> None:
            calls.setdefault(name, (args, kwargs, output))

        return keep

    handles = [
        mixture.block.register_forward_hook(watch(name), with_kwargs=True)
        for name, mixture in asked.items()
    ]
    training, nowhere = lm.training, next(lm.parameters()).is_meta
    lm.eval()
    try:
        if not nowhere:
            with torch.no_grad():
                ids = torch.arange(TOKENS).unsqueeze(0) % lm.config.get_text_config().vocab_size
                lm(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    yield
    for name, (args, kwargs, output) in calls.items():
        _compare(lm, name, asked[name].block, args, kwargs, output)
    lm.train(training)


def _compare(lm: Any, name: str, block: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    try:
        with torch.no_grad():
            found = _first(block(*args, **kwargs))
    except (TypeError, AttributeError, AssertionError, RuntimeError, ValueError) as error:
        raise _strange(lm, f"{name} cannot be run with another router ({error})") from error
    wanted = _first(output)
    difference = float((found - wanted).abs().max())
    if not difference <= TOLERANCE * float(wanted.abs().max()):
        raise _strange(lm, f"{name} answers otherwise once its router is replaced ({difference})")


def _first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _strange(lm: Any, what: str) -> InputError:
    return InputError(
        f"model of type {lm.config.model_type!r}: {what}, so it does not hold mixtures as this "
        f"version of transformers does elsewhere; known to work: {', '.join(TESTED)}"
    )
