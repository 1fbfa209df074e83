"""Buffers: which samples of a stream are kept, one by one and in parts, and exact resume."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from workers.methods.buffers import BUFFERS, Buffer

SIZE = 12


def made(kind: str, size: int = SIZE, seed: int = 0) -> Buffer:
    buffer: Buffer = BUFFERS[kind](
        BUFFERS[kind].Config(), size, torch.Generator().manual_seed(seed)
    )
    return buffer


class Kept:
    """Which sample of the whole stream each slot holds."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer, self.slots, self.offered = buffer, {}, 0
        self.slots: dict[int, int] = {}

    def offer(self, labels: list[int], task: int = 0) -> None:
        slots, samples = self.buffer.offer(torch.tensor(labels), task)
        assert len(set(slots.tolist())) == len(slots)
        for slot, sample in zip(slots.tolist(), samples.tolist(), strict=True):
            self.slots[slot] = self.offered + sample
        self.offered += len(labels)

    @property
    def samples(self) -> list[int]:
        return list(self.slots.values())


def skewed(count: int, seed: int = 0) -> list[int]:
    """Labels of which 0 comes most often, 3 hardly ever."""
    chances = torch.tensor([0.7, 0.2, 0.08, 0.02])
    generator = torch.Generator().manual_seed(seed)
    drawn: Tensor = torch.multinomial(chances, count, replacement=True, generator=generator)
    return drawn.tolist()


@pytest.mark.parametrize("kind", BUFFERS)
def test_keeps_distinct_samples_in_slots_without_gaps(kind: str) -> None:
    kept, labels = Kept(made(kind)), skewed(100)
    for task in range(4):
        kept.offer(labels[25 * task : 25 * task + 25], task)
        assert len(set(kept.samples)) == len(kept.samples) <= SIZE
        assert sorted(kept.slots) == list(range(len(kept.slots)))
    assert len(kept.samples) == SIZE


@pytest.mark.parametrize("kind", BUFFERS)
def test_a_stream_in_parts_is_kept_as_in_one(kind: str) -> None:
    whole, parts, labels = Kept(made(kind)), Kept(made(kind)), skewed(90)
    whole.offer(labels)
    for start in range(0, 90, 7):
        parts.offer(labels[start : start + 7])
    assert parts.slots == whole.slots


@pytest.mark.parametrize("kind", BUFFERS)
def test_goes_on_exactly_where_its_state_was_taken(kind: str) -> None:
    straight, labels = Kept(made(kind)), skewed(120)
    straight.offer(labels[:60], 0)
    state, draws = straight.buffer.state(), straight.buffer.generator.get_state()
    resumed = Kept(made(kind, seed=9))
    resumed.buffer.load_state(state)
    resumed.buffer.generator.set_state(draws)
    resumed.slots, resumed.offered = dict(straight.slots), 60
    for kept in (straight, resumed):
        kept.offer(labels[60:], 1)
    assert resumed.slots == straight.slots
    again = resumed.buffer.state()
    assert all(torch.equal(value, again[name]) for name, value in straight.buffer.state().items())


def inclusion(kind: str, labels: list[int], size: int, runs: int) -> list[float]:
    """How often each sample was kept."""
    counts: Counter[int] = Counter()
    for seed in range(runs):
        kept = Kept(made(kind, size, seed))
        kept.offer(labels)
        counts.update(kept.samples)
    return [counts[sample] / runs for sample in range(len(labels))]


def test_the_reservoir_keeps_each_sample_with_the_same_chance() -> None:
    shares = inclusion("reservoir", [0] * 40, 10, 3000)
    deviation = (0.25 * 0.75 / 3000) ** 0.5
    assert max(abs(share - 0.25) for share in shares) < 4.5 * deviation


def test_class_balance_keeps_each_sample_of_a_class_with_the_same_chance() -> None:
    """40 samples of class 0 among 8 of class 1, in 10 slots: all but a few of class 1 stay."""
    labels = ([0] * 5 + [1]) * 8
    shares = inclusion("class_balanced", labels, 10, 3000)
    for label in (0, 1):
        own = [share for share, of in zip(shares, labels, strict=True) if of == label]
        mean = sum(own) / len(own)
        assert mean * len(own) == pytest.approx(5.0, abs=0.05)
        deviation = (mean * (1 - mean) / 3000) ** 0.5
        assert max(abs(share - mean) for share in own) < 4.5 * deviation


def test_class_balance_holds_as_many_of_each_class_and_all_of_a_rare_one() -> None:
    buffer, labels = made("class_balanced", 30), skewed(2000)
    Kept(buffer).offer(labels)
    assert Counter(buffer.stored.values()) <= Counter({8: 2, 7: 2})
    rare = made("class_balanced", 30)
    Kept(rare).offer([0] * 500 + [1] * 3 + [0] * 500)
    assert rare.stored == {0: 27, 1: 3}


def test_task_balance_is_that_of_tasks_whatever_their_classes() -> None:
    buffer = made("task_balanced", 30)
    kept = Kept(buffer)
    for task, size in enumerate((300, 100, 50)):
        kept.offer(skewed(size, task), task)
    assert sorted(buffer.stored) == [0, 1, 2]
    assert max(buffer.stored.values()) - min(buffer.stored.values()) <= 1
    tasks = Counter(0 if place < 300 else 1 if place < 400 else 2 for place in kept.samples)
    assert tasks == buffer.stored


def literal_greedy(labels: list[int], size: int) -> tuple[Counter[int], list[bool]]:
    """Algorithm 1 of GDumb by its letter: (samples of each class, whether each was taken in)."""
    classes: set[int] = set()
    held: Counter[int] = Counter()
    taken = []
    for label in labels:
        classes.add(label)
        share = size / len(classes)
        taken.append(held[label] < share)
        if held[label] >= share:
            continue
        if sum(held.values()) >= size:
            largest = max(held, key=lambda known: (held[known], -known))
            held[largest] -= 1
        held[label] += 1
    return +held, taken


@pytest.mark.parametrize("size", [1, 7, 30, 100])
def test_the_greedy_sampler_is_that_of_the_paper(size: int) -> None:
    buffer, labels = made("greedy", size), skewed(400)
    kept = Kept(buffer)
    kept.offer(labels)
    held, taken = literal_greedy(labels, size)
    assert buffer.stored == dict(held)
    assert all(taken[sample] for sample in kept.samples)
    assert Counter(labels[sample] for sample in kept.samples) == held


def test_the_greedy_memory_is_exactly_balanced_where_classes_have_enough() -> None:
    buffer = made("greedy", 30)
    kept = Kept(buffer)
    for first in (0, 2, 4, 6, 8):
        kept.offer([first, first + 1] * 20)
    assert buffer.stored == dict.fromkeys(range(10), 3)
