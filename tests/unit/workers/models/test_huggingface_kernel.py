"""Our kernels as an experts implementation of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.families import FAMILIES, VOCABULARY, settings
from workers.contract import InputError
from workers.models.huggingface import kernel

transformers = pytest.importorskip("transformers")


def stock(family: str) -> Any:
    given = settings(family)
    config = transformers.AutoConfig.for_model(given.pop("model_type"), **given)
    torch.manual_seed(1)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gpt_oss"}))
def test_it_computes_what_the_library_s_own_code_does(family: str) -> None:
    kernel.register()
    model = stock(family)
    x = torch.randint(0, VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(3))
    found = {}
    for name in ("eager", kernel.NAME):
        model.set_experts_implementation(name)
        model.zero_grad()
        loss = model(x, labels=x).loss
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found[name] = loss.detach(), gradients
    (wanted, theirs), (loss, ours) = found["eager"], found[kernel.NAME]
    torch.testing.assert_close(loss, wanted, atol=1e-6, rtol=1e-6)
    assert set(ours) == set(theirs)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=1e-4)


def test_other_forms_of_experts_are_refused() -> None:
    kernel.register()
    model = stock("gpt_oss")
    model.set_experts_implementation(kernel.NAME)
    with pytest.raises(InputError, match="for gated experts without biases"):
        model(torch.zeros(1, 4, dtype=torch.int64))
