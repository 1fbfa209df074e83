"""Routers shifted by a few numbers that are learnt at inference, without labels.

Letters: B samples, S positions, N environments, R rows (one of a part, one a window, one an
episode), T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from workers.contract import InputError
from workers.inference.base import Forward, InferencePolicy, Subject, Turn, log_probabilities
from workers.inference.steering import Rule, Select, steered
from workers.moe.selection import Selection


class RouterBias(InferencePolicy):
    """A bias of E numbers for each layer's router, learnt without labels and soon forgotten.

    ``r <- r + delta_l``, delta alone optimised (Adam) by a loss that needs no label (Rewiring
    Experts on the Fly, arXiv 2510.14853). Samples: the mean entropy of the answers, on ``batch``
    of them before they are answered, delta kept for the part. Windows of tokens: the next token of
    the context so far, refitted every ``every`` positions, each window with a delta of its own; a
    position is answered by what lies before it. Agents: consistency of the values,
    ``(V(s) - r - discount * V(s'))^2`` with V(s') held fixed, after each step, each episode with a
    delta of its own.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(InferencePolicy.Config):
        """How delta is learnt."""

        kind: str = "router_bias"
        lr: float = 0.05
        """Of Adam, in logits."""
        steps: int = 5
        """Gradient steps on a batch, or at each refit; after each of an agent's steps one."""
        batch: int = 64
        """Samples that are learnt from and answered together."""
        every: int = 32
        """Positions of a window after which delta is fitted anew."""
        layers: int | None = None
        """Routed layers that have a delta, the last ones; None = all."""

        def __post_init__(self) -> None:
            few = min(self.steps, self.batch, self.every, 1 if self.layers is None else self.layers)
            if self.lr <= 0 or few < 1:
                raise ValueError(
                    "lr must be above 0; steps, batch, every and layers at least 1; got "
                    f"{self.lr}; {self.steps}, {self.batch}, {self.every} and {self.layers}"
                )

    config: RouterBias.Config
    needs_logits = True

    def prepare(self, subject: Subject) -> None:
        super().prepare(subject)
        names = list(subject.layers)
        self._names = names if self.config.layers is None else names[-self.config.layers :]
        self.begin(1)

    def begin(self, rows: int) -> None:
        """All deltas are 0 again."""
        layers = self.subject.layers
        with torch.inference_mode(False):
            self.delta = {
                name: torch.zeros(
                    rows,
                    layers[name].rounds,
                    layers[name].live,
                    device=next(layers[name].parameters()).device,
                    requires_grad=True,
                )
                for name in self._names
            }
            self._adam = torch.optim.Adam(self.delta.values(), lr=self.config.lr)

    def answer(self, forward: Forward, x: Tensor) -> Tensor:
        if self.subject.kind == "tokens":
            return self._windows(forward, x)
        if self.subject.kind == "acts":
            return self._shifted(forward, x)
        return torch.cat([self._samples(forward, part) for part in x.split(self.config.batch)])

    def learn(self, turn: Turn) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            before, after = turn.before.clone(), turn.after.clone()
            rewards, goes_on = turn.rewards.clone(), ~turn.over.clone()
            with torch.no_grad(), self._in_force():
                target = rewards + turn.discount * turn.bootstrap(after) * goes_on
            with self._in_force():
                self._step((turn.value(before) - target).square().sum(), "V(s)")
        ended = turn.over.nonzero().flatten()
        with torch.no_grad():
            for delta in self.delta.values():
                delta[ended] = 0.0
                for name, value in self._adam.state[delta].items():
                    if name != "step":
                        value[ended] = 0.0

    def figures(self) -> dict[str, float]:
        """``delta/<layer>``: the largest shift there, in logits."""
        return {
            f"delta/{name}": float(delta.detach().abs().max()) for name, delta in self.delta.items()
        }

    def _samples(self, forward: Forward, x: Tensor) -> Tensor:
        def entropy(z: Tensor) -> Tensor:
            log_p = log_probabilities(z)
            return -(log_p.exp() * log_p).sum(-1).mean()

        self._fit(forward, x, entropy)
        return self._shifted(forward, x)

    def _windows(self, forward: Forward, x_BS: Tensor) -> Tensor:
        """Each stretch of ``every`` positions by a delta that was fitted to what lies before it."""
        self.begin(len(x_BS))
        answered: list[Tensor] = []
        for start in range(0, x_BS.shape[1], self.config.every):
            if start > 1:
                known_BS = x_BS[:, :start]

                def next_token(z: Tensor, y: Tensor = known_BS[:, 1:]) -> Tensor:
                    log_p = log_probabilities(z[:, :-1])
                    nats_BS = functional.nll_loss(log_p.movedim(-1, 1), y, reduction="none")
                    return nats_BS.mean(1).sum()

                self._fit(forward, known_BS, next_token)
            whole = self._shifted(forward, x_BS[:, : start + self.config.every])
            answered.append(whole[:, start:])
        return torch.cat(answered, 1)

    def _fit(self, forward: Forward, x: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            inputs = x.clone()
            for _ in range(self.config.steps):
                with self._in_force():
                    self._step(loss(forward(inputs)), "outputs")

    def _step(self, loss: Tensor, what: str) -> None:
        deltas = list(self.delta.values())
        found = torch.autograd.grad(loss, deltas, allow_unused=True) if loss.requires_grad else ()
        if all(gradient is None for gradient in found):
            raise InputError(
                f"policy 'router_bias': the {what} that it learns from do not depend on the "
                f"routers of {', '.join(self.delta)}; take a model whose layers they pass (for an "
                "agent: separate = false)"
            )
        for delta, gradient in zip(deltas, found, strict=True):
            delta.grad = gradient
        self._adam.step()

    def _shifted(self, forward: Forward, x: Tensor) -> Tensor:
        with self._in_force():
            return forward(x)

    def _in_force(self) -> AbstractContextManager[None]:
        rules = {name: _shift(d) for name, d in self.delta.items()}
        return steered(self.subject.layers, rules)


def _shift(delta_RCE: Tensor) -> tuple[Rule, ...]:
    """A rule for each of C rounds: logits of a row's tokens, which lie together, plus its delta."""

    def of(delta_RE: Tensor) -> Rule:
        def rule(select: Select, logits_TE: Tensor, allowed_TE: Tensor | None) -> Selection:
            repeat, rest = divmod(len(logits_TE), len(delta_RE))
            assert not rest, (logits_TE.shape, delta_RE.shape)
            shift_TE = delta_RE.repeat_interleave(repeat, 0).to(logits_TE.dtype)
            return select(logits_TE + shift_TE, allowed_TE)

        return rule

    return tuple(of(delta_RE) for delta_RE in delta_RCE.unbind(1))
