"""What a killed training loses: our supervised lane against the stock Trainer of transformers.

The same tiny mixture, windows, optimizer and batch; checkpoints every 4 steps; SIGKILL at the given
steps, between two checkpoints, then a new process resumes. Compared with the run that nobody
killed: experts, router, moments of AdamW, and whether each step saw the same batch.

    python benchmarks/resume.py [--family olmoe] [--kill 6 11 17] [--json]

Every run is a process of its own. Needs the extra hf.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.lm_data import TASK, windows  # noqa: E402
from workers.contract import CheckpointRef, LaneSpec, StageSpec  # noqa: E402
from workers.methods import Finetune  # noqa: E402

STEPS, EVERY, BATCH, RATE = 24, 4, 8, 1e-3
SIZES = {"samples": 96, "window": 32, "vocabulary": 96}
DATA = windows(**SIZES)
DIED = -signal.SIGKILL


# ---------------------------------------------------------------- what both train


def base_model(family: str, folder: Path) -> None:
    """Write the model that both start from."""
    import transformers

    from tests.families import settings

    given = settings(family)
    config = transformers.AutoConfig.for_model(given.pop("model_type"), **given)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def seen(folder: Path, step: int, x: Tensor) -> None:
    """Note which batch a step trained on, and die where this process is to."""
    digest = hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()[:12]
    with open(folder / "seen.txt", "a") as file:
        file.write(f"{step} {digest}\n")
        file.flush()
    if step == int(os.environ.get("KILL_AT", "-1")):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The end of one run."""

    experts: dict[str, Tensor]
    router: dict[str, Tensor]
    moments: dict[str, Tensor]
    batches: dict[int, str]
    """Step -> digest of the batch that it was last trained on."""


def batches_of(folder: Path) -> dict[int, str]:
    lines = (folder / "seen.txt").read_text().splitlines()
    return {int(step): digest for step, digest in (line.split() for line in lines)}


# ---------------------------------------------------------------- the stock Trainer


def train_stock(base: Path, folder: Path, resume: bool) -> None:
    """One process of the stock Trainer; the only change notes batches."""
    import transformers

    class Windows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(DATA)

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            x = DATA[index, :-1]
            return {"input_ids": x, "labels": x}

    class Noting(transformers.Trainer):  # type: ignore[misc, name-defined]
        def training_step(self, model: Any, inputs: Mapping[str, Tensor], *rest: Any) -> Any:
            seen(folder, self.state.global_step, inputs["input_ids"])
            return super().training_step(model, inputs, *rest)

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "out"),
        max_steps=STEPS,
        save_steps=EVERY,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        seed=0,
    )
    trainer = Noting(model=model, args=arguments, train_dataset=Windows())
    trainer.train(resume_from_checkpoint=resume or None)
    named = {p: n for n, p in model.named_parameters()}
    moments = {
        f"{named[p]}/{key}": value
        for p, kept in trainer.optimizer.optimizer.state.items()
        for key, value in kept.items()
        if key.startswith("exp_avg")
    }
    torch.save((model.state_dict(), moments), folder / "end.pt")


def stock_result(folder: Path) -> Result:
    model, moments = torch.load(folder / "end.pt", weights_only=True)
    return Result(
        experts={n: t for n, t in model.items() if ".experts." in n},
        router={n: t for n, t in model.items() if n.endswith("mlp.gate.weight")},
        moments=moments,
        batches=batches_of(folder),
    )


# ---------------------------------------------------------------- our lane


