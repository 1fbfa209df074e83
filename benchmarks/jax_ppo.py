"""PPO wholly in JAX: the peer of ``bench_craftax.py`` and ``study_craftax.py``.

Rollout, advantages and all minibatches of one update are one compiled program. Settings, networks
and the reset of ended environments ("optimistic": a few new worlds a step, shared by all that
ended) are those of the published Craftax baselines; the code is written for this benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One PPO configuration; the same numbers are given to every variant."""

    environment: str
    layer: int = 512
    envs: int = 64
    rollout: int = 128
    epochs: int = 4
    minibatches: int = 8
    lr: float = 2e-4
    gamma: float = 0.99
    gae_lambda: float = 0.8
    clip: float = 0.2
    entropy: float = 0.01
    value: float = 0.5
    grad_clip: float = 1.0
    reset_ratio: int = 16
    """Environments that share one new world a step at most."""


def initial(settings: Settings, seed: int) -> tuple[Any, Any]:
    """Environment and the state of training: parameters, Adam's moments, worlds, key."""
    from workers.rl.environments.craftax.engine import shared_environment

    environment = shared_environment(settings.environment)
    inputs = int(np.prod(environment.observation_space(environment.default_params).shape))
    key = jax.random.PRNGKey(seed)
    key, *keys = jax.random.split(key, 4)
    parameters = {
        "actor": _network(keys[0], inputs, settings.layer, int(environment.num_actions), 0.01),
        "critic": _network(keys[1], inputs, settings.layer, 1, 1.0),
    }
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    worlds = jax.jit(jax.vmap(environment.reset_env, in_axes=(0, None)))
    observations, states = worlds(
        jax.random.split(keys[2], settings.envs), environment.default_params
    )
    training = {
        "parameters": parameters,
        "moments": (zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros((), jnp.int32)),
        "observations": observations,
        "states": states,
        "returns": jnp.zeros(settings.envs),
        "key": key,
    }
    return environment, training


