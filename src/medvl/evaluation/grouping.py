"""Evaluated runs -> methods to compare: check that they fit each other, group the seeds (`scored_runs` opens them)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvl.config import ASSET_PREFIX, config_dict, load_config
from medvl.config.differences import MACHINE_KEYS, SEED_KEYS, differences, differences_text, flat
from medvl.core.errors import Fault, InputError
from medvl.evaluation.scored_runs import ScoredRun

MAX_NAMED = 10  # cases that an error names
MAX_KEYS = 4  # differing keys of which a method's name is made
WITHOUT_SEED = MACHINE_KEYS | SEED_KEYS
WITHOUT_FOLD = WITHOUT_SEED | {"data.manifest"}
READ_FROM = ("data.text_column", "data.constant_text", "data.text_shuffle")  # runs may differ in it


@dataclass(frozen=True, slots=True)
class Method:
    """Runs that differ in nothing but their seeds."""

    name: str
    runs: tuple[ScoredRun, ...]


def pool_folds(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """Runs that differ in their manifest alone -> one run of all their cases, which no two of them may share.

    The manifests are folds of one set (`medvl data split --folds`): each case is scored once, by the run of its fold.

    Raises:
        InputError: runs that cannot be pooled, or that share cases or patients.
    """
    groups: dict[str, list[ScoredRun]] = {}
    for run in runs:
        if run.config is None or not run.kind.is_poolable:
            what = "scores of different models have no common order" if run.config else "no configuration"
            raise InputError.unsupported(
                f"cannot be pooled: {what}", file=run.target, expected="runs of segment, ground or detect"
            )
        settings = json.dumps(_settings(run.config, WITHOUT_FOLD), sort_keys=True)
        groups.setdefault(f"{run.kind.name} {run.seed} {settings}", []).append(run)
    if all(len(group) == 1 for group in groups.values()):
        raise InputError.empty(
            "no two runs differ in data.manifest alone", expected="the folds of a method, seed by seed"
        )
    return [_pooled(group) for group in groups.values()]


def _pooled(group: Sequence[ScoredRun]) -> ScoredRun:
    first = group[0]
    assert first.config is not None
    faults, cases = [], dict(first.cases)
    for run in group[1:]:
        differing = _scored_otherwise(first, run)
        if rest := {key: value for key, value in differing.items() if key not in ("manifest_hash", "split_hash")}:
            faults.append(
                Fault.mismatch(f"not scored as {first.target} was: {differences_text(rest)}", file=run.target)
            )
        shared = [key for key in run.cases if key in cases]
        if shared:
            faults.append(Fault.leak(f"{len(shared)} cases are in another fold too: {_named(shared)}", file=run.target))
        patients = {case.patient for case in cases.values()} & {case.patient for case in run.cases.values()}
        if patients and not shared:
            what = f"{len(patients)} patients are in another fold too: {', '.join(sorted(patients)[:MAX_NAMED])}"
            faults.append(Fault.leak(what, file=run.target, remedy="folds by patient: medvl data split --folds"))
        cases |= run.cases
    if faults:
        raise InputError(faults)
    # The folds in one order, so that methods with the same ones have the same hashes.
    order = sorted(group, key=lambda run: str(run.summary["manifest_hash"]))
    hashes = {
        key: hashlib.sha256("".join(run.summary[key] for run in order).encode()).hexdigest()
        for key in ("manifest_hash", "split_hash")
    }
    names = sorted(str(run.summary["manifest"]) for run in group)
    settings = _settings(first.config, WITHOUT_FOLD)
    config = {**first.config, "init": settings.get("init")}
    config["data"] = {**first.config["data"], "manifest": f"{len(group)} folds"}
    summary = {**first.summary, **hashes, "manifest": ", ".join(names), "config": config}
    targets = tuple(run.target for run in group)
    return ScoredRun(" + ".join(targets), first.kind, summary, cases, first.folder, targets)


def join_kinds(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """Runs of kinds that can be compared as one (trained and prompted classifiers), of the same set and classes,
    become runs of that one; others stay as they are.

    A run that is the only one of its kind is joined in any case: what differs is then reported by `check_comparable`.
    """
    result = list(runs)
    for joined in {run.kind.joined.name: run.kind.joined for run in runs if run.kind.joined}.values():
        members = [run for run in runs if run.kind.joined is joined]
        names = [run.kind.name for run in members]
        if len(set(names)) < 2:
            continue
        is_same = all(run.summary[key] == members[0].summary[key] for run in members for key in joined.same_keys)
        if is_same or not all(names.count(name) > 1 for name in names):
            result = [replace(run, kind=joined) if run.kind.joined is joined else run for run in result]
    return result


def check_comparable(runs: Sequence[ScoredRun]) -> list[str]:
    """InputError with every fault unless all runs were scored alike on the same cases; -> notes for the reader."""
    first, faults, notes = runs[0], [], []
    for run in runs[1:]:
        differing = _scored_otherwise(first, run)
        if "manifest_hash" in differing and _same_truth(first, run) and _texts_from(first) != _texts_from(run):
            del differing["manifest_hash"]
            notes.append("texts come from different columns or patients; masks, patients and split are the same")
        if differing:
            faults.append(
                Fault.mismatch(
                    f"not scored as {first.target} was: {differences_text(differing)}",
                    file=run.target,
                    remedy="medvl evaluate RUN MANIFEST --split SPLIT --out FOLDER for both, with the same MANIFEST "
                    "and options; then medvl compare FOLDER FOLDER",
                )
            )
            continue
        faults += _case_faults(first, run)
    if faults:
        raise InputError(faults)
    return list(dict.fromkeys(notes))


def group_methods(runs: Sequence[ScoredRun], names: Sequence[str] = ()) -> list[Method]:
    """Runs of the same settings are one method; masks of another program are one each.

    Args:
        names: of the methods, in the order of their first run; or one per run, where equal names are seeds of one
            method (so masks of another program can have seeds). Default: made of what differs in the configurations.
    """
    if len(names) == len(runs):
        by_name: dict[str, list[ScoredRun]] = {name: [] for name in names}
        for run, name in zip(runs, names, strict=True):
            by_name[name].append(run)
        methods = [Method(name, tuple(group)) for name, group in by_name.items()]
        faults = [fault for method in methods for fault in _not_one_method(method)]
        if faults:
            raise InputError(faults)
    else:
        groups: list[list[ScoredRun]] = []
        for run in runs:
            for group in groups:
                if group[0].config is not None and run.config is not None and not _settings_differ(group[0], run):
                    group.append(run)
                    break
            else:
                groups.append([run])
        derived = _derived_names(groups)
        if names and len(names) != len(groups):
            raise InputError.mismatch(
                f"{len(names)} names for {len(groups)} methods in {len(runs)} runs",
                expected=f"a name for each method ({'; '.join(derived)}) or for each run",
            )
        if len(set(names)) != len(names):
            raise InputError.duplicate("two methods have the same name", expected="a name of its own for each method")
        methods = [Method(name, tuple(group)) for name, group in zip(names or derived, groups, strict=True)]
    for method in methods:
        seeds = [run.seed for run in method.runs if run.seed]
        if len(set(seeds)) != len(seeds):
            again = next(seed for seed in seeds if seeds.count(seed) > 1)
            targets = ", ".join(run.target for run in method.runs if run.seed == again)
            raise InputError.duplicate(
                f"runs of the same settings and seed {again} ({method.name}): {targets}",
                remedy="leave all but one out, or give each run a name of its own: --names",
            )
    return methods


def setting_table(methods: Sequence[Method]) -> dict[str, list[str]]:
    """{key that differs: its value in each method}, "" for masks of another program."""
    shown = [_shown(method.runs[0]) for method in methods]
    keys = sorted({key for one in shown for key in one})
    return {
        key: values
        for key in keys
        if len(set(values := [_value(one.get(key)) if one else "" for one in shown]) - {""}) > 1
    }


def _scored_otherwise(first: ScoredRun, run: ScoredRun) -> dict[str, Any]:
    one, other = first.summary, run.summary
    keys = list(first.kind.same_keys)
    both_have_one = one["threshold"] is not None and other["threshold"] is not None  # masks of a program have none
    if first.kind.threshold == "own" and both_have_one:
        keys.append("threshold_source")
        if one["threshold_source"] == "fixed":
            keys.append("threshold")  # one chosen on val is each run's own
    differing: dict[str, Any] = {key: (one[key], other[key]) for key in keys if one[key] != other[key]}
    if "manifest_hash" in differing:
        names = (one["manifest"], other["manifest"])
        differing["manifest_hash"] = (
            f"{one['manifest_hash'][:8]} of {names[0]}",
            f"{other['manifest_hash'][:8]} of {names[1]}",
        )
        differing.pop("split_hash", None)
    return differing


def _same_truth(first: ScoredRun, run: ScoredRun) -> bool:
    return first.summary["split_hash"] == run.summary["split_hash"] and not _case_faults(first, run)


def _texts_from(run: ScoredRun) -> list[Any]:
    settings = flat(run.config or {})
    return [settings.get(key) for key in READ_FROM]


def _case_faults(first: ScoredRun, run: ScoredRun) -> list[Fault]:
    """The cases that one of two runs lacks, or whose true mask or patient differs."""
    faults = []
    for one, other in ((first, run), (run, first)):
        missing = [key for key in one.cases if key not in other.cases]
        if missing:
            what = f"{len(missing)} of {len(one.cases)} cases are missing: {_named(missing)}"
            faults.append(Fault.mismatch(what, file=other.target, expected=f"the cases of {one.target}"))
    changed = [
        key
        for key, row in first.cases.items()
        if key in run.cases and (row.patient, row.truth) != (run.cases[key].patient, run.cases[key].truth)
    ]
    if changed:
        what = f"{len(changed)} cases have another {first.kind.truth} or patient than in {first.target}"
        faults.append(Fault.mismatch(f"{what}: {_named(changed)}", file=run.target))
    return faults


def _named(keys: Sequence[tuple[str, str]]) -> str:
    classes = {name for _, name in keys}
    ids = [ident if len(classes) == 1 else f"{ident} ({name})" for ident, name in keys[:MAX_NAMED]]
    return ", ".join(ids) + (" ..." if len(keys) > MAX_NAMED else "")


def _settings(config: Mapping[str, Any], leave_out: frozenset[str] = WITHOUT_SEED) -> dict[str, Any]:
    """What makes a method: the flat configuration without seeds and machine; `init` by what that run was made of."""
    settings = {key: value for key, value in flat(config).items() if key not in leave_out}
    init = settings.get("init")
    if init and not init.startswith(ASSET_PREFIX):
        stored = Path(init) / "config.yaml"
        if stored.is_file():
            origin = json.dumps(_settings(config_dict(load_config(stored)), leave_out), sort_keys=True)
            settings["init"] = hashlib.sha256(origin.encode()).hexdigest()
        else:
            settings["init"] = _without_seed(init)
    if settings.get("data.also_labelled"):  # a table of patients for every seed
        settings["data.also_labelled"] = _without_seed(settings["data.also_labelled"])
    return settings


def _settings_differ(one: ScoredRun, other: ScoredRun) -> dict[str, tuple[Any, Any]]:
    return differences(_settings(one.config or {}), _settings(other.config or {}))


def _not_one_method(method: Method) -> list[Fault]:
    first = method.runs[0]
    faults = []
    for run in method.runs[1:]:
        if (run.config is None) != (first.config is None):
            faults.append(
                Fault.mismatch(f"named {method.name} as {first.target} is, but only one is a model", file=run.target)
            )
        elif differing := _settings_differ(first, run):
            what = f"named {method.name} as {first.target} is, with other settings ({differences_text(differing)})"
            faults.append(Fault.mismatch(what, file=run.target))
    return faults


def _shown(run: ScoredRun) -> dict[str, Any]:
    """`_settings` as a person reads them."""
    if run.config is None:
        return {}
    settings = _settings(run.config)
    for key in ("init", "data.manifest"):
        value = flat(run.config).get(key)
        if value and not value.startswith(ASSET_PREFIX):
            settings[key] = "/".join(Path(_without_seed(value)).parts[-2:] if key != "init" else [_without_seed(value)])
    return settings


def _derived_names(groups: Sequence[Sequence[ScoredRun]]) -> list[str]:
    table = setting_table([Method("", tuple(group)) for group in groups])
    leaves = [key.rpartition(".")[2] for key in table]
    labels = {key: leaf if leaves.count(leaf) == 1 else key for key, leaf in zip(table, leaves, strict=True)}
    names = []
    for i, group in enumerate(groups):
        settings = [f"{labels[key]}={values[i]}" for key, values in table.items() if values[i]]
        folder = _without_seed(group[0].target)
        names.append(", ".join(settings) if settings and len(table) <= MAX_KEYS else folder)
    return [name if names.count(name) == 1 else groups[i][0].target for i, name in enumerate(names)]


def _without_seed(path: str) -> str:
    """The last part of a path, without the `-seed0` that a sweep gives it."""
    return re.sub(r"-seed\d+$", "", Path(path).name) or path


def _value(value: Any) -> str:
    return "none" if value is None else str(value)
