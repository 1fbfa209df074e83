"""Arrays of a task: in memory or on disk, checked, digested and drawn from."""

import numpy as np
import pytest
import torch

from workers.contract import InputError
from workers.streams import Part, Rows, TaskData
from workers.streams import data as data_module
from workers.streams.data import arrays_digest, concatenated
from workers.streams.sampling import held_out, spread, strata


def arrays(n: int = 4, labels=None) -> Part:
    x = np.linspace(0, 1, n * 4, dtype=np.float64).reshape(n, 1, 2, 2)
    return Part(x, np.zeros(n, dtype=np.int32) if labels is None else np.array(labels))


def of(**parts) -> TaskData:
    return TaskData.of(**({"train": arrays(), "test": arrays()} | parts), source="mine")


def on_disk(path, array) -> np.memmap:
    stored = np.memmap(path, dtype=array.dtype, mode="w+", shape=array.shape)
    stored[:] = array
    stored.flush()
    return np.memmap(path, dtype=array.dtype, mode="r", shape=array.shape)


def test_digest_depends_on_every_array_and_not_on_the_source():
    base = of()
    part = arrays()
    assert TaskData.of(train=part, test=part, source="b").digest == base.digest
    changed = [
        of(train=Part(part.x + 1, part.y)),
        of(train=Part(part.x, part.y + 1)),
        of(test=Part(part.x + 1, part.y)),
        of(test=Part(part.x, part.y + 1)),
        of(validation=part),
        of(train=Part(part.x, part.y, torch.zeros(4, dtype=torch.int64))),
    ]
    assert len({base.digest, *(data.digest for data in changed)}) == 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": Part(np.zeros((4,)), np.zeros(4))}, "training part: inputs (4,)"),
        (
            {"test": Part(np.zeros((4, 1, 2, 2)), np.zeros(3))},
            "test part: inputs (4, 1, 2, 2) with targets (3,)",
        ),
        ({"train": Part(np.zeros((0, 1, 2, 2)), np.zeros(0))}, "no samples"),
        ({"test": Part(np.full((4, 2), np.nan), np.zeros(4))}, "inputs hold nan or inf"),
        ({"test": Part(np.zeros((4, 2)), np.full((4, 1), np.inf))}, "targets hold nan or inf"),
        ({"train": Part(np.zeros((4, 2), bool), np.zeros(4))}, "array of type bool"),
        (
            {"train": Part(np.zeros((4, 2)), np.zeros(4), torch.zeros(3, dtype=torch.int64))},
            "3 domain labels for 4 samples",
        ),
    ],
)
def test_wrong_arrays_are_refused_by_name(change, words):
    with pytest.raises(InputError) as caught:
        of(**change)
    assert words in str(caught.value)
    assert "mine" in str(caught.value)


def test_targets_are_labels_or_numbers():
    assert of().train.y.dtype == torch.int64
    numbers = of(train=Part(np.zeros((4, 2)), np.ones((4, 3)))).train.y
    assert (numbers.dtype, tuple(numbers.shape)) == (torch.float32, (4, 3))


# ---------------------------------------------------------------- on disk


def test_arrays_on_disk_stay_there(tmp_path, monkeypatch):
    stored = on_disk(tmp_path / "x", np.arange(60, dtype=np.uint16).reshape(20, 3))
    data = of(train=Part(stored, np.arange(20)))
    assert isinstance(data.train.x, Rows)
    assert data.train.bytes == 20 * 8, "the labels only"
    read = []
    monkeypatch.setattr(
        Rows, "_read", lambda self, places: read.append(len(places)) or original(self, places)
    )
    half = data.train.take(torch.arange(0, 20, 2))
    assert read == []
    assert half.x[torch.tensor([1, 3])].tolist() == [[6, 7, 8], [18, 19, 20]]
    assert read == [2]
    assert half.x[2:4].shape == (2, 3)
    assert [len(chunk) for chunk in half.x.split(4)] == [4, 4, 2]
    assert half.x.to(torch.float32)[:].dtype == torch.float32


original = Rows._read


def test_a_digest_of_chunks_is_that_of_the_whole(tmp_path, monkeypatch):
    x = np.arange(600, dtype=np.float32).reshape(100, 3, 2)
    whole = arrays_digest([torch.from_numpy(x)])
    monkeypatch.setattr(data_module, "CHUNK_BYTES", 7 * 24)
    assert arrays_digest([Rows(on_disk(tmp_path / "x", x))]) == whole


def test_nan_on_disk_is_found_in_any_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "CHUNK_BYTES", 16)
    x = np.zeros((50, 2))
    x[41, 1] = np.nan
    with pytest.raises(InputError, match="inputs hold nan or inf"):
        of(train=Part(on_disk(tmp_path / "x", x), np.zeros(50, int)))


def test_a_tensor_that_is_a_file_stays_on_disk(tmp_path):
    (tmp_path / "x").write_bytes(np.arange(12, dtype=np.int32).tobytes())
    tensor = torch.from_file(str(tmp_path / "x"), shared=True, size=12, dtype=torch.int32)
    data = of(train=Part(tensor.view(4, 3), np.arange(4)))
    assert isinstance(data.train.x, Rows)
    assert data.train.x[:].tolist() == tensor.view(4, 3).tolist()


def test_other_byte_orders_are_read(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(8, dtype=">i4").reshape(4, 2))
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert of(train=Part(stored, np.arange(4))).train.x[:].tolist()[3] == [6, 7]


def test_parts_are_joined_without_being_read(tmp_path):
    one = on_disk(tmp_path / "a", np.arange(12, dtype=np.int64).reshape(6, 2))
    two = on_disk(tmp_path / "b", 100 + np.arange(8, dtype=np.int64).reshape(4, 2))
    parts = [
        of(train=Part(one, np.arange(6))).train.take(torch.tensor([4, 0])),
        of(train=Part(two, np.arange(4))).train,
        Part(torch.tensor([[7, 7]]), torch.tensor([9])),
    ]
    joined = concatenated(parts)
    assert isinstance(joined.x, Rows)
    assert joined.y.tolist() == [4, 0, 0, 1, 2, 3, 9]
    whole = torch.cat([part.x[:] for part in parts])
    assert torch.equal(joined.x[:], whole)
    order = torch.tensor([6, 2, 0])
    assert torch.equal(joined.x[order], whole[order])


# ---------------------------------------------------------------- draws


def test_a_spread_draw_represents_every_stratum():
    domain, y = torch.arange(8).repeat_interleave(100), torch.arange(800) // 10 % 10
    groups = strata(800, y, domain)
    drawn = spread(groups, 160, seed=3)
    assert torch.bincount(groups[drawn], minlength=80).tolist() == [2] * 80
    assert drawn.tolist() == sorted(set(drawn.tolist())), "sorted, none twice"
    assert torch.equal(drawn, spread(groups, 160, seed=3))
    assert not torch.equal(drawn, spread(groups, 160, seed=4))
    assert spread(groups, 800, 0).tolist() == list(range(800))


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    spread(torch.zeros(50, dtype=torch.int64), 10, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_every_stratum_gives_something_and_keeps_something():
    groups = np.array([0] * 100 + [1] * 3 + [2] * 2 + [3])
    held = held_out(groups, 0.1, np.random.default_rng(0))
    assert [int(held[groups == g].sum()) for g in range(4)] == [10, 1, 1, 0]
    assert not held_out(groups, 0.0, np.random.default_rng(0)).any()
    most = held_out(groups, 0.99, np.random.default_rng(0))
    assert [int((~most)[groups == g].sum()) for g in range(4)] == [1, 1, 1, 1]
