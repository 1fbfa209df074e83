"""Stream files to begin with: a few settings that run, and every other key as a comment.

What a comment says is asked of the classes, so that no file names a key that is no longer there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.describing import Key, entry
from orchestrator.config.toml import assigned
from workers.contract import InputError, Json
from workers.parsing import choose
from workers.streams import DATASETS

SCHEMA_FILE = "growstage.schema.json"
"""The schema that a file names for editors, beside it."""
WIDTH = 100
"""Columns of a file; a comment that needs more is cut at a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One file to begin with."""

    text: str
    """What it is, in one line."""
    raw: Json
    """The settings in it; a value of None must be given."""
    needs: tuple[str, ...] = ()
    """Keys of the stream's ``dataset`` that must be given."""


MOE: Json = {"kind": "classifier", "head": {"kind": "moe", "hidden": [64, 64]}}
GROWING: Json = {"growth": {"kind": "periodic", "add": 1}}
LANES = [
    {"method": {"kind": "replay", "buffer": 200}, "seeds": [0, 1, 2]},
    {"method": {"kind": "finetune"}, "seeds": [0, 1, 2]},
]
TRAINING: Json = {"kind": "supervised", "epochs": 3, "intervals": 4}


def _over(dataset: Json | str) -> Json:
    """A stream over a data set: two classes a task, a model that grows, replay and nothing."""
    stream = {"kind": "split", "dataset": dataset, "classes_per_task": 2}
    return {
        "stream": stream,
        "model": MOE,
        "training": TRAINING,
        "policies": GROWING,
        "baselines": ["joint"],
        "lanes": LANES,
    }


TEMPLATES: dict[str, Template] = {
    "digits": Template(text="digits that come along: runs in a minute", raw=_over("digits")),
    "images": Template(
        text="your own images, a folder for each class",
        raw=_over({"kind": "image_folder", "path": None, "size": 32}),
        needs=("path",),
    ),
    "table": Template(
        text="your own CSV or Parquet file with a column for the label",
        raw=_over({"kind": "table", "path": None, "label": None}),
        needs=("path", "label"),
    ),
    "craftax": Template(
        text="an agent in Craftax-Classic: first a few achievements, then all",
        raw={
            "stream": {
                "kind": "craftax",
                "environment": "Craftax-Classic-Symbolic-v1",
                "tasks": [
                    {"name": "gather", "achievements": ["collect_wood", "collect_drink"]},
                    {"name": "all"},
                ],
            },
            "model": {"kind": "actor_critic", "hidden": [64, 64]},
            "training": {"kind": "ppo", "num_envs": 64, "steps_per_stage": 32768, "intervals": 4},
            "policies": GROWING,
            "lanes": [{"method": {"kind": "finetune"}}],
        },
    ),
}
"""Templates by name."""

TABLES = {"stream": "streams", "model": "models", "training": "trainings"}
"""Section -> table of what it can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is asked of every template; None = as the template has it."""

    grow: bool | None = None
    """Whether experts are added to the model at each stage."""
    seeds: int | None = None
    """How often each lane is learnt, each time from another seed."""


def render(
    template: str, name: str, given: Mapping[str, str | None], wishes: Wishes | None = None
) -> str:
    """The text of a stream file called ``name``; ``given``: what the template needs.

    Raises InputError where there is no such template, or it needs more, or the data set that it
    names cannot be read.
    """
    if template not in TEMPLATES:
        raise InputError(f"--template: no {template!r}; allowed: {', '.join(TEMPLATES)}")
    chosen, wishes = TEMPLATES[template], wishes or Wishes()
    missing = [f"--{key}" for key in chosen.needs if not given.get(key)]
    if missing:
        raise InputError(f"template {template!r} ({chosen.text}) needs {' and '.join(missing)}")
    dataset = {key: given[key] for key in chosen.needs}
    lines = [
        f"#:schema ./{SCHEMA_FILE}",
        f"# {chosen.text}",
        "# growstage plan FILE shows what it comes to, growstage run FILE trains it;",
        "# growstage list TABLE.NAME explains every key. What is behind a # is the default.",
        assigned("name", name),
        *(assigned(key, chosen.raw[key]) for key in ("baselines",) if key in chosen.raw),
        "",
    ]
    for section in ("stream", "model", "training"):
        settings = dict(chosen.raw[section])
        if section == "stream" and dataset:
            settings["dataset"] = {**settings["dataset"], **dataset}
            settings |= _by_hand(settings["dataset"])
        lines += [f"[{section}]", *_section(section, settings), ""]
    policies = {} if wishes.grow is False else chosen.raw["policies"]
    for policy, settings in policies.items():
        known = entry(f"policies.{settings['kind']}").keys
        lines += [f"[policies.{policy}]", *_keys(settings, known), ""]
    for lane in chosen.raw["lanes"]:
        seeds = {} if wishes.seeds is None else {"seeds": list(range(wishes.seeds))}
        lines += ["[[lanes]]", *(assigned(*item) for item in (lane | seeds).items()), ""]
    return "\n".join(lines)


def _by_hand(dataset: Json) -> Json:
    """Tasks of two classes by their names, where the data set has an odd number of them."""
    cls, config, problems = choose(DATASETS, dataset, "dataset")
    found = None if cls is None else cls(config)
    if found is None or (problems := problems or found.problems("dataset")):
        raise InputError("; ".join(map(str, problems)))
    names = list(found.names)
    if len(names) % 2 == 0:
        return {}
    return {"classes": [names[start : start + 2] for start in range(0, len(names), 2)]}


def _section(section: str, settings: Json) -> list[str]:
    return _keys(settings, entry(f"{TABLES[section]}.{settings['kind']}").keys)


def _keys(settings: Json, known: tuple[Key, ...]) -> list[str]:
    """The settings, then every other key as a comment with its default and what it means."""
    texts = {key.name: key for key in known}
    lines = [
        _line(assigned(name, value), texts[name].text if name in texts else "")
        for name, value in settings.items()
    ]
    for key in known:
        if key.name not in settings:
            kind = key.type.removesuffix(" or none")
            value = f"<{kind}>" if key.default in ("none", "required") else key.default
            lines.append(_line(f"# {key.name} = {value}", key.text))
    return lines


def _line(text: str, meaning: str) -> str:
    """A line of the file with its comment, the first sentence or what of it fits."""
    first = meaning.replace("``", "").partition(". ")[0].rstrip(".")
    room = WIDTH - len(text) - 4
    if len(first) > room:
        first = first[: max(0, room - 1)].rpartition(" ")[0]
        first = f"{first}…" if len(first) > 12 else ""
    return f"{text}  # {first}" if first else text
