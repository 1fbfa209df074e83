"""Stock RLlib on Craftax, as a peer to measure against: its own runner, connectors and learner.

Either on our vector environment, or with one gymnasium environment per world, which is what one
would write first. Knows nothing of growth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def stock(args: Any, *, vectorised: bool) -> Callable[[], int]:
    """One iteration a call, which returns its environment steps; ``args`` as in bench_craftax."""
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune.registry import register_env

    from workers.rl import ENVIRONMENTS
    from workers.rl.environments.vector_env import VectorEnvironment

    def create(context: Any) -> Any:
        if not vectorised:
            return single(args.env)
        return VectorEnvironment(
            ENVIRONMENTS[args.env].build(context["num_envs"], engine=args.engine)
        )

    register_env("bench", create)
    settings = PPOConfig().environment("bench", disable_env_checking=True)
    mode = "vector_entry_point" if vectorised else "sync"
    settings.env_runners(
        num_env_runners=0,
        num_envs_per_env_runner=args.envs,
        rollout_fragment_length=args.rollout,
        gym_env_vectorize_mode=mode,
    )
    settings.rl_module(
        model_config=DefaultModelConfig(
            fcnet_hiddens=[args.layer] * 3, fcnet_activation="tanh", vf_share_layers=False
        )
    )
    settings.training(
        train_batch_size_per_learner=args.envs * args.rollout,
        minibatch_size=args.envs * args.rollout // 8,
        num_epochs=4,
        lr=2e-4,
        gamma=0.99,
        lambda_=0.8,
        entropy_coeff=0.01,
        vf_loss_coeff=0.25,
        clip_param=0.2,
        vf_clip_param=float("inf"),
        use_kl_loss=False,
        grad_clip=1.0,
    )
    algorithm: Any = settings.debugging(log_level="ERROR", seed=args.seed).build_algo()
    before = [0]

    def step() -> int:
        algorithm.train()
        from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

        total = int(algorithm.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)))
        done, before[0] = total - before[0], total
        return done

    return step


def single(name: str) -> Any:
    """One Craftax world as a gymnasium environment, compiled step by step."""
    import gymnasium as gym
    import numpy as np

    from workers.rl.environments.craftax.engine import prepare_jax, shared_environment

    jax, environment = prepare_jax(), shared_environment(name)
    params = environment.default_params

    class Single(gym.Env[Any, Any]):
        """The wrapper one would write first."""

        observation_space = gym.spaces.Box(
            -np.inf, np.inf, environment.observation_space(params).shape, np.float32
        )
        action_space = gym.spaces.Discrete(int(environment.num_actions))
        key = jax.random.PRNGKey(0)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.key, key = jax.random.split(self.key if seed is None else jax.random.key(seed))
            observation, self.world = environment.reset(key, params)
            return np.asarray(observation, np.float32), {}

        def step(self, action: Any) -> Any:
            self.key, key = jax.random.split(self.key)
            seen, self.world, reward, done, _ = environment.step(
                key, self.world, int(action), params
            )
            return np.asarray(seen, np.float32), float(reward), bool(done), False, {}

    return Single()
