"""The points of a learning curve: labels used and Dice reached, of finished runs or of a sweep's result cells.

All points must be one method: runs that differ in their label fraction and their seeds alone, scored on val alike.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medvl.config import ASSET_PREFIX, config_dict, load_config, make_config
from medvl.config.differences import MACHINE_KEYS, SEED_KEYS, differences, differences_text, flat
from medvl.core.errors import Fault, InputError, nearest
from medvl.data.labels import training_records
from medvl.data.record import Manifest
from medvl.data.records import configured_manifest
from medvl.evaluation.model_inputs import is_model
from medvl.evaluation.scored_runs import open_runs

Unit = Literal["images", "patients", "records"]
SPLIT = "val"  # how many masks to buy is a choice, and choices are made on validation
FRACTION = "data.label_fraction"
SCORED_ALIKE = ("manifest_hash", "split_hash", "grid", "empty_mask", "threshold", "threshold_source", "text")


@dataclass(frozen=True, slots=True)
class Point:
    """One run. `labels` are the counts of plan.json; `scored` is what must be equal for Dice to be comparable."""

    source: str
    fraction: float
    seed: str
    dice: float  # per image, mean over the cases of val
    labels: Mapping[str, Any]
    settings: Mapping[str, Any]
    scored: Mapping[str, Any]

    def count(self, unit: Unit) -> int:
        """How many images, patients or records (rows, each with its masks) were labelled."""
        return int(self.labels[f"labelled_{unit}"])


def read_points(
    targets: Sequence[str], *, variant: str | None = None, manifest: Path | None = None, device: str = "cpu"
) -> list[Point]:
    """Points of RUN folders and of folders of result cells, sorted by fraction and seed.

    A run without a valid evaluation in RUN/report/val is evaluated first, as `medvl compare` does.

    Args:
        variant: which of a sweep's variants; needed where the cells hold several.
        manifest: the one that older cells were trained on, which do not say how many images were labelled.

    Raises:
        InputError: what is no run and no folder of cells; more than one method; runs that were not scored alike.
    """
    runs, folders = [], []
    for target in targets:
        if is_model(target):
            runs.append(target)
        elif Path(target).is_dir() and any(Path(target).glob("*.json")):
            folders.append(Path(target))
        else:
            raise InputError.missing_file(
                "neither a finished run nor a folder of result cells" if Path(target).exists() else "no such folder",
                file=target,
                expected="RUN folders, or the results folder of a sweep",
            )
    labels = {run: _labels_of_run(run) for run in runs}  # before hours of evaluation
    points = [point for folder in folders for point in _cells(folder, variant, manifest)]
    for run in open_runs(runs, split=SPLIT, device=device):
        config = run.config
        assert config is not None  # a run has one
        points.append(_point(run.target, run.seed, run.summary, config, labels[run.target]))
    _check_one_method(points)
    return sorted(points, key=lambda point: (point.fraction, point.seed, point.source))


def _labels_of_run(run: str) -> dict[str, Any]:
    path = Path(run) / "plan.json"
    labels = json.loads(path.read_text(encoding="utf-8")).get("labels") if path.is_file() else None
    if not isinstance(labels, dict):
        raise InputError.missing_file(
            "no plan.json that counts the labels", file=run, expected="a RUN folder, not only its model"
        )
    return labels


def _point(
    source: str, seed: str, summary: Mapping[str, Any], config: Mapping[str, Any], labels: Mapping[str, Any]
) -> Point:
    dice = summary["metrics"]["dice_per_image"]["mean"]
    if dice is None:
        raise InputError.missing("no Dice: nothing was scored", file=source)
    scored = {key: summary.get(key) for key in SCORED_ALIKE}
    if scored["threshold_source"] != "fixed":
        scored["threshold"] = None  # one chosen on val is each run's own
    return Point(source, float(labels["label_fraction"]), seed, float(dice), labels, _settings(config), scored)


def _cells(folder: Path, variant: str | None, manifest: Path | None) -> list[Point]:
    cells: dict[Path, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            cell = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError.damaged(f"not valid JSON: {error}", file=path) from None
        if isinstance(cell, dict) and "grid_point" in cell and "config" in cell:
            cells[path] = cell
    if not cells:
        raise InputError.missing_file(
            "no result cell of a sweep here", file=folder, expected="JSON files that medvl x sweep wrote"
        )
    variants = list(dict.fromkeys(str(cell["variant"]) for cell in cells.values()))
    if variant is None and len(variants) > 1:
        raise InputError.ambiguous(
            f"cells of {len(variants)} methods: {', '.join(variants)}", file=folder, remedy="choose one: --variant NAME"
        )
    if variant is not None and variant not in variants:
        like = nearest(variant, variants)
        raise InputError.unknown(
            f"no cell of variant {variant}",
            file=folder,
            expected=", ".join(variants),
            remedy=f"did you mean {like}?" if like else None,
        )
    points, opened = [], dict[str, Manifest]()
    for path, cell in cells.items():
        if cell["variant"] != (variant or variants[0]):
            continue
        if cell["split"] != SPLIT:
            raise InputError.mismatch(
                f"scored on {cell['split']}", file=path, expected=SPLIT, remedy="choices are made on validation"
            )
        labels = cell.get("labels") or _recount(path, cell, manifest, opened)
        label_seed = cell["config"]["data"].get("label_seed")
        seed = str(cell["seed"]) + (f" (labels {label_seed})" if label_seed is not None else "")
        points.append(_point(str(path), seed, cell, cell["config"], labels))
    return points


def _recount(path: Path, cell: Mapping[str, Any], given: Path | None, opened: dict[str, Manifest]) -> dict[str, Any]:
    """The label counts of a cell that was written before cells held them: drawn again from its configuration."""
    config = make_config(cell["config"], source=str(path))
    name = config.data.manifest
    if given is None and not name.startswith(ASSET_PREFIX):
        raise InputError.missing(
            "the cell does not say how many images were labelled",
            file=path,
            remedy=f"say where its manifest {name} is: --manifest FILE",
        )
    data = config.data
    key = json.dumps([data.columns, data.text_column, data.classes, data.empty_means_absent, data.constant_text, name])
    if key not in opened:
        # A count needs no pixels, and the table may be here without its images.
        opened[key] = configured_manifest(data, given, check_files=False)
    same = cell.get("manifest") == name  # else it was scored on another manifest, whose hash has no meaning here
    if same and opened[key].content_hash() != cell["manifest_hash"]:
        raise InputError.mismatch(
            f"not the manifest that {path.name} was trained on",
            file=opened[key].path,
            expected=f"content hash {cell['manifest_hash'][:12]}",
        )
    return training_records(opened[key].split("train"), config)[2]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal along the curve; `init` by what that run was made of, its label fraction left out too."""
    ignored = MACHINE_KEYS | SEED_KEYS | {FRACTION}
    settings = {key: value for key, value in flat(config).items() if key not in ignored}
    init = settings.get("init")
    if init and not init.startswith(ASSET_PREFIX):
        stored = Path(init) / "config.yaml"
        if stored.is_file():
            origin = json.dumps(_settings(config_dict(load_config(stored))), sort_keys=True)
            settings["init"] = hashlib.sha256(origin.encode()).hexdigest()
        else:  # a cell's "@prototype", or a run that is not here any more, as a sweep names its folder
            settings["init"] = re.sub(r"(-label_fraction_\w+)?(-seed\d+)?$", "", Path(init).name)
    return settings


def _check_one_method(points: Sequence[Point]) -> None:
    first, faults = points[0], []
    for point in points[1:]:
        if changed := differences(first.settings, point.settings):
            faults.append(
                Fault.mismatch(f"another method than {first.source} ({differences_text(changed)})", file=point.source)
            )
        elif changed := {
            key: (first.scored[key], point.scored[key])
            for key in SCORED_ALIKE
            if first.scored[key] != point.scored[key]
        }:
            faults.append(
                Fault.mismatch(f"not scored as {first.source} was: {differences_text(changed)}", file=point.source)
            )
    seen: dict[tuple[float, str], str] = {}
    for point in points:
        other = seen.setdefault((point.fraction, point.seed), point.source)
        if other != point.source:
            faults.append(
                Fault.duplicate(f"the fraction and seed of {other} again", file=point.source, remedy="leave one out")
            )
    if faults:
        raise InputError(faults)
