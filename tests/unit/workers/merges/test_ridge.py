"""Routers by ridge regression: sums add up, rows solve the equations, domains are told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.unit.workers.merges.models import CLASSES, SHAPE, dense, routed
from workers.contract import InputError, TaskSpec
from workers.merges import Ridge, Scene
from workers.merges.ridge import Sums
from workers.moe.routers.base import RouterContext
from workers.streams import Part, Stream, TaskData


class Bright(Stream):
    """Two domains told apart by which half of the image is bright."""

    input_shape = SHAPE
    outputs = CLASSES

    def tasks(self) -> tuple[TaskSpec, ...]:
        names = ["left", "right"]
        return (TaskSpec(index=0, name="both", domain="both", settings={"domains": names}),)

    def load(self, task: TaskSpec) -> TaskData:
        generator = torch.Generator().manual_seed(4)
        x = 0.1 * torch.rand(80, *SHAPE, generator=generator)
        x[:40, :, :, :2] += 1.0
        x[40:, :, :, 2:] += 1.0
        y = torch.arange(80).remainder(CLASSES)
        domain = torch.arange(2).repeat_interleave(40)
        part = Part(x, y, domain)
        return TaskData.of(train=part, validation=part, test=part, source="bright")


def scene(**changes: Any) -> Scene:
    stream = Bright(Stream.Config(kind="bright"), 0)
    return replace(Scene(stream=stream, domains=(("left",), ("right",)), seed=0), **changes)


def test_sums_of_parts_are_the_sums_of_all() -> None:
    x_TD = torch.randn(90, 7, generator=torch.Generator().manual_seed(1)).double()
    whole, parts = Sums(), [Sums(), Sums()]
    for expert in range(3):
        mine = x_TD[expert * 30 : expert * 30 + 30]
        whole.add(mine, expert, 3)
        for number, some in enumerate(mine.split([11, 19])):
            parts[number].add(some, expert, 3)
    both = Sums(parts[0].gram + parts[1].gram, parts[0].cross + parts[1].cross)
    for one, other in zip(whole.rows(1e-2), both.rows(1e-2), strict=True):
        assert float((one - other).abs().max()) < 1e-10


def test_rows_minimise_the_penalised_squares_up_to_their_scale() -> None:
    generator = torch.Generator().manual_seed(2)
    x_TD = torch.randn(50, 5, generator=generator)
    sums = Sums()
    for expert, mine in enumerate(x_TD.split([20, 30])):
        sums.add(mine + expert, expert, 2)
    full_TD = torch.cat([torch.cat([x_TD[:20], x_TD[20:] + 1]), torch.ones(50, 1)], 1).double()
    y_TE = torch.nn.functional.one_hot(torch.tensor([0] * 20 + [1] * 30)).double()
    root = 0.1 * torch.eye(6).double()  # lam = 0.01
    stacked = torch.cat([full_TD, root]), torch.cat([y_TE, torch.zeros(6, 2).double()])
    w_DE = torch.linalg.lstsq(*stacked).solution
    norm_E = w_DE[:-1].norm(dim=0)
    rows_ED, biases_E = sums.rows(1e-2)
    torch.testing.assert_close(rows_ED, (w_DE[:-1] / norm_E).t())
    torch.testing.assert_close(biases_E, w_DE[-1] / norm_E)


def test_every_domain_is_sent_to_the_model_that_learnt_it() -> None:
    parents = [dense([24], 1), dense([24], 2)]
    model = routed(2, 24, 2, [], last=False)
    merge = Ridge(Ridge.Config())
    merge.check(model, parents)
    merge.fill(model, parents, scene())
    data = scene().stream.data(scene().stream.tasks()[0]).train
    layer = model.head.layers[0]
    logits_TE = layer.router(model.backbone(data.x), RouterContext())
    assert torch.equal(logits_TE.argmax(1), data.domain)
    rows = torch.stack(list(layer.router.rows.values()))
    torch.testing.assert_close(rows.norm(dim=1), torch.full((2,), 10.0))


def test_what_cannot_be_fitted_is_refused() -> None:
    merge, parents = Ridge(Ridge.Config()), [dense([24], 1), dense([24], 2)]
    with pytest.raises(InputError, match="no samples of up"):
        merge.fill(routed(2, 24, 2, [], False), parents, scene(domains=(("left",), ("up",))))
    with pytest.raises(InputError, match="2 models bring 3 experts"):
        merge.check(routed(3, 12, 2, [8], True), [routed(2, 12, 2, [8], True), dense([12, 8])])
    with pytest.raises(ValueError, match="above 0"):
        Ridge.Config(penalty=0.0)
