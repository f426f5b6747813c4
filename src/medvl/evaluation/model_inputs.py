"""What the verbs evaluate and report are given: a model or a folder of masks, a manifest, and how to read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvl.config import Config, DataConfig, config_dict, load_config, make_config, manifest_path
from medvl.config.overrides import parse_override
from medvl.core.errors import InputError, nearest
from medvl.data.context import add_context, column_kinds, say_unknown
from medvl.data.hashes import read_stages
from medvl.data.record import Manifest, Record
from medvl.data.records import configured_manifest
from medvl.data.text_input import TextCoverage, text_coverage
from medvl.evaluation.case_metrics import MGCA_BATCH
from medvl.evaluation.prediction_sources import FolderSource, PredictorSource
from medvl.inference.model_folder import find_model, weights_hash

# What may differ between training and evaluation without making another model of it.
READING_KEYS = (
    "columns", "text_column", "constant_text", "text_shuffle", "classes", "empty_means_absent", "window", "slice_index",
    "laterality", "context_missing", "context_shuffle",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inputs:
    """A source, the way to read the manifest, and the model's folder (None for a folder of masks)."""

    source: FolderSource | PredictorSource
    data: DataConfig
    model_folder: Path | None
    training_manifest: Path | None
    context_seed: int = 0  # of `data.context_shuffle` and `data.text_shuffle`: the run's

    @property
    def mgca_batch(self) -> int:
        """Cases of a batch of `dice_mgca`: as in training; of a folder of masks MGCA's own number."""
        return self.source.predictor.config.train.batch_size if isinstance(self.source, PredictorSource) else MGCA_BATCH

    def texts(self, records: Sequence[Record]) -> TextCoverage | None:
        """What the model's text encoder makes of the texts of some records; None for a source without text."""
        predictor = self.source.predictor if isinstance(self.source, PredictorSource) else None
        if predictor is None or predictor.encoder is None:
            return None
        return text_coverage(predictor.encoder, predictor.written(records))

    def manifest(self, path: Path | None) -> Manifest:
        """Load a manifest, or the one that the model was trained on."""
        path = path or self.training_manifest
        if path is None:
            raise InputError.missing("no manifest", expected="a manifest after the model or folder")
        manifest = configured_manifest(self.data, path)
        manifest = add_context(manifest, self.data, self.context_seed, needed=False)
        if isinstance(self.source, PredictorSource) and (rules := self.source.predictor.context) is not None:
            rules.check(manifest.records, manifest.path)
            say_unknown(rules, manifest.records)
        return manifest


def is_model(target: str | Path) -> bool:
    """Whether `target` is a MODEL or RUN folder (or a shipped model) rather than a folder of masks."""
    folder = Path(target)
    marks = (folder / "format_version", folder / "model" / "format_version", folder / "checkpoints")
    return str(target).startswith("medvl:") or any(mark.exists() for mark in marks)


def task_of(target: str | Path) -> str | None:
    """The task that a MODEL or RUN was trained for; None for a folder of masks, or where the configuration is gone."""
    if not is_model(target):
        return None
    path = find_model(target) / "config.yaml"
    return load_config(path).task if path.is_file() else None


def open_inputs(target: str | Path, overrides: Sequence[str] = (), *, device: str = "cpu") -> Inputs:
    """Open a MODEL, a RUN, a shipped model or a folder of masks.

    Args:
        overrides: `data.KEY=VALUE` for the keys of `READING_KEYS`; anything else would be another model.
    """
    changes = parse_overrides(overrides)
    if not is_model(target):
        data = make_config({"data": changes}, source="overrides").data
        return Inputs(FolderSource(Path(target), window=data.window, slice_index=data.slice_index), data, None, None)
    folder = find_model(target)
    from medvl.inference.predictor import Predictor

    predictor = Predictor.load(target, device=device)
    tree = config_dict(predictor.config)
    data = make_config({**tree, "data": {**tree["data"], **changes}}, source="overrides").data
    # The classes of the network stay its own; how a pixel is read follows the overrides.
    reading = replace(predictor.config.data, window=data.window, slice_index=data.slice_index)
    predictor.config = replace(predictor.config, data=reading)
    model_hash = weights_hash(folder)
    extra: dict[str, Any] = {"model_hash": model_hash}
    if data.context_columns:
        extra["context"] = {
            "columns": list(column_kinds(data)),
            "as": data.context_as,
            "shuffled": data.context_shuffle,
        }
    if changes:
        extra["overrides"] = list(overrides)
    trained_on = manifest_path(predictor.config) if predictor.config.data.manifest else None
    source = PredictorSource(predictor, str(target), extra, read_stages(folder))
    return Inputs(source, data, folder, trained_on, predictor.config.train.seed)


def read_as_trained(config: Config, manifest: str | Path, overrides: Sequence[str]) -> tuple[Manifest, DataConfig]:
    """A manifest as a model's configuration reads it, and that with the overrides `data.KEY=VALUE`."""
    tree = config_dict(config)
    changed = {**tree["data"], **parse_overrides(overrides)}
    data = make_config({**tree, "data": changed}, source="overrides").data
    return configured_manifest(data, manifest), data


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`data.KEY=VALUE` of the keys that evaluation may change -> {KEY: value}."""
    changes: dict[str, Any] = {}
    for override in overrides:
        key, value = parse_override(override, "data.text_column=text_derived")
        name = key.removeprefix("data.")
        if name not in READING_KEYS:
            like = nearest(name, READING_KEYS)
            raise InputError.unknown(
                f"{key} cannot be changed for an evaluation",
                expected=", ".join(f"data.{item}" for item in READING_KEYS),
                remedy=f"did you mean data.{like}?" if like else None,
            )
        changes[name] = value
    return changes
