"""Every entry of the model room's tables builds from its default config and passes the door."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from tests.families import VOCABULARY, WINDOW, settings
from workers import models, moe
from workers.contract import InputError
from workers.models.classifier import Classifier
from workers.moe.growth.schedules import SCHEDULES, Place
from workers.parsing import checked
from workers.tables import construct, first_line

TABLES = {
    "backbones": models.BACKBONES,
    "heads": models.HEADS,
    "layers": moe.LAYERS,
    "losses": moe.LOSSES,
    "routers": moe.ROUTERS,
    "selectors": moe.SELECTORS,
    "experts": moe.EXPERTS,
    "schedules": moe.SCHEDULES,
    "initialisers": moe.INITIALISERS,
    "models": models.MODELS,
}
ENTRIES = [(table, kind) for table, entries in TABLES.items() for kind in entries]
ARGUMENTS = {
    "backbones": ((3, 16, 16), 0),
    "heads": (12, 5),
    "layers": (12, 12),
    "losses": (),
    "routers": (12,),
    "selectors": (),
    "experts": (12, 30, 4),
    "schedules": (),
    "initialisers": (),
    "models": ((32, 32, 3), 5, 0),
}
TOKENS = ((WINDOW,), VOCABULARY, 0)
"""Arguments of models that read tokens."""
NEEDED = {"huggingface": {"settings": settings("olmoe")}}
"""What a kind cannot do without."""


@pytest.mark.parametrize(("table", "kind"), ENTRIES)
def test_entry_builds_from_its_default_config(table: str, kind: str) -> None:
    cls = TABLES[table][kind]
    config = cls.Config(**NEEDED.get(kind, {}))
    assert config.kind == kind
    assert first_line(cls).endswith(".")
    reads_tokens = "tokens" in getattr(cls, "capabilities", ())
    built = construct(TABLES[table], config, *(TOKENS if reads_tokens else ARGUMENTS[table]))
    assert isinstance(built, cls)
    found, again = checked(TABLES[table], asdict(config))
    assert (found, again) == (cls, config)


@pytest.mark.parametrize("head", models.HEADS)
@pytest.mark.parametrize("backbone", models.BACKBONES)
def test_classifier_with_every_head_and_backbone(head: str, backbone: str) -> None:
    config = Classifier.Config(
        experts=2,
        max_experts=4,
        head=models.HEADS[head].Config(),
        backbone=models.BACKBONES[backbone].Config(),
    )
    model = Classifier(config, (3, 16, 16), 5, seed=1)
    y = model(torch.ones(2, 3, 16, 16))
    assert y.shape == (2, 5)
    (y.square().sum() + sum(model.auxiliary_losses().values())).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("head", models.HEADS)
def test_parameters_depend_on_the_seed_alone(head: str) -> None:
    config = Classifier.Config(experts=2, head=models.HEADS[head].Config())

    def state(seed: int, noise: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(noise)
        model = Classifier(config, (1, 4, 4), 3, seed)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.manual_seed(noise)))
        return model.state_dict()

    one, same, other = state(1, 10), state(1, 20), state(2, 10)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("constant", [8, 8, 8, 8]),
        ("uniform", [4, 4, 4, 4]),
        ("descending", [8, 6, 3, 1]),
        ("ascending", [1, 3, 6, 8]),
        ("pyramid_up", [1, 6, 6, 1]),
        ("pyramid_down", [8, 3, 3, 8]),
        ("wave_down", [8, 4, 5, 1]),
        ("wave_up", [1, 5, 4, 8]),
    ],
)
def test_schedule_over_four_layers(kind: str, counts: list[int]) -> None:
    schedule = SCHEDULES[kind](SCHEDULES[kind].Config())
    assert [Place(schedule, i, 4).count(8) for i in range(4)] == counts
    for i in range(4):
        grown = [Place(schedule, i, 4).count(n) for n in range(1, 20)]
        assert grown == sorted(grown)
        assert grown[0] == 1
    assert Place(schedule, 0, 1).count(8) >= 1


def test_descending_over_six_layers_and_with_a_minimum() -> None:
    cls = SCHEDULES["descending"]
    assert [Place(cls(cls.Config()), i, 6).count(8) for i in range(6)] == [8, 7, 5, 4, 2, 1]
    assert [Place(cls(cls.Config(minimum=4)), i, 3).count(8) for i in range(3)] == [8, 6, 4]


@pytest.mark.parametrize(
    "build",
    [
        lambda: moe.SELECTORS["topk"].Config(k=0),
        lambda: moe.SELECTORS["dense"].Config(temperature=0.0),
        lambda: moe.LAYERS["moe"].Config(grad_max_k=0),
        lambda: models.HEADS["moe"].Config(hidden=(0,)),
        lambda: moe.LOSSES["balance"].Config(weight=-1.0),
        lambda: moe.EXPERTS["bottleneck"].Config(width=0),
        lambda: moe.EXPERTS["gated"].Config(width=0),
        lambda: moe.INITIALISERS["logit_offset"].Config(steps=0),
        lambda: Classifier.Config(experts=0),
        lambda: Classifier.Config(experts=3, max_experts=2),
    ],
)
def test_impossible_settings_are_refused(build) -> None:
    with pytest.raises(ValueError, match="must"):
        build()


def test_image_too_small_for_the_convolutions() -> None:
    cls = models.BACKBONES["nature_cnn"]
    with pytest.raises(InputError, match=r"\(3, 1, 1\).*use backbone mlp"):
        cls(cls.Config(), (3, 1, 1), 0)
    assert cls(cls.Config(), (3, 64, 64), 0).outputs == 5184
    assert cls(cls.Config(), (3, 32, 32), 0).outputs == 1600
