"""Cells of a sweep that train nothing: they use the run of another cell, a pre-training, and score its predictions.

    prompts, pseudo masks: {zero_shot: classify, run: "@pseudo masks", manifest: $DATA/nih64/manifest.csv}
    lesions, pseudo masks: {zero_shot: ground, run: "@pseudo masks", manifest: $DATA/x/manifest.csv, target: lesion}

The other keys are the options of the two. Recipe, overrides and grid of the sweep do not
touch what is asked; they made the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from medvl.core.errors import Fault, InputError, nearest
from medvl.core.plain_yaml import validation_faults
from medvl.data.record import Manifest
from medvl.data.records import load_manifest
from medvl.evaluation.record import EvaluationRecord, reuse_or_run
from medvl.inference.model_folder import weights_hash

_STRICT = ConfigDict(extra="forbid")
KEY = "zero_shot"
PATHS = ("manifest", "prompts")


@dataclass(config=_STRICT)
class ClassQuery:
    """`zero_shot: classify`: classification by prompts."""

    run: str  # @NAME of a variant
    manifest: str
    split: str = "val"
    prompts: str | None = None
    family: str | None = None
    classes: list[str] | None = None
    protocol: Literal["chexzero", "medklip", "kad"] | None = None
    threshold_from: Literal["fixed", "val"] | None = None
    temperature: Literal["model", "none"] | None = None

    def score(self, run: Path, out: Path, device: str) -> EvaluationRecord:
        """The record of that evaluation; it and cases.csv are written into `out`."""
        from medvl.tasks.pretrain.zero_shot_classification import options_of, zero_shot_classification
        from medvl.text.prompts import load_prompts

        family, options = options_of(
            self.protocol,
            has_custom_prompts=self.prompts is not None,
            family=self.family,
            threshold_from=self.threshold_from,
            temperature=self.temperature,
        )
        return zero_shot_classification(
            str(run),
            _manifest(self.manifest),
            load_prompts(self.prompts, family),
            split=self.split,
            classes=self.classes,
            **options,
            out=out,
            device=device,
        )


@dataclass(config=_STRICT)
class PhraseQuery:
    """`zero_shot: ground`: phrases against masks."""

    run: str  # @NAME of a variant
    manifest: str
    split: str = "val"
    target: str = "mask"
    phrase_column: str = "text"
    phrase: str | None = None
    threshold: Annotated[float, Ge(-1), Le(1)] | None = None
    sigma: Annotated[float, Ge(0)] = 1.5
    how: Literal["value", "projector"] = "value"

    def score(self, run: Path, out: Path, device: str) -> EvaluationRecord:
        """The record of that evaluation; it and cases.csv are written into `out`."""
        from medvl.tasks.pretrain.grounding import grounding

        classes = [self.target] if self.target != "mask" else None
        return grounding(
            str(run),
            _manifest(self.manifest, text_column=self.phrase_column, classes=classes),
            target=self.target,
            split=self.split,
            phrase=self.phrase,
            threshold=self.threshold,
            sigma=self.sigma,
            how=self.how,
            out=out,
            device=device,
        )


Query = ClassQuery | PhraseQuery
KINDS: dict[str, type[Query]] = {"classify": ClassQuery, "ground": PhraseQuery}


def read_query(name: str, keys: Mapping[str, Any], file: Path) -> Query:
    """The options of a variant that has the key `zero_shot`. InputError on an unknown kind or key, or a wrong value."""
    kind = keys[KEY]
    if kind not in KINDS:
        like = nearest(str(kind), KINDS)
        remedy = f"did you mean {like}?" if like else None
        raise InputError.unknown(f"variant {name}: {KEY}: {kind}", file=file, expected=" | ".join(KINDS), remedy=remedy)
    given = {key: value for key, value in keys.items() if key != KEY}
    known = [item.name for item in fields(KINDS[kind])]
    faults = []
    for key in given:
        if key not in known:
            like = nearest(key, known)
            remedy = f"did you mean {like}?" if like else f"known keys: {', '.join(known)}"
            faults.append(
                Fault.unknown_key(f"variant {name}: unknown key {key} beside {KEY}: {kind}", file=file, remedy=remedy)
            )
    if faults:
        raise InputError(faults)
    try:
        query = TypeAdapter(KINDS[kind]).validate_python(given)
    except ValidationError as error:
        raise InputError(validation_faults(error, file, f"variant {name}: ")) from None
    if not query.run.startswith("@"):
        raise InputError.malformed(
            f"variant {name}: run: {query.run}",
            file=file,
            expected='"@NAME" of a variant that pre-trains',
            remedy="medvl evaluate takes any other run",
        )
    return query


def score_query(query: Query, run: Path, out: Path, device: str) -> dict[str, Any]:
    """The summary of a cell, with its files in `out`; what is there of the same weights and options is taken as it is.

    `asked`: with paths that can be opened. Raises InputError where the run cannot be used.
    """
    options = asdict(query)
    same = {"model_hash": weights_hash(run), "manifest_hash": _manifest(query.manifest).content_hash()}

    def evaluate() -> EvaluationRecord:
        record = replace(query.score(run, out, device), options=options)
        record.write(out, {})
        return record

    return reuse_or_run(out, {**same, "options": options}, evaluate).summary


def _manifest(name: str, **reading: Any) -> Manifest:
    return load_manifest(name, **reading)
