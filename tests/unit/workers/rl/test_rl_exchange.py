"""Arrays of JAX and numpy become tensors on the same memory, whatever their type."""

from __future__ import annotations

import os

import numpy as np
import pytest

from workers.rl.dlpack import as_tensor, torch_type
from workers.rl.environments.craftax.engine import _has_gpu, prepare_jax

TYPES = [np.float32, np.int16, np.uint8, np.bool_, np.int32, np.uint32]


@pytest.fixture(scope="module")
def jax():
    return prepare_jax()


@pytest.mark.parametrize("kind", TYPES)
def test_a_tensor_lies_on_jaxs_own_memory(jax, kind):
    numbers = (np.arange(24) % 3).reshape(2, 3, 4).astype(kind)
    array = jax.numpy.asarray(numbers)
    view = as_tensor(array)
    assert view.data_ptr() == array.unsafe_buffer_pointer()
    assert view.dtype == torch_type(kind)
    assert view.shape == array.shape
    assert np.array_equal(view.numpy(), numbers)


def test_the_result_of_a_running_program_is_complete_when_it_is_read(jax):
    program = jax.jit(lambda x: jax.lax.fori_loop(0, 200, lambda _, y: (y @ y) / 64.0, x))
    array = program(jax.numpy.ones((64, 64)))
    assert np.array_equal(as_tensor(array).numpy(), np.asarray(array))
    assert float(as_tensor(array)[0, 0]) == 1.0


def test_an_array_given_away_while_it_is_looked_at_stays_as_it_was(jax):
    program = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    array = jax.numpy.zeros(1000)
    view = as_tensor(array)
    after = program(array)
    assert not view.any()
    assert float(after[0]) == 1.0
    kept = as_tensor(program(jax.numpy.ones(1000)))  # the array itself is gone
    assert bool((kept == 2.0).all())


def test_numpy_is_read_in_place_unless_it_is_read_only():
    writable = np.zeros(5, np.int16)
    assert as_tensor(writable).data_ptr() == writable.ctypes.data
    sealed = np.ones(5, np.int16)
    sealed.flags.writeable = False
    copied = as_tensor(sealed)
    copied[0] = 7
    assert sealed[0] == 1


@pytest.mark.parametrize(("given", "has"), [("", False), ("-1", False), ("0", True), (None, True)])
def test_jax_looks_for_a_gpu_only_where_the_process_was_given_one(monkeypatch, given, has):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert _has_gpu() == (has and os.path.exists("/dev/nvidia0"))
