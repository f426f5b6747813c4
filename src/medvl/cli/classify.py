"""medvl classify."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.excel import ExcelSafe
from medvl.cli.predict import SOURCES_HELP


class ThresholdFrom(StrEnum):
    """Where the threshold of F1, accuracy and MCC comes from."""

    fixed = "fixed"
    val = "val"


class ProtocolName(StrEnum):
    """Published protocols of zero-shot classification; what each sets: docs/protocols.md."""

    chexzero = "chexzero"
    medklip = "medklip"
    kad = "kad"


class Temperature(StrEnum):
    """What the cosines are divided by before the softmax."""

    model = "model"
    none = "none"


def classify(
    model: Annotated[str, typer.Argument(help="run or model folder of a pre-training (task: pretrain)")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCES", help=f"a manifest with labels (labels_unknown = not known), to score; or {SOURCES_HELP}"
        ),
    ],
    prompts: Annotated[Path | None, typer.Option(help="YAML of prompt families; default the shipped one")] = None,
    family: Annotated[str | None, typer.Option(help="family of that file; default its first (chexzero)")] = None,
    classes: Annotated[str | None, typer.Option(help="a,b,...; default every label of the manifest")] = None,
    split: Annotated[
        str | None, typer.Option(help="of a manifest: split to score [val; all where it has no splits]; test is logged")
    ] = None,
    slices: Annotated[
        str | None, typer.Option("--slice", help="of volumes and files of several frames: a number from 0")
    ] = None,
    protocol: Annotated[
        ProtocolName | None, typer.Option(help="published prompts and thresholds; options that are given win")
    ] = None,
    threshold_from: Annotated[
        ThresholdFrom | None,
        typer.Option(help="val (default): chosen on val, per class, by F1 and by MCC; fixed: 0.5"),
    ] = None,
    temperature: Annotated[
        Temperature | None,
        typer.Option(help="model (default): divide the cosines by pretrain.sigma; none: as CheXzero. Same AUC"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for cases.csv and summary.json")] = None,
    seed: Annotated[int, typer.Option(help="of the bootstrap and of the halves of val")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print summary.json")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Classify images by prompts, without training on any label: probability of each class, AUC, F1, accuracy, MCC.

    Images without labels get probabilities alone.

    Intervals of 95 % by patient. The threshold of the published tables, chosen on the scored split, stands apart.
    """
    import json
    import sys

    from medvl.core.errors import InputError
    from medvl.core.files import keep_other_results
    from medvl.data.records import load_manifest
    from medvl.data.slices import parse_slice
    from medvl.inference.inputs import as_manifest, default_slice, is_manifest, list_images
    from medvl.tasks.pretrain.zero_shot_classification import (
        FORMAT,
        as_text,
        options_of,
        split_of,
        zero_shot_classification,
    )
    from medvl.text.prompts import load_prompts

    asked_family, values = options_of(
        None if protocol is None else protocol.value,
        own_prompts=prompts is not None,
        family=family,
        threshold_from=None if threshold_from is None else threshold_from.value,
        temperature=None if temperature is None else temperature.value,
    )
    if protocol is not None:
        print(f"protocol {protocol.value}: " + ", ".join(f"{k} {v}" for k, v in values.items()), file=sys.stderr)
    choice = parse_slice(slices)
    if choice == "all":
        raise InputError("--slice all", expected="one slice: a probability is of one image", remedy="--slice N")
    if len(sources) == 1 and is_manifest(sources[0]):
        records = load_manifest(sources[0])
    else:
        records = as_manifest(list_images(sources, choice=choice, default_slice=default_slice(model)), sources[0])
    split = split or split_of(records)
    same = {"model": model, "split": split, "manifest": str(records.path)}
    keep_other_results(out, format=FORMAT, split_hash=records.split_hash(), **same)
    summary = zero_shot_classification(
        model,
        records,
        load_prompts(prompts, asked_family),
        split=split,
        classes=None if classes is None else [name.strip() for name in classes.split(",") if name.strip()],
        out=out,
        seed=seed,
        device=device,
        slice_index=choice,
        **values,
    )
    print(json.dumps(summary) if as_json else as_text(summary, out))