class Noted(Finetune):
    """Plain training that notes batches."""

    def extend_batch(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        folder, step = Path(os.environ["FOLDER"]), len_of_seen()
        seen(folder, step, x)
        return x, y


def len_of_seen() -> int:
    """Number of the step under way: the trainer's own, read where it is kept."""
    assert TRAINER is not None
    return TRAINER.stage.step  # type: ignore[no-any-return]


TRAINER: Any = None


def train_ours(base: Path, folder: Path, resume: bool) -> None:
    """One process of our worker: intervals of 4 steps, a checkpoint after each."""
    global TRAINER
    from workers.supervised.trainer import SupervisedTrainer

    sys.modules.setdefault("benchmarks.resume", sys.modules[__name__])
    lane, stage = lane_of(base), stage_of()
    ref = None
    if resume:
        ref = CheckpointRef(**json.loads((folder / "last.json").read_text()))
    TRAINER = SupervisedTrainer()
    TRAINER.open(lane, ref)
    first = 1 if ref is None else ref.seq + 1
    if ref is None:
        TRAINER.start(stage)
    for n in range(first, STEPS // EVERY + 1):
        TRAINER.run_interval(n)
        made = TRAINER.save(str(folder / f"interval-{n}"), seq=n)
        fields = {name: getattr(made, name) for name in ("uri", "digest", "seq", "stage", "bytes")}
        temporary = folder / "last.json.part"
        temporary.write_text(json.dumps(fields))
        temporary.rename(folder / "last.json")


def lane_of(base: Path) -> LaneSpec:
    from orchestrator.config.file import check

    raw = {
        "name": "resume",
        "stream": {"kind": "benchmarks.lm_data:Sawtooth", **SIZES},
        "model": {"kind": "huggingface", "path": str(base)},
        "training": {
            "steps": STEPS,
            "intervals": STEPS // EVERY,
            "batch": BATCH,
            "optimizer": {"kind": "adamw", "lr": RATE, "weight_decay": 0.0},
        },
        "method": "benchmarks.resume:Noted",
        "lanes": [{}],
    }
    return check(raw, "resume").lanes[0].spec()


def stage_of() -> StageSpec:
    return StageSpec(
        index=0, task=TASK, intervals=STEPS // EVERY, seed=1, parent=None, settings_digest="x"
    )


def ours_result(folder: Path) -> Result:
    from workers import checkpoint

    ref = CheckpointRef(**json.loads((folder / "last.json").read_text()))
    groups = checkpoint.read(ref).tensors
    model = groups["model"]
    return Result(
        experts={n: t for n, t in model.items() if ".experts.experts." in n},
        router={n: t for n, t in model.items() if ".router.rows." in n},
        moments={n: t for n, t in groups["optimizer"].items() if "exp_avg" in n},
        batches=batches_of(folder),
    )


# ---------------------------------------------------------------- comparison

SIDES = {"ours": (train_ours, ours_result), "trainer": (train_stock, stock_result)}


def run(side: str, base: Path, folder: Path, kills: Sequence[int]) -> Result:
    """Train in processes that die at these steps, and one that ends."""
    folder.mkdir()
    for number, kill in enumerate((*kills, None)):
        env = os.environ | {"FOLDER": str(folder), "PYTHONPATH": str(ROOT)}
        env |= {"KILL_AT": str(kill)} if kill is not None else {}
        command = [sys.executable, "-m", "benchmarks.resume", "--side", side, str(base)]
        command += [str(folder), *(["--resume"] if number else [])]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        wanted = DIED if kill is not None else 0
        if done.returncode != wanted:
            raise SystemExit(f"{side}: exit {done.returncode}, wanted {wanted}\n{done.stderr}")
    return SIDES[side][1](folder)


def differences(one: Result, other: Result) -> dict[str, float]:
    """Largest absolute differences of the ends, and steps that saw another batch."""

    def largest(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
        assert set(a) == set(b)
        assert a
        return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)

    assert set(one.batches) == set(other.batches) == set(range(STEPS))
    return {
        "experts": largest(one.experts, other.experts),
        "router": largest(one.router, other.router),
        "moments": largest(one.moments, other.moments),
        "position": sum(one.batches[step] != other.batches[step] for step in one.batches),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--family", default="olmoe")
    parser.add_argument("--kill", type=int, nargs="+", default=[6, 11, 17])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.side:
        side, base, folder = given.side
        SIDES[side][0](Path(base), Path(folder), given.resume)
        return
    import transformers

    table = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        base_model(given.family, root / "base")
        for side in SIDES:
            whole = run(side, root / "base", root / f"{side}-whole", ())
            killed = run(side, root / "base", root / f"{side}-killed", given.kill)
            table[side] = differences(killed, whole)
    print(
        f"{given.family}, {STEPS} steps, checkpoints every {EVERY}, killed at {given.kill}; "
        f"transformers {transformers.__version__}, torch {torch.__version__}\n"
        "largest difference from the run that nobody killed:"
    )
    print(f"{'':10}{'experts':>12}{'router':>12}{'moments':>12}{'steps with another batch':>28}")
    for side, found in table.items():
        largest = "".join(f"{found[n]:>12.2e}" for n in ("experts", "router", "moments"))
        print(f"{side:10}{largest}{found['position']:>28}")
    if given.json:
        print(json.dumps(table))


if __name__ == "__main__":
    main()
