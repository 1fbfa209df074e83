"""RLlib's PPO with growth: updates, edits, task switches and state of runners and learners.

Weights are pushed to the runners by blocking calls that cannot be dropped and cannot be refused
as old; a restarted runner is given the current task again. Knows no checkpoint files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from ray.tune.registry import register_env

from workers.contract import (
    DivergedError,
    EditReport,
    InputError,
    LaneSpec,
    LostError,
    RunError,
    StageSpec,
)
from workers.edits import Edit
from workers.rl.building import build_stream
from workers.rl.environments.base import Episode
from workers.rl.environments.vector_env import spaces
from workers.rl.learner import Figures, GrowableLearner, LearnerState, UpdateSettings
from workers.rl.module import GrowableModule
from workers.rl.rollout import RolloutsToBatch
from workers.rl.runner import BatchEnvRunner, Setting, build_environment
from workers.rl.settings import PPOTraining

ENVIRONMENT = "growstage"
PUSH_TIMEOUT = 120.0
"""Seconds a runner may take to answer; a restarted one compiles its environment first."""


@dataclass(slots=True)
class Update:
    """Result of one update: its environment steps, ended episodes and the learner's metrics."""

    steps: int = 0
    episodes: list[Episode] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


class GrowablePPO(PPO):
    """PPO whose runners and learners follow edits and task switches without a rebuild.

    ``update`` is the one way to train: RLlib's own ``train`` would call ``training_step`` without
    settings.
    """

    # RLlib declares these as optional; in a built Algorithm they are there.
    config: Any
    metrics: Any
    learner_group: Any
    env_runner_group: Any

    setting: Setting | None = None
    """What the runners play."""
    _made_with: UpdateSettings | None = None
    _last = Update()

    # ------------------------------------------------------------ one update

    def update(self, made_with: UpdateSettings) -> Update:
        """One rollout of every runner, and all epochs over it.

        RLlib takes no arguments on the way from ``train`` (which restores lost runners) to
        ``training_step``: they are handed over here alone. An update of 0 steps: no runner
        answered.
        """
        self._made_with, self._last = made_with, Update()
        self.train()
        return self._last

    def training_step(self) -> None:
        """RLlib's hook inside ``update``."""
        assert self._made_with is not None, "train by update(...)"
        sampled: Any = synchronous_parallel_sample(
            worker_set=self.env_runner_group,
            max_env_steps=self.config.total_train_batch_size,
            sample_timeout_s=self.config.sample_timeout_s,
            _uses_new_env_runners=True,
            _return_metrics=True,
        )
        rollouts, results = sampled
        if not rollouts:
            return
        self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        lifetime = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
        learnt = self.learner_group.update(
            episodes=rollouts,
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: lifetime},
            made_with=self._made_with,
            num_epochs=self.config.num_epochs,
            minibatch_size=self.config.minibatch_size,
        )
        self.metrics.aggregate(learnt, key=LEARNER_RESULTS)
        self.push_weights()
        self._last = Update(
            steps=sum(len(rollout) for rollout in rollouts),
            episodes=[episode for rollout in rollouts for episode in rollout.finished],
            metrics=_scalars(self.metrics.peek((LEARNER_RESULTS, DEFAULT_MODULE_ID))),
        )

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Restart lost runners (RLlib) and bring them up to date: weights, architecture, task.

        Returns the numbers of the runners that were restarted.
        """
        restored: list[int] = super().restore_env_runners(env_runner_group)
        if restored:
            self.push_weights(restored)
            if self.setting is not None:
                self.point_at(self.setting, restored)
        return restored

    # ------------------------------------------------------------ runners

    def point_at(self, setting: Setting, runners: list[int] | None = None) -> None:
        """Set the task of runners (of all, where none is named)."""
        self.setting = setting
        self._each_runner(lambda runner: runner.point_at(setting), runners)

    def push_weights(self, runners: list[int] | None = None) -> None:
        """Send runners the learner's weights and architecture; returns when all have them.

        One that does not answer within PUSH_TIMEOUT takes them before its next sample: Ray keeps
        the order of calls.
        """
        state = self.learner_group.get_state(
            components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}", inference_only=True
        )[COMPONENT_LEARNER]
        number = state.pop(WEIGHTS_SEQ_NO)
        remote = self.env_runner_group.num_remote_env_runners() > 0
        weights = state[COMPONENT_RL_MODULE]
        shared = ray.put(weights) if remote else weights

        def take(runner: BatchEnvRunner) -> None:
            # Without a number the state is taken in any case, newer or older.
            received = ray.get(shared) if isinstance(shared, ray.ObjectRef) else shared
            runner.set_state({COMPONENT_RL_MODULE: received})
            runner._weights_seq_no = number

        self._each_runner(take, runners)

    def _each_runner(
        self, call: Callable[[BatchEnvRunner], Any], runners: list[int] | None
    ) -> list[Any]:
        """Answers of the live runners; ``restore_env_runners`` repeats it for restarted ones."""
        group = self.env_runner_group
        answers: list[Any] = group.foreach_env_runner(
            call,
            local_env_runner=runners is None and group.num_remote_env_runners() == 0,
            remote_worker_ids=runners,
            timeout_seconds=PUSH_TIMEOUT,
        )
        return answers

    def align(self) -> None:
        """Prove that all learners hold equal models and all runners act with the same one.

        A runner that died unnoticed was restarted with the config's architecture: it is sent the
        current weights and task. Raises DivergedError where a fingerprint differs after that.
        """
        if self.config.num_learners > 1:
            prints = set(self._each_learner(lambda learner: learner.fingerprint()))
            if len(prints) != 1:
                raise DivergedError(f"learners hold different models: {sorted(prints)}")
        wanted = self.ask(lambda learner: learner.acting_fingerprint())
        behind = self._differing(wanted, None)
        if behind and self.env_runner_group.num_remote_env_runners():
            self.push_weights(behind)
            if self.setting is not None:
                self.point_at(self.setting, behind)
            behind = self._differing(wanted, behind)
        if behind:
            raise DivergedError(
                f"environment runners {behind} act with another model than the learners' {wanted}"
            )

    def _differing(self, wanted: str, runners: list[int] | None) -> list[int]:
        """Indices of runners whose model fingerprint or task differs."""
        answers = self._each_runner(
            lambda runner: (runner.worker_index, runner.fingerprint(), runner.setting), runners
        )
        return [i for i, found, setting in answers if (found, setting) != (wanted, self.setting)]

    # ------------------------------------------------------------ learners

    def begin_stage(self, stage: StageSpec, domains: tuple[str, ...]) -> None:
        """Set the stage of all learners, in a stream of these domains."""
        self._each_learner(lambda learner: learner.begin_stage(stage, domains))

    def take_figures(self) -> Figures:
        """Gate weights, counts and sums over all learners, and mean auxiliary losses by name,
        since the last call."""
        taken = self._each_learner(lambda learner: learner.take_figures())
        gates, counts, sums, _ = taken[0]
        if sums:  # a selector may keep of them what belongs to the model
            self.push_weights()
        return gates, counts, sums, means_by_name([losses for *_, losses in taken])

    def check_revision(self, revision: int) -> None:
        """Raise DivergedError where a learner has not taken exactly the edits up to this one."""
        found = self._each_learner(lambda learner: learner.revision)
        if set(found) != {revision}:
            raise DivergedError(
                f"to be trained at revision {revision} of the model, its learners are at "
                f"{', '.join(map(str, sorted(set(found))))}"
            )

    def apply_edit(self, edit: Edit) -> list[EditReport]:
        """Apply an edit in every learner and send it to every runner; fingerprints must agree."""
        seen = self._each_runner(lambda runner: runner.observe(), None)
        if not seen:
            raise LostError("no environment runner answers: all are dead")
        reports = self._each_learner(lambda learner: learner.apply_edit(edit, seen[0]))
        self.push_weights()
        self.align()
        return reports

    def export(self) -> LearnerState:
        """State of the first learner (all are equal)."""
        exported: LearnerState = self._each_learner(lambda learner: learner.export())[0]
        return exported

    def restore_learners(self, state: LearnerState) -> None:
        """Set every learner, and through them every runner, to an exported state."""
        self._each_learner(lambda learner: learner.restore(state))
        self.push_weights()

    def reseed(self, seed: int) -> None:
        """Seed the minibatch order of learners and the actions of runners."""
        self._each_learner(lambda learner: learner.reseed(seed))
        self._each_runner(lambda runner: runner.reseed(seed), None)

    def ask(self, question: Callable[[GrowableLearner], Any]) -> Any:
        """Call ``question`` on every learner and return the first one's answer.

        For what all learners answer alike. Raises LostError where a learner is gone.
        """
        return self._each_learner(question)[0]

    def _each_learner(self, call: Callable[[GrowableLearner], Any]) -> list[Any]:
        """Answers of all learners. Raises LostError where one is gone, or what one raised."""
        answers = [answer.get() for answer in self.learner_group.foreach_learner(call)]
        for answer in answers:
            if isinstance(answer, RayTaskError) and isinstance(answer.cause, RunError):
                raise answer.cause from answer
            if isinstance(answer, RayTaskError):
                raise RunError(f"a learner failed: {answer}") from answer
            if isinstance(answer, RayError):
                raise LostError(f"a learner is gone: {answer}") from answer
        if len(answers) < max(1, self.config.num_learners):
            raise LostError(f"only {len(answers)} of {self.config.num_learners} learners answer")
        return answers

    def check_learners(self) -> None:
        """Raise LostError where a learner is gone."""
        self._each_learner(lambda learner: None)


def build(lane: LaneSpec, training: PPOTraining.Config) -> GrowablePPO:
    """The Algorithm of a lane: stock PPO with our runner, module and learner.

    Raises InputError where the cluster has too few cores for the processes asked for.
    """
    _check_cores(training)
    register_env(ENVIRONMENT, build_environment)
    stream = build_stream(lane.settings["stream"], lane.seed)
    facts = stream.facts
    observations, actions = spaces(facts.observation_shape, facts.actions)
    runners, learners = max(1, training.num_env_runners), max(1, training.num_learners)
    config = (
        PPOConfig(algo_class=GrowablePPO)
        .framework("torch")
        .api_stack(enable_rl_module_and_learner=True, enable_env_runner_and_connector_v2=True)
        .environment(
            ENVIRONMENT,
            env_config={"stream": lane.settings["stream"], "seed": lane.seed},
            observation_space=observations,
            action_space=actions,
            disable_env_checking=True,
        )
        .env_runners(
            env_runner_cls=BatchEnvRunner,
            num_env_runners=training.num_env_runners,
            num_envs_per_env_runner=training.num_envs // runners,
            rollout_fragment_length=training.rollout,
        )
        .learners(
            num_learners=training.num_learners,
            num_gpus_per_learner=1 if torch.cuda.is_available() else 0,
        )
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=GrowableModule,
                observation_space=observations,
                action_space=actions,
                model_config={
                    "model": lane.settings["model"],
                    "seed": lane.seed,
                    "distributed": learners > 1,
                    "layout": stream.layout,
                },
            )
        )
        .fault_tolerance(restart_failed_env_runners=True, ignore_env_runner_failures=False)
        .debugging(seed=lane.seed, log_level="ERROR")
        .reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=0)
    )
    algorithm: Any = _ppo(config, training, learners, lane).build_algo()
    assert isinstance(algorithm, GrowablePPO)
    return algorithm


def _check_cores(training: PPOTraining.Config) -> None:
    """Raise InputError where RLlib would wait for ever for cores the cluster lacks."""
    wanted = training.num_env_runners + training.num_learners
    if not wanted:
        return
    if not ray.is_initialized():
        ray.init()
    present = ray.cluster_resources().get("CPU", 0.0)
    if wanted > present:
        raise InputError(
            f"training.num_env_runners + training.num_learners = {wanted} processes take a core "
            f"each, the cluster has {present:g}; lower them or add nodes"
        )


def _ppo(
    config: PPOConfig, training: PPOTraining.Config, learners: int, lane: LaneSpec
) -> PPOConfig:
    """PPO's hyperparameters, learner class and learner pipeline."""

    def to_batch(observations: Any, actions: Any) -> RolloutsToBatch:
        return RolloutsToBatch(
            observations,
            actions,
            gamma=training.gamma,
            gae_lambda=training.gae_lambda,
            normalise=training.advantages == "batch",
        )

    config.learners(
        learner_class=GrowableLearner,
        learner_connector=to_batch,
        add_default_connectors_to_learner_pipeline=False,
        learner_config_dict={
            "clip_values": training.clip_values,
            "normalise_each_minibatch": training.advantages == "minibatch",
            "value_rate": training.value_rate,
            "method": lane.settings["method"],
            "seed": lane.seed,
        },
    )
    return config.training(
        train_batch_size_per_learner=training.batch // learners,
        minibatch_size=training.batch // (training.minibatches * learners),
        num_epochs=training.epochs,
        lr=training.lr,
        gamma=training.gamma,
        lambda_=training.gae_lambda,
        clip_param=training.clip,
        # Kept on at weight 0 as well: the divergence is reported.
        use_kl_loss=True,
        kl_coeff=training.kl_coefficient,
        kl_target=training.kl_target,
        entropy_coeff=training.entropy,
        vf_loss_coeff=training.vf / 2,
        vf_clip_param=float("inf"),
        grad_clip=training.grad_clip,
        grad_clip_by="global_norm",
    )


def means_by_name(named: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each scalar over those that have one of its name."""
    values: dict[str, list[float]] = defaultdict(list)
    for one in named:
        for name, value in one.items():
            values[name].append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def _scalars(named: Any) -> dict[str, float]:
    return {name: float(value) for name, value in named.items() if not isinstance(value, dict)}
