"""A sweep: Tune's searcher and scheduler over trials that are whole streams.

The one file that talks to Tune beside the trial itself.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.plan import first_growth
from orchestrator.config.run import RunConfig
from tune_spaces import SPACES
from tune_spaces.space import Choice, Domain, Integer, LogUniform, ends, holds
from tune_spaces.store import StageStore
from tune_spaces.stream_file import trial_config
from tune_spaces.trial import Sweep, bundles, run_trial
from workers.contract import InputError, Json

SWEEP_FILE = "sweep.json"
TUNE = "tune"
"""Folder inside the sweep's that Tune keeps its state in."""

Scheduler = Literal["asha", "pbt", "none"]
Search = Literal["random", "optuna"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a sweep is asked to do; kept in its folder, so that it can be resumed."""

    id: str
    space: str
    raw: Json
    """Stream file of one lane, before a trial's settings."""
    objective: str
    scheduler: Scheduler
    search: Search
    num_samples: int
    max_concurrent: int
    """Trials at once; 0 = as many as the cluster has room for."""
    grace: int
    """Stages every trial learns before ASHA may stop it."""
    seed: int
    tracking_uri: str | None = None
    """MLflow store that was named, without a password; None = the file beside the sweep."""

    def parameters(self) -> Mapping[str, Domain]:
        found: Mapping[str, Domain] = SPACES[self.space].parameters  # type: ignore[attr-defined]
        return found

    def probe(self) -> RunConfig:
        """A config of the space: checks that space and base fit; raises ConfigError."""
        return trial_config(self.raw, self.firsts())

    def firsts(self) -> Json:
        """The first value of each parameter."""
        return {key: ends(domain)[0] for key, domain in self.parameters().items()}

    def base(self) -> Json | None:
        """The parameters as the stream file has them, with which trial 0 is run; None where it has
        one otherwise than the space allows."""
        whole = trial_config(self.raw, {})
        plain: Any = whole.lanes[0].plain()
        found = {key: _named(reduce(_inside, key.split("."), plain)) for key in self.parameters()}
        if not all(holds(domain, found[key]) for key, domain in self.parameters().items()):
            return None
        # an entry with settings of its own is another than the one that a space calls by its name
        return found if trial_config(self.raw, found).digest == whole.digest else None

    def growth_takes(self) -> int:
        """Stages until every trial has grown where that is foreseen, one parameter varied at a
        time; earlier scores say nothing of how it grows."""
        varied = [
            {**self.firsts(), key: value}
            for key, domain in self.parameters().items()
            for value in ends(domain)
        ]
        lanes = [trial_config(self.raw, settings).lanes[0] for settings in varied]
        grown = [stage for stage in map(first_growth, lanes) if stage is not None]
        return max(grown, default=0) + 1


def _inside(node: Any, name: str) -> Any:
    return node.get(name) if isinstance(node, dict) else None


def _named(value: Any) -> Any:
    """An entry of a table by its name, as spaces have them."""
    return value["kind"] if isinstance(value, dict) and "kind" in value else value


def save(plan: Plan, folder: Path) -> None:
    """Write the plan into a sweep's new folder; InputError where one is there already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / SWEEP_FILE, "x", encoding="utf-8") as file:
            json.dump(asdict(plan), file, indent=1)
    except FileExistsError as error:
        raise InputError(
            f"{folder}: a sweep is there already; go on with it by {resume_option(folder)}, or "
            "give another --sweep-dir"
        ) from error
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write there ({error.strerror}); give a writable --sweep-dir"
        ) from error


def resume_option(folder: Path) -> str:
    """What to type to go on with the sweep in ``folder``."""
    return f"--resume {shlex.quote(str(folder))}"


def load(folder: Path) -> Plan:
    """The plan of the sweep in ``folder``; InputError where there is none."""
    try:
        return Plan(**json.loads((folder / SWEEP_FILE).read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{folder}: no {SWEEP_FILE} there; give the folder of a sweep") from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{folder / SWEEP_FILE}: not a sweep's plan ({error}); another version wrote it"
        ) from error


def run(plan: Plan, folder: Path, callbacks: list[Any]) -> bool:
    """Run the sweep, or go on with it, on the connected cluster; whether all trials ended well.

    Ray must be initialised. ``callbacks`` are Tune's. Raises KeyboardInterrupt upon SIGINT, in
    the middle of whatever Tune does: what it wrote down before is enough to go on from.
    """
    import numpy
    import ray
    from ray import tune

    _quiet()
    random.seed(plan.seed)  # what schedulers draw from
    numpy.random.seed(plan.seed)
    stages = len(plan.probe().lanes[0].scored_tasks())
    store = ray.remote(num_cpus=0)(StageStore).remote(str(folder))
    sweep = Sweep(id=plan.id, folder=str(folder), raw=plan.raw, objective=plan.objective)
    function = partial(run_trial, sweep=sweep, store=store)
    trainable = tune.with_resources(
        _one_argument(function), tune.PlacementGroupFactory(bundles(plan.probe()))
    )
    place = str(folder / TUNE)
    if tune.Tuner.can_restore(place):
        tuner = tune.Tuner.restore(place, trainable, resume_errored=True)
        # Callbacks are not part of what Tune restores from another process.
        tuner._local_tuner._run_config.callbacks = callbacks  # type: ignore[union-attr]
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=_param_space(plan),
            tune_config=tune.TuneConfig(
                metric="objective",
                mode="max",
                num_samples=plan.num_samples,
                max_concurrent_trials=plan.max_concurrent or None,
                scheduler=_scheduler(plan, stages),
                search_alg=_searcher(plan),
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                name=TUNE,
                storage_path=str(folder),
                callbacks=callbacks,
                verbose=0,
                stop={"stage": stages},
                failure_config=tune.FailureConfig(max_failures=2),
            ),
        )
    return not tuner.fit().errors


def _one_argument(function: Callable[..., None]) -> Callable[[dict[str, Any]], None]:
    """Tune wants a plain function of one argument, the same name after a restore."""

    def trial(config: dict[str, Any]) -> None:
        function(config)

    return trial


def _folder_name(trial: Any) -> str:
    """Tune's own would hold every setting and grow too long for a file system."""
    return str(trial.trial_id)


def _param_space(plan: Plan) -> dict[str, Any]:
    if plan.search == "optuna":
        return {}
    return {key: _tune_domain(domain) for key, domain in plan.parameters().items()}


def _searcher(plan: Plan) -> Any:
    base = plan.base()
    points = None if base is None else [base]
    if plan.search == "random":
        from ray.tune.search import BasicVariantGenerator

        return BasicVariantGenerator(points_to_evaluate=points, random_state=plan.seed)
    from ray.tune.search.optuna import OptunaSearch

    space = {key: _tune_domain(domain) for key, domain in plan.parameters().items()}
    return OptunaSearch(
        space, metric="objective", mode="max", points_to_evaluate=points, seed=plan.seed
    )


def _scheduler(plan: Plan, stages: int) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining

    match plan.scheduler:
        case "asha":
            grace = min(plan.grace, stages)
            return ASHAScheduler(
                time_attr="stage", max_t=stages, grace_period=grace, reduction_factor=2
            )
        case "pbt":
            return PopulationBasedTraining(
                time_attr="stage",
                perturbation_interval=1,
                burn_in_period=max(0, plan.grace - 1),
                hyperparam_mutations={k: _mutation(d) for k, d in plan.parameters().items()},
                custom_explore_fn=partial(within, parameters=plan.parameters()),
                quantile_fraction=0.34,
                synch=True,  # scores fall along a stream: only those after the same stage compare
            )
        case "none":
            return FIFOScheduler()


def _tune_domain(domain: Domain) -> Any:
    from ray import tune

    match domain:
        case Choice(values):
            return tune.choice(list(values))
        case Integer(low, high):
            return tune.randint(low, high + 1)
        case LogUniform(low, high):
            return tune.loguniform(low, high)


def _mutation(domain: Domain) -> Any:
    """What PBT moves along: neighbours in a list, or a factor of a number."""
    match domain:
        case Choice(values):
            return list(values)
        case Integer(low, high):
            return list(range(low, high + 1))
        case LogUniform():
            return _tune_domain(domain)


def within(settings: Json, parameters: Mapping[str, Domain]) -> Json:
    """``settings`` with numbers brought back into their domains.

    PBT multiplies by 0.8 or 1.2 past the ends, which a space states and its figures rely on.
    """
    bounds = {key: d for key, d in parameters.items() if isinstance(d, LogUniform)}
    kept = {key: min(max(settings[key], d.low), d.high) for key, d in bounds.items()}
    return {**settings, **kept}


def _quiet() -> None:
    """Tune's own table and files repeat what the sweep shows and journals.

    Its handler of SIGINT would end an interrupted search as if nothing were left of it.
    """
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
