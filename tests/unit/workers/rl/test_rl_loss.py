"""PPO's loss follows its definition, and the clipped step is torch's clipping and Adam."""

from __future__ import annotations

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import nn

from workers.rl.algorithm import means_by_name
from workers.rl.loss import ClippedStep, LossWeights, RunningMeans, divergence, ppo_loss
from workers.rl.signals import SIGNALS, signals

WEIGHTS = LossWeights(clip=0.2, value=0.25, clip_values=False, entropy=0.01, kl=0.0)


def batch(size: int = 16, actions: int = 5) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    old = draw(size, actions)
    taken = torch.randint(0, actions, (size,), generator=generator)
    answer = {
        Columns.ACTION_DIST_INPUTS: (old + 0.5 * draw(size, actions)).requires_grad_(),
        Columns.VF_PREDS: draw(size).requires_grad_(),
    }
    return answer, {
        Columns.ACTIONS: taken,
        Columns.ACTION_DIST_INPUTS: old,
        Columns.ACTION_LOGP: torch.distributions.Categorical(logits=old).log_prob(taken),
        Columns.VF_PREDS: draw(size),
        Postprocessing.ADVANTAGES: draw(size),
        Postprocessing.VALUE_TARGETS: draw(size),
    }


def test_the_loss_is_that_of_the_paper():
    answer, part = batch()
    loss, (_, policy, value, entropy, clipped) = ppo_loss(answer, part, WEIGHTS)
    new = torch.distributions.Categorical(logits=answer[Columns.ACTION_DIST_INPUTS])
    ratio = (new.log_prob(part[Columns.ACTIONS]) - part[Columns.ACTION_LOGP]).exp()
    terms = []
    for r, a in zip(ratio, part[Postprocessing.ADVANTAGES], strict=True):
        terms.append(min(r * a, max(min(r, 1.2), 0.8) * a))
    assert torch.allclose(policy, -torch.stack([torch.as_tensor(t) for t in terms]).mean())
    error = answer[Columns.VF_PREDS] - part[Postprocessing.VALUE_TARGETS]
    assert torch.allclose(value, (error**2).mean())
    assert torch.allclose(entropy, new.entropy().mean())
    assert torch.allclose(loss, policy + 0.25 * value - 0.01 * entropy)
    assert torch.isclose(clipped, ((ratio - 1).abs() > 0.2).float().mean())


def test_a_value_that_moved_too_far_learns_nothing_when_values_are_clipped():
    answer, part = batch(size=2)
    part[Columns.VF_PREDS] = torch.zeros(2)
    part[Postprocessing.VALUE_TARGETS] = torch.tensor([1.0, 1.0])
    answer[Columns.VF_PREDS] = torch.tensor([0.9, 0.1], requires_grad=True)
    clipping = LossWeights(clip=0.2, value=1.0, clip_values=True, entropy=0.0, kl=0.0)
    loss, _ = ppo_loss(answer, part, clipping)
    loss.backward()
    gradient = answer[Columns.VF_PREDS].grad
    assert gradient[0] == 0.0  # already past the clipped one
    assert gradient[1] < 0.0


def test_the_divergence_is_torchs():
    answer, part = batch()
    old = torch.distributions.Categorical(logits=part[Columns.ACTION_DIST_INPUTS])
    new = torch.distributions.Categorical(logits=answer[Columns.ACTION_DIST_INPUTS])
    ours = divergence(part[Columns.ACTION_DIST_INPUTS], answer[Columns.ACTION_DIST_INPUTS])
    assert torch.allclose(ours, torch.distributions.kl_divergence(old, new).mean(), atol=1e-6)


def test_a_clipped_step_is_clipping_followed_by_adam():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    fused = torch.optim.Adam(ours.parameters(), lr=0.1, eps=1e-5, fused=True)
    plain = torch.optim.Adam(theirs.parameters(), lr=0.1, eps=1e-5)
    step, x = ClippedStep(fused, list(ours.parameters()), 0.5), torch.randn(8, 4)
    for scale in (0.01, 10.0, 1.0):
        norm = step((ours(x) * scale).pow(2).sum())
        plain.zero_grad()
        (theirs(x) * scale).pow(2).sum().backward()
        wanted = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        plain.step()
        assert torch.allclose(norm, wanted)
        assert torch.allclose(ours.weight, theirs.weight, atol=1e-5)
    assert step.skipped() == 0.0


def test_dropped_gradients_move_neither_weights_nor_moments_nor_the_norm():
    ours = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.1, fused=True)
    x, dropped = torch.randn(8, 4), []

    def drop():
        for parameter in dropped:
            parameter.grad = None

    step = ClippedStep(optimizer, list(ours.parameters()), 0.5, drop)
    step(ours(x).pow(2).sum())
    dropped.append(ours.weight)
    weight, moments = ours.weight.clone(), optimizer.state[ours.weight]["exp_avg"].clone()
    bias = ours.bias.clone()
    (alone,) = torch.autograd.grad(ours(x).pow(2).sum(), [ours.bias])
    norm = step(ours(x).pow(2).sum())
    assert torch.equal(ours.weight, weight)
    assert torch.equal(optimizer.state[ours.weight]["exp_avg"], moments)
    assert not torch.equal(ours.bias, bias)
    assert torch.allclose(norm, alone.norm())
    dropped.append(ours.bias)
    bias = ours.bias.clone()
    assert step(ours(x).pow(2).sum()) == 0.0
    assert torch.equal(ours.bias, bias)


def test_a_step_that_is_not_a_number_is_left_out_and_counted():
    net = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    step, before = ClippedStep(optimizer, list(net.parameters()), 1.0), net.weight.clone()
    step((net(torch.ones(1, 2)) * float("nan")).sum())
    assert torch.equal(net.weight, before)
    assert step.skipped() == 1.0


def test_hooks_come_between_backward_pass_and_step_and_after_it():
    net, seen = nn.Linear(2, 1), []
    before = net.weight.clone()

    def backward() -> None:
        seen.append(("gradient", net.weight.grad is not None, torch.equal(net.weight, before)))

    def stepped() -> None:
        seen.append(("moved", not torch.equal(net.weight, before)))

    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    step = ClippedStep(optimizer, list(net.parameters()), 1.0, backward, stepped)
    step(net(torch.ones(1, 2)).sum())
    assert seen == [("gradient", True, True), ("moved", True)]


def test_named_losses_are_averaged_over_the_steps_that_had_them():
    means = RunningMeans()
    means.add({"loss/a/0": torch.tensor(1.0, requires_grad=True), "loss/b/0": torch.tensor(5.0)})
    means.add({"loss/a/0": torch.tensor(2.0)})
    assert means.take() == {"loss/a/0": 1.5, "loss/b/0": 5.0}
    assert means.take() == {}


def test_signals_are_the_documented_figures_only():
    assert signals({"loss": 1.0, "skipped": 0.0, "kl": 0.5}) == {"loss": 1.0, "kl": 0.5}
    assert set(SIGNALS) > {"loss", "kl"}


def test_losses_of_several_learners_are_averaged_over_those_that_had_them():
    """A loss may have nothing to learn from in one learner's samples."""
    assert means_by_name([{"a": 1.0}, {"a": 2.0, "b": 4.0}]) == {"a": 1.5, "b": 4.0}
