"""Routers fitted by clusters: every cluster gets the best expert that is left."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.moe.routers.parts import check_growth_and_restoring, layer
from workers.moe.routers import KMeansRouter, RouterContext
from workers.moe.routers.kmeans_lstsq import assigned, kmeans

CONFIG = KMeansRouter.Config()
CENTRES = 4.0 * torch.eye(5)[:3]


def clusters() -> tuple[torch.Tensor, torch.Tensor]:
    """Three clusters of 9, 7 and 5 inputs."""
    of = torch.tensor([0] * 9 + [1] * 7 + [2] * 5)
    return CENTRES[of] + 0.05 * torch.randn(21, 5), of


def costs(of: torch.Tensor, best: list[int]) -> torch.Tensor:
    """Expert ``best[c]`` costs little in cluster c, with outliers that a mean would believe."""
    cost = 1.0 + torch.rand(len(of), 3)
    cost[torch.arange(len(of)), torch.tensor(best)[of]] = 0.1
    for cluster in range(3):
        first = int((of == cluster).nonzero()[0])
        cost[first, best[cluster]] = 1000.0
    return cost


def test_each_cluster_goes_to_the_expert_that_serves_it() -> None:
    x, of = clusters()
    for best in ([0, 1, 2], [2, 0, 1]):
        router = layer(CONFIG).router
        router.fit(x, costs(of, best), 3)
        logits = router(x, RouterContext())
        assert logits.argmax(1).tolist() == [best[c] for c in of.tolist()]


def test_the_rows_solve_the_least_squares_of_the_centres() -> None:
    x, of = clusters()
    router = layer(KMeansRouter.Config(noise=0.0, temperature=0.5)).router
    router.fit(x, costs(of, [1, 2, 0]), 3)
    centres = torch.stack([x[of == c].double().mean(0) for c in range(3)])
    read = torch.cat([centres, torch.ones(3, 1, dtype=torch.float64)], 1)
    wanted = torch.eye(3, dtype=torch.float64)[[1, 2, 0]]
    weights = torch.linalg.pinv(read) @ wanted / 0.5
    rows, biases = (
        torch.stack(list(router.rows.values())),
        torch.stack(list(router.biases.values())),
    )
    torch.testing.assert_close(rows.double().T, weights[:-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(biases.double(), weights[-1], rtol=1e-4, atol=1e-5)


def test_an_expert_is_taken_once_and_the_largest_cluster_chooses_first() -> None:
    of = torch.tensor([0, 1, 1, 1, 2, 2])
    cost = torch.tensor([[0.1, 0.5, 0.9]]).repeat(6, 1).double()  # all like expert 0 best
    assert assigned(cost, of, 3).tolist() == [2, 0, 1]


def test_clusters_are_found_and_emptiness_is_noticed() -> None:
    x, of = clusters()
    centres, found = kmeans(x.double(), 3, 20, 1e-4, torch.Generator().manual_seed(1))
    for c in range(3):
        assert len(found[of == c].unique()) == 1
        torch.testing.assert_close(centres[found[of == c][0]], x[of == c].double().mean(0))
    generator = torch.Generator().manual_seed(1)
    assert kmeans(torch.ones(8, 2).double(), 3, 20, 1e-4, generator) is None
    assert kmeans(torch.randn(2, 2).double(), 3, 20, 1e-4, generator) is None


def test_an_empty_cluster_leaves_the_router_as_it_is_and_seeds_decide() -> None:
    router = layer(CONFIG).router
    before = {name: row.clone() for name, row in router.named_parameters()}
    router.fit(torch.ones(8, 5), torch.rand(8, 3), 0)
    assert all(torch.equal(before[name], row) for name, row in router.named_parameters())
    x, of = clusters()
    one, two = layer(CONFIG).router, layer(CONFIG).router
    for each in (one, two):
        torch.manual_seed(id(each) % 1000)
        each.fit(x, costs(of, [0, 1, 2]), 3)
    assert all(torch.equal(one.rows[e], two.rows[e]) for e in one.rows)


def test_it_learns_by_gradients_between_fits_and_grows() -> None:
    made = layer(CONFIG).train()
    made(torch.randn(4, 5)).sum().backward()
    assert all(row.grad is not None for row in made.router.rows.values())
    check_growth_and_restoring(lambda: layer(CONFIG), torch.randn(4, 5))


def test_impossible_settings() -> None:
    for settings in ({"clusters": 1}, {"iterations": 0}, {"temperature": 0.0}, {"noise": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            KMeansRouter.Config(**settings)
