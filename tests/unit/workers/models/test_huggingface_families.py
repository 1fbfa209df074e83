"""Every tested family keeps the same promises: one test each, over all of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.families import FAMILIES, VOCABULARY, WINDOW, settings
from workers.contract import InputError
from workers.edits import AdaptRouter, Grow, RefreshMask, SetPhase
from workers.edits.refresh_mask import Duplicate
from workers.models.huggingface import HuggingFace, loading
from workers.models.huggingface.convention import TESTED
from workers.moe.growth import surgery
from workers.moe.growth.optimizer_state import load_named_state, named_state
from workers.moe.routed import StepContext
from workers.moe.stepping import drop_gradients, stepping
from workers.supervised.precision import lower
from workers.tables import lookup

transformers = pytest.importorskip("transformers")

every_family = pytest.mark.parametrize("family", sorted(FAMILIES))
EDIT = {"id": "e", "stage": "s", "after_interval": 0, "cause": "test", "seed": 5}


def tokens(seed: int = 0, windows: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (windows, WINDOW), generator=generator)


def stock(family: str, folder: Path) -> Path:
    """A folder with a model of the family that the library itself has written."""
    given = settings(family)
    config = transformers.AutoConfig.for_model(given.pop("model_type"), **given)
    torch.manual_seed(1)
    made = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, buffer in made.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.randn(buffer.shape) * 0.01)
    made.save_pretrained(folder / family)
    return folder / family


def load_stock(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, experts_implementation="eager", dtype=torch.float32
    ).eval()


def ours(**config: Any) -> HuggingFace:
    return HuggingFace(HuggingFace.Config(**config), (WINDOW,), VOCABULARY, seed=0)


def trained(model: HuggingFace, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    """Steps of AdamW on random windows, all of domain 0 of two."""
    model.train()
    for step in range(steps):
        x = tokens(1000 * seed + step, windows=2)
        told = StepContext(0.5, ("first", "second"), torch.zeros(2, dtype=torch.int64))
        optimizer.zero_grad(set_to_none=True)
        with stepping(model, told):
            logits = model(x[:, :-1])
            functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten()).backward()
        drop_gradients(model.routed)
        optimizer.step()


def adamw(model: HuggingFace) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.named_parameters(), lr=1e-2, weight_decay=0.1)


def state(model: HuggingFace) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_list_of_known_families_is_the_tested_one() -> None:
    assert set(TESTED) == set(FAMILIES)


@every_family
def test_logits_are_the_stock_model_s(family: str, tmp_path: Path) -> None:
    folder = stock(family, tmp_path)
    model, reference, x = ours(path=str(folder)).eval(), load_stock(folder), tokens()
    with torch.no_grad():
        found, wanted = model(x), reference(x).logits
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@every_family
def test_gradients_are_the_stock_model_s(family: str, tmp_path: Path) -> None:
    folder = stock(family, tmp_path)
    model, reference, x = ours(path=str(folder)).train(), load_stock(folder).train(), tokens()
    functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()).backward()
    wanted_loss = functional.cross_entropy(
        reference(x[:, :-1]).logits.flatten(0, 1), x[:, 1:].flatten()
    )
    wanted_loss.backward()
    checked = 0
    for name, layer in model.routed.items():
        block = reference.get_submodule(name.removeprefix("lm.").removesuffix(".experts"))
        for own, stacked in block.experts.named_parameters(recurse=False):
            mine = {"gate_up_proj": "gate_up", "down_proj": "down"}.get(own, own)
            for number, expert in layer.experts.items():
                gradient = dict(expert.named_parameters()).get(mine, None)
                gradient = getattr(expert, own) if gradient is None else gradient
                if gradient.grad is not None:
                    wanted = stacked.grad[int(number)]
                    torch.testing.assert_close(gradient.grad, wanted, atol=1e-6, rtol=1e-4)
                    checked += 1
    assert checked > 8
    embedding = model.lm.get_input_embeddings().weight.grad
    torch.testing.assert_close(
        embedding, reference.get_input_embeddings().weight.grad, atol=1e-6, rtol=1e-4
    )


@every_family
def test_masked_experts_keep_every_bit(family: str) -> None:
    model = ours(settings=settings(family))
    optimizer = adamw(model)
    trained(model, optimizer, 2, seed=1)  # so that there is momentum
    rows = [[1, 1, 1, 0, 0, 0, 0, 0], [1] * 8]
    mask = RefreshMask(
        **EDIT,
        revision=1,
        version=1,
        domains=("first", "second"),
        masks=dict.fromkeys(model.routed, rows),
    )
    surgery.apply(model, optimizer, mask, None)
    before, moments = state(model), named_state(model, optimizer)
    moments = {name: value.clone() for name, value in moments.items()}
    trained(model, optimizer, 4, seed=2)
    after, later = state(model), named_state(model, optimizer)
    masked = {f"{name}.experts.{number}." for name in model.routed for number in range(3, 8)}
    held = {name for name in before if name.startswith(tuple(masked))}
    assert held
    assert all(torch.equal(before[name], after[name]) for name in held)
    kept = [name for name in moments if name.startswith(tuple(masked))]
    assert kept
    assert all(torch.equal(moments[name], later[name]) for name in kept)
    free = f"{next(iter(model.routed))}.experts.0."
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith(free))


@every_family
def test_frozen_phases_keep_every_bit(family: str) -> None:
    model = ours(settings=settings(family))
    optimizer = adamw(model)
    trained(model, optimizer, 1, seed=1)
    surgery.apply(
        model, optimizer, SetPhase(**EDIT, revision=1, phase="experts", trains=("experts",)), None
    )
    before = state(model)
    trained(model, optimizer, 3, seed=2)
    after = state(model)
    experts = tuple(f"{name}.experts." for name in model.routed)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith(experts) for name in moved)


@every_family
def test_growth_keeps_what_was_there(family: str) -> None:
    model = ours(settings=settings(family))
    optimizer = adamw(model)
    trained(model, optimizer, 2, seed=1)
    before = state(model)
    moments = {name: value.clone() for name, value in named_state(model, optimizer).items()}
    grow = Grow(**EDIT, revision=1, experts=10, initialiser={"kind": "random"})
    report = surgery.apply(model, optimizer, grow, tokens())
    assert {shape.experts for shape in report.after.layers.values()} == {10}
    assert report.probe_change is not None
    assert report.probe_change > 0
    after, later = state(model), named_state(model, optimizer)
    same = {name for name in before if before[name].shape == after[name].shape}
    assert {name.rpartition(".")[2] for name in set(before) - same} <= {
        "offset",
        "anneal",
        "e_score_correction_bias",
    }
    assert all(torch.equal(before[name], after[name]) for name in same)
    assert set(moments) == set(later)
    assert all(torch.equal(moments[name], later[name]) for name in moments)
    trained(model, optimizer, 3, seed=3)
    grown = state(model)
    assert any(not torch.equal(after[n], grown[n]) for n in after if ".experts.9." in n)


@every_family
def test_a_restored_model_goes_on_to_the_same_bits(family: str) -> None:
    """Grown, masked and adapted, then restored into a fresh model of the first shape."""
    given = {"settings": settings(family), "router": adaptive()}
    model = ours(**given)
    optimizer = adamw(model)
    trained(model, optimizer, 1, seed=1)
    grow = Grow(**EDIT, revision=1, experts=10, initialiser={"kind": "clone_noise"})
    surgery.apply(model, optimizer, grow, None)
    surgery.apply(model, optimizer, AdaptRouter(**EDIT, revision=2), None)
    trained(model, optimizer, 2, seed=2)
    arch, saved, moments = surgery.arch(model), state(model), named_state(model, optimizer)
    moments = {name: value.clone() for name, value in moments.items()}
    trained(model, optimizer, 2, seed=4)

    again = ours(**given)
    surgery.ensure_arch(again, arch)
    again.load_state_dict(saved)
    fresh = adamw(again)
    load_named_state(again, fresh, moments)
    trained(again, fresh, 2, seed=4)
    one, other = state(model), state(again)
    assert set(one) == set(other)
    assert not [name for name in one if not torch.equal(one[name], other[name])]


@every_family
def test_in_bfloat16_it_stays_near(family: str) -> None:
    """Lowered as a lane of that precision lowers it, and grown after."""
    model = ours(settings=settings(family)).eval()
    x = tokens()
    with torch.no_grad():
        exact = model(x)
        lower(model)
        assert 0 < float((model(x) - exact).abs().max()) < 0.05
    grow = Grow(**EDIT, revision=1, experts=9, initialiser={"kind": "random"})
    surgery.apply(model, None, grow, None)
    model.train()
    model(x).square().mean().backward()
    for layer in model.routed.values():
        assert layer.expert(8).state_dict().keys() == layer.expert(0).state_dict().keys()
        assert next(layer.expert(8).parameters()).dtype == torch.bfloat16


@every_family
@pytest.mark.parametrize("experts", [8, 10])
def test_an_exported_folder_is_loaded_by_the_library(
    family: str, experts: int, tmp_path: Path
) -> None:
    model = ours(path=str(stock(family, tmp_path)))
    optimizer = adamw(model)
    if experts > 8:
        grow = Grow(**EDIT, revision=1, experts=experts, initialiser={"kind": "random"})
        surgery.apply(model, optimizer, grow, None)
    trained(model, optimizer, 1, seed=1)
    model.export(tmp_path / "exported")
    x = tokens(7)
    with torch.no_grad():
        found, wanted = model.eval()(x), load_stock(tmp_path / "exported")(x).logits
    torch.testing.assert_close(wanted, found, atol=1e-6, rtol=0)
    again = ours(path=str(tmp_path / "exported")).eval()
    assert again.config.experts == experts
    with torch.no_grad():
        assert torch.equal(again(x), found)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"deepseek_v3"}))
def test_copies_of_experts_take_their_owner_s_tokens(family: str) -> None:
    """The edit that duplicates an expert for a domain, which shifts logits of both."""
    model = ours(settings=settings(family)).eval()
    x = tokens()
    with torch.no_grad():
        before = model(x)
    edit = RefreshMask(
        **EDIT,
        revision=1,
        version=1,
        domains=("first", "second"),
        masks={name: [[1] * 9, [1] * 9] for name in model.routed},
        copies={name: [Duplicate(expert=8, parent=2, owner="first")] for name in model.routed},
        exclusive=True,
    )
    surgery.apply(model, None, edit, None)
    assert {layer.live for layer in model.routed.values()} == {9}
    with torch.no_grad():
        assert torch.isfinite(model(x) - before).all()
    model.train()
    told = StepContext(0.0, ("first", "second"), torch.ones(3, dtype=torch.int64))
    with stepping(model, told):
        model(x).sum().backward()
    for layer in model.routed.values():
        _, reached = layer.record.take_reached()
        chosen = layer.record.counters.take_choices(layer.live)
        assert int(chosen[1, 8]) == 0, "a token of the second domain took the first one's copy"
        assert reached is None or not bool(reached[8])


def adaptive() -> Any:
    from workers.moe.routers import ROUTERS

    return lookup(ROUTERS, "adaptive", "router").Config()  # type: ignore[union-attr]


def test_uneven_layers_cannot_be_exported(tmp_path: Path) -> None:
    model = ours(settings=settings("olmoe"))
    first = next(iter(model.routed))
    grow = Grow(**EDIT, revision=1, experts=9, layers=(first,), initialiser={"kind": "random"})
    surgery.apply(model, None, grow, None)
    with pytest.raises(InputError, match="different numbers of experts"):
        model.export(tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_shifted_routers_without_biases_cannot_be_exported(tmp_path: Path) -> None:
    model = ours(settings=settings("olmoe"))
    grow = Grow(**EDIT, revision=1, experts=9, initialiser={"kind": "clone_split"})
    surgery.apply(model, None, grow, None)
    with pytest.raises(InputError, match="without biases has no place for that"):
        model.export(tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_shifts_go_into_biases_where_the_family_has_them(tmp_path: Path) -> None:
    model = ours(settings=settings("gpt_oss")).eval()
    grow = Grow(**EDIT, revision=1, experts=9, initialiser={"kind": "clone_split"})
    surgery.apply(model, None, grow, None)
    model.export(tmp_path / "exported")
    x = tokens()
    with torch.no_grad():
        torch.testing.assert_close(
            load_stock(tmp_path / "exported")(x).logits, model(x), atol=1e-6, rtol=0
        )


def test_routers_are_exported_until_they_adapt(tmp_path: Path) -> None:
    model = ours(settings=settings("olmoe"), router=adaptive()).eval()
    model.export(tmp_path / "linear")
    with torch.no_grad():
        wanted = load_stock(tmp_path / "linear")(tokens()).logits
        torch.testing.assert_close(wanted, model(tokens()), atol=1e-6, rtol=0)
    surgery.apply(model, None, AdaptRouter(**EDIT, revision=1), None)
    with pytest.raises(InputError, match="use router linear"):
        model.export(tmp_path / "adapted")


def test_configs_name_what_they_need() -> None:
    with pytest.raises(ValueError, match="either path, or settings"):
        HuggingFace.Config()
    with pytest.raises(ValueError, match=r"no config\.json"):
        HuggingFace.Config(path="/nowhere")
    with pytest.raises(ValueError, match="at least the model's 8"):
        HuggingFace.Config(settings=settings("olmoe"), experts=4)
    with pytest.raises(ValueError, match="names no number of experts"):
        HuggingFace.Config(settings={"model_type": "llama"})
    assert dataclasses.replace(HuggingFace.Config(settings=settings("olmoe"))).experts == 8


def test_misspelt_settings_are_refused() -> None:
    given = settings("olmoe") | {"num_expert_per_tok": 4}
    with pytest.raises(ValueError, match="it has 'num_experts_per_tok'"):
        HuggingFace.Config(settings=given)


def test_a_folder_without_all_its_weights_is_refused(tmp_path: Path) -> None:
    folder = stock("olmoe", tmp_path)
    with pytest.raises(InputError, match="its files hold no "):
        ours(path=str(folder), settings={"num_hidden_layers": 3})


class Normalising(torch.nn.Module):
    """A router that normalises features before it scores them: logits cannot stand in for them."""

    def __init__(self, router: Any) -> None:
        super().__init__()
        self.weight, self.top_k, self.hidden_dim = router.weight, 2, router.hidden_dim

    def forward(self, x: Tensor) -> Any:
        logits = functional.linear(
            functional.normalize(x.reshape(-1, self.hidden_dim)), self.weight
        )
        weights, index = logits.softmax(-1).topk(self.top_k)
        return logits, weights, index


def test_a_family_that_only_looks_alike_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = loading.stock_model

    def other(*args: Any, **more: Any) -> Any:
        lm: Any = made(*args, **more)
        for block in lm.model.layers:
            block.mlp.gate = Normalising(block.mlp.gate)
        return lm

    monkeypatch.setattr(loading, "stock_model", other)
    with pytest.raises(InputError, match="answers otherwise once its router is replaced"):
        ours(settings=settings("olmoe"))


def test_copies_take_their_parent_s_correction() -> None:
    model = ours(settings=settings("deepseek_v3"))
    (layer,) = model.routed.values()
    layer.selector.router.e_score_correction_bias.copy_(torch.arange(8.0))
    grow = Grow(**EDIT, revision=1, experts=10, initialiser={"kind": "clone_noise"})
    surgery.apply(model, None, grow, None)
    assert layer.selector.router.e_score_correction_bias.tolist() == [*range(8), 0.0, 1.0]
    grow = Grow(**EDIT, revision=2, experts=11, initialiser={"kind": "random"})
    surgery.apply(model, None, grow, None)
    assert float(layer.selector.router.e_score_correction_bias[10]) == pytest.approx(2.9)


def test_groups_of_experts_bound_growth_and_copies() -> None:
    model = ours(settings=settings("deepseek_v3", n_group=4, topk_group=2))
    (name,) = model.routed
    grow = Grow(**EDIT, revision=1, experts=10, initialiser={"kind": "random"})
    with pytest.raises(InputError, match="ask for a multiple of 4"):
        surgery.apply(model, None, grow, None)
    mask = RefreshMask(
        **EDIT,
        revision=1,
        version=1,
        domains=("first",),
        masks={name: [[1] * 9]},
        copies={name: [Duplicate(expert=8, parent=2, owner="first")]},
    )
    with pytest.raises(InputError, match="ask for a multiple of 4"):
        surgery.apply(model, None, mask, None)


def test_a_folder_that_changed_is_refused(tmp_path: Path) -> None:
    folder = stock("olmoe", tmp_path)
    config = HuggingFace.Config(path=str(folder))
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    with pytest.raises(InputError, match="another model than when the run was planned"):
        HuggingFace(config, (WINDOW,), VOCABULARY, seed=0)


def test_experts_beyond_the_model_s_are_drawn() -> None:
    model = ours(settings=settings("olmoe"), experts=9)
    assert {layer.live for layer in model.routed.values()} == {9}


def test_dense_models_are_refused_with_the_cure() -> None:
    given = settings("olmoe") | {"model_type": "llama", "num_experts": 8}
    with pytest.raises(InputError, match="no part with stacked experts"):
        ours(settings=given)


def test_it_is_estimated_without_memory() -> None:
    from workers.models.estimate import estimate

    config = HuggingFace.Config(settings=settings("qwen3_moe"))
    found = estimate(config, (WINDOW,), VOCABULARY, experts=10)
    model = ours(settings=settings("qwen3_moe"))
    surgery.apply(
        model,
        None,
        Grow(**EDIT, revision=1, experts=10, initialiser={"kind": "random"}),
        None,
    )
    assert found == surgery.shape(model)