def make_update(environment: Any, settings: Settings) -> Any:
    """The compiled program: training state -> training state, (sum of returns, episodes)."""
    s = settings
    batch = s.envs * s.rollout
    advantage, loss = partial(_advantage, s), partial(_loss, s)

    def act(carry: Any, _: Any) -> Any:
        parameters, observations, states, returns, key = carry
        key, action_key, step_key = jax.random.split(key, 3)
        logits = _forward(parameters["actor"], observations)
        values = _forward(parameters["critic"], observations)[:, 0]
        actions = jax.random.categorical(action_key, logits)
        chances = jnp.take_along_axis(jax.nn.log_softmax(logits), actions[:, None], 1)[:, 0]
        after, states, rewards, done = _world_step(environment, s, step_key, states, actions)
        returns = returns + rewards
        ended = jnp.where(done, returns, 0.0).sum(), done.sum()
        kept = (observations, actions, chances, values, rewards, done)
        return (parameters, after, states, jnp.where(done, 0.0, returns), key), (kept, ended)

    def learn(carry: Any, part: Any) -> Any:
        parameters, moments = carry
        gradients = jax.grad(loss)(parameters, part)
        return _adam(parameters, gradients, moments, s), None

    def epoch(carry: Any, key: Any) -> Any:
        learner, columns = carry
        order = jax.random.permutation(key, batch)
        parts = jax.tree.map(
            lambda x: x[order].reshape((s.minibatches, batch // s.minibatches, *x.shape[1:])),
            columns,
        )
        learner, _ = jax.lax.scan(learn, learner, parts)
        return (learner, columns), None

    def update(training: Any) -> Any:
        key, act_key, learn_key = jax.random.split(training["key"], 3)
        carry = (
            training["parameters"],
            training["observations"],
            training["states"],
            training["returns"],
            act_key,
        )
        (parameters, observations, states, returns, _), (kept, ended) = jax.lax.scan(
            act, carry, None, s.rollout
        )
        seen, actions, chances, values, rewards, done = kept
        last = _forward(parameters["critic"], observations)[:, 0]
        steps = (values, rewards, done.astype(jnp.float32))
        _, gained = jax.lax.scan(advantage, (jnp.zeros(s.envs), last), steps, reverse=True)
        columns = (seen, actions, chances, values, gained, gained + values)
        flat = jax.tree.map(lambda x: x.reshape((batch, *x.shape[2:])), columns)
        learner = (parameters, training["moments"])
        (learner, _), _ = jax.lax.scan(
            epoch, (learner, flat), jax.random.split(learn_key, s.epochs)
        )
        after = {
            "parameters": learner[0],
            "moments": learner[1],
            "observations": observations,
            "states": states,
            "returns": returns,
            "key": key,
        }
        return after, jax.tree.map(jnp.sum, ended)

    return jax.jit(update, donate_argnums=0)


def _world_step(environment: Any, s: Settings, key: Any, states: Any, actions: Any) -> Any:
    """One step of all environments; those that ended begin anew (optimistic resets)."""
    params, worlds = environment.default_params, max(1, s.envs // s.reset_ratio)
    step_key, reset_key, pick_key = jax.random.split(key, 3)
    keys = jax.random.split(step_key, s.envs)
    observations, states, rewards, done, _ = jax.vmap(
        environment.step_env, in_axes=(0, 0, 0, None)
    )(keys, states, actions, params)
    fresh = jax.vmap(environment.reset_env, in_axes=(0, None))(
        jax.random.split(reset_key, worlds), params
    )
    # Ended environments take the new worlds in turn, from a random one on.
    turn = jnp.cumsum(done) - 1 + jax.random.randint(pick_key, (), 0, worlds)
    chosen = turn % worlds

    def mixed(new: Any, old: Any) -> Any:
        wide = done.reshape((-1,) + (1,) * (old.ndim - 1))
        return jnp.where(wide, new[chosen], old)

    observations, states = jax.tree.map(mixed, fresh, (observations, states))
    return observations, states, rewards, done


def _advantage(s: Settings, carry: Any, step: Any) -> Any:
    """One step of generalised advantage estimation, backwards in time."""
    running, after = carry
    value, reward, done = step
    going = 1.0 - done
    delta = reward + s.gamma * after * going - value
    running = delta + s.gamma * s.gae_lambda * going * running
    return (running, value), running


def _loss(s: Settings, parameters: Any, part: Any) -> Any:
    """PPO's loss on one minibatch."""
    observations, actions, old_chances, old_values, advantages, targets = part
    log = jax.nn.log_softmax(_forward(parameters["actor"], observations))
    ratio = jnp.exp(jnp.take_along_axis(log, actions[:, None], 1)[:, 0] - old_chances)
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    clipped = jnp.clip(ratio, 1.0 - s.clip, 1.0 + s.clip)
    policy = -jnp.minimum(ratio * advantages, clipped * advantages).mean()
    values = _forward(parameters["critic"], observations)[:, 0]
    near = old_values + jnp.clip(values - old_values, -s.clip, s.clip)
    value = jnp.maximum((values - targets) ** 2, (near - targets) ** 2).mean()
    entropy = -(jnp.exp(log) * log).sum(-1).mean()
    return policy + 0.5 * s.value * value - s.entropy * entropy


def _network(key: Any, inputs: int, layer: int, outputs: int, last: float) -> list[Any]:
    sizes = [inputs, layer, layer, layer, outputs]
    gains = [2**0.5] * 3 + [last]
    keys = jax.random.split(key, 4)
    draws = [jax.nn.initializers.orthogonal(gain) for gain in gains]
    return [
        (draw(k, (a, b)), jnp.zeros(b))
        for draw, k, a, b in zip(draws, keys, sizes[:-1], sizes[1:], strict=True)
    ]


def _forward(layers: list[Any], x: Any) -> Any:
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def _adam(parameters: Any, gradients: Any, moments: Any, s: Settings) -> Any:
    """Adam with a bound on the global norm of the gradient."""
    norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradients)))
    factor = jnp.minimum(1.0, s.grad_clip / norm)
    first, second, count = moments
    count = count + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * factor * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * (factor * g) ** 2, second, gradients)
    one, two = 1.0 - 0.9**count, 1.0 - 0.999**count
    parameters = jax.tree.map(
        lambda p, m, v: p - s.lr * (m / one) / (jnp.sqrt(v / two) + 1e-5),
        parameters,
        first,
        second,
    )
    return parameters, (first, second, count)
