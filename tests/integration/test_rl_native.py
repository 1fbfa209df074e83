"""The native engine of Craftax plays the very games of the JAX engine, and needs no JAX."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.craftax_states import differing, scrambled_classic
from workers.rl import ENVIRONMENTS
from workers.rl.environments.base import EnvironmentTask
from workers.rl.environments.craftax.native import library
from workers.rl.environments.craftax.native.classic import CLASSIC as GAME
from workers.rl.environments.craftax.native.game import from_native, to_native

pytestmark = [
    pytest.mark.craftax,
    pytest.mark.skipif(library.load().functions is None, reason=library.load().why),
]

ROOT = Path(__file__).resolve().parents[2]
CLASSIC = ENVIRONMENTS["Craftax-Classic-Symbolic-v1"]
ENVS = 8


@pytest.fixture(scope="module")
def engines():
    """Both engines, native first."""
    return CLASSIC.build(ENVS, engine="native"), CLASSIC.build(ENVS, engine="jax")


def assert_same(native, jax, what):
    assert not list(differing(native.states, to_native(GAME, jax._state))), what
    assert np.array_equal(native._observations, np.asarray(jax._observations)), what


def step_both(engines, actions, what):
    (_, *mine, _), (_, *theirs, _) = (engine.step(actions) for engine in engines)
    for a, b in zip(mine, theirs, strict=True):
        assert a.tobytes() == b.tobytes(), what
    assert_same(*engines, what)
    return mine[1]


def test_the_same_seed_is_the_same_game_in_both(engines):
    task = EnvironmentTask(params={"max_timesteps": 70, "day_length": 50, "zombie_health": 3})
    for engine in engines:
        engine.set_task(task)
        engine.seed(11)
        engine.reset()
    assert_same(*engines, "new worlds")
    rng, ended = np.random.default_rng(0), 0
    for count in range(150):
        done = step_both(engines, rng.integers(0, 17, ENVS), f"step {count}")
        if done.any():
            ended += done.sum()
            for engine in engines:
                engine.renew(np.flatnonzero(done))
            assert_same(*engines, f"worlds after step {count}")
    assert ended >= 2 * ENVS
    assert engines[0].outcome(0) == engines[1].outcome(0)


def test_states_that_play_seldom_reaches_go_on_alike(engines):
    native, jax = engines
    for engine in engines:
        engine.set_task(EnvironmentTask())
        engine.seed(12)
        engine.reset()
    rng = np.random.default_rng(1)
    for count in range(60):
        native.states[:] = scrambled_classic(native.states, rng)
        jax._state = from_native(GAME, native.states, jax._state)
        for _ in range(3):
            actions = rng.integers(0, 17, ENVS)
            actions[rng.random(ENVS) < 0.3] = 5
            step_both(engines, actions, f"state {count}")


def test_both_forms_show_the_same():
    compact, dense = (CLASSIC.build(ENVS, form, "native") for form in ("compact", "dense"))
    rng = np.random.default_rng(2)
    dense.reset()
    for _ in range(50):
        compact.states[:] = dense.states[:] = scrambled_classic(dense.states, rng)
        actions = rng.integers(0, 17, ENVS)
        short, long = compact.step(actions)[0], dense.step(actions)[0]
        assert np.array_equal(CLASSIC.layout.dense(short), long)


def test_auto_reset_shows_the_new_episode_at_once():
    engine = ENVIRONMENTS["Craftax-Classic-Symbolic-AutoReset-v1"].build(ENVS, engine="native")
    engine.set_task(EnvironmentTask(params={"max_timesteps": 4}))
    engine.reset()
    for count in range(1, 9):
        seen, _, done, _ = engine.step(np.zeros(ENVS, int))
        assert done.all() == (count % 4 == 0)
        assert np.array_equal(engine.renew(np.flatnonzero(done)), seen)
        assert (engine.states["timestep"] == count % 4).all()


def test_an_action_that_there_is_not_moves_nothing():
    engine = CLASSIC.build(ENVS, engine="native")
    engine.reset()
    before = engine.states.copy()
    actions = np.zeros(ENVS, int)
    for wrong in (17, -1, 2**32 + 3):
        actions[3] = wrong
        told = f"environment 3 was given action {wrong}; allowed: 0 to 16"
        with pytest.raises(ValueError, match=told):
            engine.step(actions)
        assert not list(differing(before, engine.states))


def test_a_snapshot_goes_through_a_file_and_on_in_the_other_engine(engines, tmp_path):
    native, jax = engines
    native.set_task(EnvironmentTask(params={"max_timesteps": 30}))
    jax.set_task(EnvironmentTask(params={"max_timesteps": 30}))
    native.seed(21)
    native.reset()
    rng = np.random.default_rng(21)
    for _ in range(10):
        native.step(rng.integers(0, 17, ENVS))
    for source, other in ((native, jax), (jax, native)):
        np.savez(tmp_path / "games.npz", **source.snapshot())
        other.seed(5)
        with np.load(tmp_path / "games.npz") as saved:
            other.restore(dict(saved))
        assert_same(native, jax, "restored")
        for count in range(30):
            done = step_both(engines, rng.integers(0, 17, ENVS), f"step {count}")
            if done.any():
                for engine in engines:
                    engine.renew(np.flatnonzero(done))
                assert_same(native, jax, "new worlds")


def spoil(name, value):
    def change(snapshot):
        snapshot["states"][name][2] = value

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (spoil("map", 17), r"state 2: map\[0, 0\] is 17; allowed: 0 to 16"),
        (spoil("player_direction", -1), "state 2: player_direction is -1; allowed: 0 to 4"),
        (spoil("player_hunger", np.nan), "state 2: player_hunger is nan"),
        (spoil("timestep", 2**30), "state 2: timestep is 1073741824"),
        (lambda snapshot: snapshot.pop("key"), "the snapshot has no key"),
        (lambda snapshot: snapshot.update(key=np.zeros(3, np.uint32)), r"key are uint32 \(3,\)"),
    ],
)
def test_a_snapshot_of_what_no_game_can_be_is_refused(change, problem):
    engine = CLASSIC.build(ENVS, engine="native")
    engine.reset()
    snapshot, before = engine.snapshot(), engine.states.copy()
    change(snapshot)
    with pytest.raises(ValueError, match=problem):
        engine.restore(snapshot)
    assert not list(differing(before, engine.states))


def test_a_flag_that_is_neither_0_nor_1_is_refused():
    engine = CLASSIC.build(ENVS, engine="native")
    snapshot = engine.snapshot()
    snapshot["states"]["is_sleeping"].view(np.uint8)[1] = 7
    with pytest.raises(ValueError, match="state 1: is_sleeping is 7; allowed: 0 to 1"):
        engine.restore(snapshot)


@pytest.mark.parametrize("name", ["Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1"])
@pytest.mark.parametrize("form", ["compact", "dense"])
def test_observations_go_where_they_are_wanted(name, form):
    plain, other = (ENVIRONMENTS[name].build(ENVS, form, "native") for _ in range(2))
    for engine in (plain, other):
        engine.set_task(EnvironmentTask(params={"max_timesteps": 4}))
    rows = np.full((7, ENVS, *other.observation_shape), 99, other.observation_type)
    rows[0] = other.reset()
    wanted = [plain.reset().copy()]
    actions = np.random.default_rng(0).integers(0, plain.actions, (6, ENVS))
    for row, drawn in zip(rows[1:], actions, strict=True):
        assert other.look_into(row)
        seen, _, done, _ = other.step(drawn)
        plain.step(drawn)
        assert np.shares_memory(seen, row)
        for engine in (plain, other):
            engine.renew(np.flatnonzero(done))
        wanted.append(plain._observations.copy())
    assert np.array_equal(rows, wanted)
    own = other.look_away()
    assert np.array_equal(own, rows[-1])
    assert not np.shares_memory(own, rows)
    other.reset()
    assert np.array_equal(rows, wanted)


@pytest.mark.parametrize("name", ["Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1"])
def test_no_jax_is_imported(name):
    code = (
        "import sys, numpy as np; from workers.rl import ENVIRONMENTS;"
        f"engine = ENVIRONMENTS['{name}'].build(4, 'compact');"
        "engine.reset(); engine.step(np.zeros(4, int));"
        "assert not {'jax', 'craftax', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=100)


def test_rllib_brings_no_jax_into_a_worker():
    code = (
        "import sys; import workers.rl.trainer, workers.rl.evaluator;"
        "assert 'ray.rllib' in sys.modules;"
        "assert not {'jax', 'flax', 'craftax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=100)


def test_without_a_library_the_jax_engine_plays(monkeypatch):
    monkeypatch.setattr(library, "load", lambda: library.Native(None, "no compiler"))
    assert CLASSIC.engine("compact") == "jax"
    assert CLASSIC.engine("compact", "native") == "native"


class TestRandomNumbers:
    """Against ``jax.random``."""

    KEYS = np.random.default_rng(3).integers(0, 2**32, (6, 2), dtype=np.uint32)

    @staticmethod
    def drawn(name, key, kind, shape, *arguments):
        out = np.zeros(shape, kind)
        function = getattr(library.require(), f"craftax_{name}")
        function(_pointer(key), *arguments, _pointer(out))
        return out

    def test_keys_bits_and_uniform_numbers(self):
        import jax

        for key in self.KEYS:
            children = self.drawn("split", key, np.uint32, (7, 2), 7)
            assert np.array_equal(children, jax.random.split(key, 7))
            assert np.array_equal(children[5], jax.random.fold_in(key, 5))
            bits = self.drawn("bits", key, np.uint32, 100, 100)
            assert np.array_equal(bits, np.asarray(jax.random.bits(key, (100,))))
            uniform = self.drawn("uniform", key, np.float32, 100, 100)
            assert np.array_equal(uniform, np.asarray(jax.random.uniform(key, (100,))))

    @pytest.mark.parametrize("span", [(0, 4), (1, 4), (3, 3), (5, 17), (-7, 1000)])
    def test_integers(self, span):
        import jax

        for key in self.KEYS:
            mine = self.drawn("randint", key, np.int32, 100, *span, 100)
            assert np.array_equal(mine, np.asarray(jax.random.randint(key, (100,), *span)))

    def test_permutations(self):
        import jax

        for key in self.KEYS:
            mine = self.drawn("permutation_6", key, np.int32, 6)
            assert np.array_equal(mine, np.asarray(jax.random.permutation(key, 6)))

    @pytest.mark.parametrize("size", [4096, 2304])
    def test_a_place_of_a_mask(self, size):
        import jax

        rng = np.random.default_rng(4)
        keys = rng.integers(0, 2**32, (256, 2), dtype=np.uint32)
        masks = rng.random((256, size)) < 10 ** -rng.uniform(0, 3, (256, 1))

        def choose(key, mask):
            return jax.random.choice(key, np.arange(size), (1,), p=mask / mask.sum())[0]

        wanted = np.asarray(jax.jit(jax.vmap(choose))(keys, masks))
        function = getattr(library.require(), f"craftax_choose_{size}")
        chosen = [
            function(_pointer(key), _pointer(mask)) for key, mask in zip(keys, masks, strict=True)
        ]
        assert np.array_equal(chosen, wanted)

    def test_weighted_choices(self):
        import jax

        rng = np.random.default_rng(5)
        choose = jax.jit(lambda key, weights: jax.random.choice(key, np.arange(4), p=weights))
        for key in rng.integers(0, 2**32, (40, 2), dtype=np.uint32):
            weights = rng.random(4, np.float32) * (rng.random(4) < 0.7).astype(np.float32)
            mine = library.require().craftax_choice_4(_pointer(key), _pointer(weights))
            assert mine == int(choose(key, weights))


def _pointer(array):
    assert array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.c_void_p)
