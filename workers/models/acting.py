"""The contract between a model that acts and the reinforcement-learning room.

Letters: B environments or samples, T steps, A actions, S numbers of recurrent state. ``...`` is
[B], or [B, T] where ``past`` is given.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from workers.models.base import Model
from workers.models.cores import Past


class ActingModel(Model):
    """Policy and value function: a subclass writes its constructor and ``answer``.

    Built from ``(config, observation_shape, actions, seed, layout)``, on every runner and learner
    alike. The rest has defaults for a model without memory that learns values as they are. One with
    memory sets ``state_size``, overrides ``step`` and says so in ``remembers``; one whose critic is a module of its own names
    it in ``not_acting`` and overrides ``forward``, so that runners need not hold it.

    Example::

        class Linear(ActingModel):
            def __init__(self, config, observation_shape, actions, seed, layout=None):
                super().__init__()
                self.config = config
                with seeded(seed):
                    self.both = nn.Linear(math.prod(observation_shape), actions + 1)

            def answer(self, observations, past=None):
                y = self.both(observations.flatten(1))
                return y[:, :-1], y[:, -1]
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"acts"})
    not_acting: ClassVar[tuple[str, ...]] = ()
    """Child modules that choosing an action does not need; copies on runners leave them out."""
    reads_compact: ClassVar[bool] = False
    """Whether it takes observations in the int16 form of ``workers.compact_layout``."""

    state_size: int = 0
    """S: numbers carried from step to step of an episode; 0 = each step stands alone."""

    @classmethod
    def remembers(cls, config: Any) -> bool:
        """Whether a model of this config will carry state, known before one is built."""
        return False

    @property
    def recurrent(self) -> bool:
        """Whether answers depend on earlier steps of the episode."""
        return self.state_size > 0

    def initial_state(self, batch: int) -> Tensor:
        """State before the first step of an episode: zeros [batch, S]."""
        return next(self.parameters()).new_zeros(batch, self.state_size)

    @abstractmethod
    def answer(self, observations: Tensor, past: Past | None = None) -> tuple[Tensor, Tensor]:
        """Logits [..., A], and values [...] in the units that ``scale`` gives.

        ``observations`` [B, *observation_shape] each the first of an episode; with ``past``
        [B, T, *observation_shape].
        """

    def forward(self, observations: Tensor, past: Past | None = None) -> Tensor:
        """Logits [..., A] alone."""
        return self.answer(observations, past)[0]

    def step(self, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One more step of B episodes: logits [B, A] and the state after it [B, S]."""
        logits: Tensor = self(observations)
        return logits, state

    def value(
        self, observations: Tensor, features: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        """Expected discounted return [...], in the units of rewards."""
        return self.answer(observations, past)[1]

    def scale(self, returns: Tensor) -> Tensor:
        """Returns in the units in which ``answer`` gives values."""
        return returns

    def follow(self, mean: Tensor, square: Tensor, rate: float) -> None:
        """Move the units of values towards returns of this mean and mean square; no value may
        change by it."""
