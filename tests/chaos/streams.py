"""What is disturbed: small lanes of every kind, and a search over one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stream:
    """What is disturbed: three stages of six intervals, and an expert more at each."""

    file: str
    exact: bool = True
    """Whether a lane that is killed and resumed ends with the same bits; one of agents begins new
    episodes and has only the same edits and steps."""
    searched: bool = False
    """Whether it is the base of a search, whose trials have the stages in common in which they do
    the same."""


_TOP = """
name = "chaos"
checkpoint_every = 3
[policies.growth]
kind = "periodic"
"""
_SEARCHED = """
name = "chaos"
"""
_DIGITS = """
[stream]
kind = "permuted"
dataset = "digits"
tasks = 3
[model]
head = { kind = "moe", hidden = [24] }
[training]
epochs = 12
intervals = 6
optimizer = { kind = "adamw", lr = 2e-3 }
"""
_TEXTS = """
[stream]
kind = "text"
path = "TEXTS"
domains = ["cooking", "sailing", "bridges"]
window = 16
train_tokens = 1_600
validation_tokens = 160
test_tokens = 320
tokenizer = { kind = "bpe", vocabulary = 300 }
[model]
kind = "decoder"
width = 16
depth = 2
heads = 2
[training]
epochs = 6
intervals = 6
batch = 10
optimizer = { kind = "adamw", lr = 1e-2 }
[[lanes]]
"""
_AGENT = """
[stream]
kind = "craftax"
environment = "Craftax-Classic-Symbolic-v1"
tasks = [
    { name = "wood", achievements = ["collect_wood"] },
    { name = "water", achievements = ["collect_drink"] },
    { name = "all" },
]
[model]
kind = "actor_critic"
encoder = 16
hidden = [16]
layer = { selector = { kind = "topk", k = 1, weights = "full" } }
[training]
kind = "ppo"
num_envs = 8
rollout = 16
minibatches = 4
steps_per_stage = 768
intervals = 6
eval_episodes = 4
eval_max_steps = 20
[[lanes]]
"""
_REPLAY = """
[[lanes]]
method = { kind = "replay", buffer = 100 }
"""
STREAMS: dict[str, Stream] = {
    "digits": Stream(_TOP + _DIGITS + _REPLAY),
    "two workers": Stream(_TOP + _DIGITS + "[[lanes]]\nworkers = 2\n"),
    "texts": Stream(_TOP + _TEXTS),
    "agent": Stream(_TOP + _AGENT, exact=False),
    "search": Stream(_SEARCHED + _DIGITS + _REPLAY, searched=True),
}
"""By name."""
