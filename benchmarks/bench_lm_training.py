"""Training a small mixture: tokens per CPU-second of our lane and of the stock Trainer.

The same model (an olmoe of 4.5 million parameters), windows, batch, AdamW and clipping, one thread;
processes take turns. Ours is the product's own worker, what a lane runs between two decisions:
routing counts, losses by name, gradients dropped where nothing was learnt, signals. The stock
loop runs its default experts implementation (grouped_mm) with logging and saving off.

    python benchmarks/bench_lm_training.py [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.lm_data import TASK, windows  # noqa: E402

WARM, STEPS, BATCH, RATE, CLIP = 20, 80, 16, 1e-3, 1.0

SIZES = {"samples": 2048, "window": 128, "vocabulary": 4096}
MODEL = {
    "model_type": "olmoe",
    "vocab_size": 4096,
    "hidden_size": 192,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 128,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def ours(base: Path) -> float:
    """CPU-seconds of the steps after the warm ones."""
    from orchestrator.config.file import check
    from workers.contract import StageSpec
    from workers.supervised.trainer import SupervisedTrainer

    raw = {
        "name": "training",
        "stream": {"kind": "benchmarks.lm_data:Sawtooth", **SIZES},
        "model": {"kind": "huggingface", "path": str(base)},
        "training": {
            "steps": STEPS,
            "intervals": STEPS // WARM,
            "batch": BATCH,
            "clip": CLIP,
            "optimizer": {
                "kind": "adamw",
                "lr": RATE,
                "weight_decay": 0.0,
                "implementation": "fused",
            },
        },
        "lanes": [{}],
    }
    trainer = SupervisedTrainer()
    trainer.open(check(raw, "training").lanes[0].spec(), None)
    intervals = STEPS // WARM
    trainer.start(
        StageSpec(index=0, task=TASK, intervals=intervals, seed=1, parent=None, settings_digest="")
    )
    trainer.run_interval(1)
    began = time.process_time()
    for n in range(2, intervals + 1):
        trainer.run_interval(n)
    return time.process_time() - began


def stock(base: Path) -> float:
    """The same of the stock Trainer."""
    import transformers

    data, began = windows(**SIZES), 0.0

    class Windows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"input_ids": data[index, :-1], "labels": data[index, :-1]}

    class Clock(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_end(self, _: Any, state: Any, *rest: Any, **more: Any) -> None:
            nonlocal began
            if state.global_step == WARM:
                began = time.process_time()

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    arguments = transformers.TrainingArguments(
        output_dir=str(base / "out"),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        weight_decay=0.0,
        lr_scheduler_type="constant",
        max_grad_norm=CLIP,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
    )
    transformers.Trainer(
        model=model, args=arguments, train_dataset=Windows(), callbacks=[Clock()]
    ).train()
    return time.process_time() - began


SIDES = {"ours": ours, "trainer": stock}


def measure(side: str, base: Path) -> dict[str, float]:
    """Tokens per CPU-second and peak memory (MiB) of a process of its own."""
    command = [sys.executable, __file__, "--side", side, str(base)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.side:
        seconds = SIDES[given.side[0]](Path(given.side[1]))
        tokens = (STEPS - WARM) * BATCH * SIZES["window"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"tokens_per_cpu_s": tokens / seconds, "peak_mb": peak}))
        return
    import transformers

    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        config = transformers.AutoConfig.for_model(**MODEL)
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(name)
        for _ in range(given.rounds):
            for side in SIDES:
                rounds[side].append(measure(side, Path(name)))
    table = {
        side: {
            key: statistics.median(one[key] for one in found)
            for key in ("tokens_per_cpu_s", "peak_mb")
        }
        for side, found in rounds.items()
    }
    ratios = [
        a["tokens_per_cpu_s"] / b["tokens_per_cpu_s"]
        for a, b in zip(rounds["ours"], rounds["trainer"], strict=True)
    ]
    for side, row in table.items():
        print(
            f"{side:10}{row['tokens_per_cpu_s']:>8.0f} tokens/CPU-s{row['peak_mb']:>8.0f} MiB peak"
        )
    print("ours / trainer in each round:", " ".join(f"{ratio:.3f}" for ratio in ratios))
    if given.json:
        print(json.dumps({**table, "ratio": statistics.median(ratios), "ratios": ratios}))


if __name__ == "__main__":
    main()
