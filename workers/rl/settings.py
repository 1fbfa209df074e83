"""Settings of proximal policy optimisation for a lane; knows no Ray and no environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from workers.contract import LaneSettings
from workers.diagnostics import CHEAP, refuse_unknown
from workers.tables import Problem, lookup


class PPOTraining:
    """Proximal policy optimisation on environments in parallel (arXiv 1707.06347), by RLlib."""

    trainer: ClassVar[str] = "rl"
    validation_setting: ClassVar[str] = "training.validation_episodes"
    """Key of a stream file that gives the tasks a validation part."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Step counts are environment steps summed over all environments."""

        kind: str = "ppo"
        num_envs: int = 64
        """Environments stepped together, over all environment runners."""
        rollout: int = 64
        """Steps of each environment between two updates."""
        steps_per_stage: int = 1_000_000
        """Environment steps of one stage; a multiple of intervals * num_envs * rollout."""
        intervals: int = 1
        """Intervals a stage is split into; between two of them the model may be edited."""
        epochs: int = 4
        """Passes over a rollout at each update."""
        minibatches: int = 8
        """Minibatches a rollout is split into at each pass."""
        lr: float = 2e-4
        """Learning rate of Adam."""
        lr_end: float | None = None
        """Learning rate at the end of a stage, which is approached linearly; None = constant."""
        gamma: float = 0.99
        """Discount of rewards."""
        gae_lambda: float = 0.8
        """Decay of generalised advantage estimation (arXiv 1506.02438)."""
        clip: float = 0.2
        """The probability ratio is clipped to 1 plus or minus this."""
        kl_coefficient: float = 0.0
        """First weight of the penalty on the divergence from the old policy; 0 = no penalty."""
        kl_target: float = 0.01
        """Divergence the penalty's weight is steered towards."""
        entropy: float = 0.01
        """Weight of the entropy bonus."""
        vf: float = 0.5
        """Weight of the value loss, which is half the squared error."""
        clip_values: bool = False
        """The value loss is that of the worse of the new value and the old one moved by at most
        ``clip`` (as in the Craftax baselines, arXiv 2402.16801)."""
        advantages: str = "batch"
        """What advantages are normalised over: the whole batch, or each minibatch."""
        value_rate: float = 0.1
        """How fast the scale of values follows a batch, for models that normalise values."""
        grad_clip: float = 1.0
        """Largest global gradient norm."""
        num_env_runners: int = 0
        """Environment runner processes; 0 = in the worker itself."""
        num_learners: int = 0
        """Learner processes; 0 = in the worker itself."""
        eval_envs: int | None = None
        """Environments an evaluation steps together; as many as a runner has where absent, which
        saves a compilation."""
        eval_episodes: int | None = None
        """Episodes scored per task as its test part, each the first of its environment; those that
        ``validation_episodes`` leaves where absent."""
        validation_episodes: int | None = None
        """Episodes scored per task as its validation part, in the environments after those of the
        test part: played along with them. A quarter of the environments where absent, 0 = none."""
        eval_max_steps: int = 1000
        """An episode still running after this many steps is scored as it stands."""
        diagnostics: tuple[Any, ...] = (CHEAP,)
        """What evaluations measure beside scores: names of DIAGNOSTICS, ``module:Class``, tables
        with ``kind``, ``"cheap"`` for all that cost little and ``"all"``."""

        def __post_init__(self) -> None:
            positive = (
                "num_envs", "rollout", "steps_per_stage", "intervals", "epochs", "minibatches",
                "eval_max_steps", "lr", "grad_clip", "clip",
            )  # fmt: skip
            for name in positive:
                if getattr(self, name) <= 0:
                    raise ValueError(f"{name} = {getattr(self, name)} must be positive")
            for name, least in (("num_env_runners", 0), ("num_learners", 0), ("eval_envs", 1)):
                value = getattr(self, name)
                if value is not None and value < least:
                    raise ValueError(f"{name} = {value} must be at least {least}")
            if self.advantages not in ("batch", "minibatch"):
                raise ValueError(f"advantages = {self.advantages!r} must be batch or minibatch")
            if self.lr_end is not None and not 0.0 <= self.lr_end <= self.lr:
                raise ValueError(f"lr_end = {self.lr_end} must be between 0 and lr = {self.lr}")
            for name in ("gamma", "gae_lambda", "value_rate"):
                if not 0.0 <= getattr(self, name) <= 1.0:
                    raise ValueError(f"{name} = {getattr(self, name)} must be between 0 and 1")
            batch = self.batch
            if self.steps_per_stage % (self.intervals * batch):
                raise ValueError(
                    f"steps_per_stage = {self.steps_per_stage} must be a multiple of intervals * "
                    f"num_envs * rollout = {self.intervals * batch}"
                )
            learners = max(1, self.num_learners)
            if batch % (self.minibatches * learners):
                raise ValueError(
                    f"num_envs * rollout = {batch} must be a multiple of minibatches * learners "
                    f"= {self.minibatches * learners}"
                )
            if self.num_envs % max(1, self.num_env_runners) or self.num_envs % learners:
                raise ValueError(
                    f"num_envs = {self.num_envs} must be a multiple of num_env_runners "
                    f"({self.num_env_runners}) and of num_learners ({self.num_learners})"
                )

            if self.validated < 0 or not 0 < self.test_episodes <= self.evaluated - self.validated:
                raise ValueError(
                    f"eval_episodes = {self.eval_episodes} with validation_episodes = "
                    f"{self.validation_episodes}: there must be at least 1 test episode, and both "
                    "together at most the number of environments evaluated together, "
                    f"{self.evaluated} (eval_envs)"
                )
            refuse_unknown(self.diagnostics)

        @property
        def helpers(self) -> int:
            """Processes of one core each that a worker starts beside it."""
            return self.num_env_runners + self.num_learners

        def validates(self, stream: Any) -> bool:
            """Whether every task of the stream has a validation part."""
            return self.validated > 0

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """What of it does not fit the lane's model: sequences of a recurrent one stay whole."""
            parts = self.minibatches * max(1, self.num_learners)
            if not _recurrent(lane.sections["model"]) or self.num_envs % parts == 0:
                return []
            return [
                Problem(
                    "minibatches",
                    f"{self.minibatches} with num_envs = {self.num_envs}, num_learners = "
                    f"{self.num_learners} and a recurrent model",
                    "minibatches of a recurrent model hold whole sequences: num_envs must be a "
                    f"multiple of minibatches * learners = {parts}",
                )
            ]

        @property
        def evaluated(self) -> int:
            """Environments an evaluation steps together."""
            return self.eval_envs or self.num_envs // max(1, self.num_env_runners)

        @property
        def test_episodes(self) -> int:
            """Episodes of a task's test part."""
            if self.eval_episodes is None:
                return self.evaluated - self.validated
            return self.eval_episodes

        @property
        def validated(self) -> int:
            """Episodes of a task's validation part."""
            if self.validation_episodes is not None:
                return self.validation_episodes
            return min(self.evaluated // 4, self.evaluated - (self.eval_episodes or 0))

        @property
        def batch(self) -> int:
            """Environment steps of one update."""
            return self.num_envs * self.rollout

        def lr_at(self, share: float) -> float:
            """Learning rate when this share of the stage (0 to 1) is done."""
            if self.lr_end is None:
                return self.lr
            return self.lr + (self.lr_end - self.lr) * min(share, 1.0)

        @property
        def updates_per_interval(self) -> int:
            """Updates of one interval."""
            return self.steps_per_stage // (self.intervals * self.batch)


def _recurrent(model: Any) -> bool:
    """Whether the model of this config carries state from step to step."""
    from workers.models import MODELS, ActingModel

    found = lookup(MODELS, model.kind, "model.kind")
    return (
        not isinstance(found, Problem) and issubclass(found, ActingModel) and found.remembers(model)
    )
