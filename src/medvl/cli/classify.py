"""medvl classify."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ThresholdFrom(StrEnum):
    """Where the threshold of F1, accuracy and MCC comes from."""

    fixed = "fixed"
    val = "val"


class Temperature(StrEnum):
    """What the cosines are divided by before the softmax."""

    model = "model"
    none = "none"


def classify(
    model: Annotated[str, typer.Argument(help="run or model folder of a pre-training (task: pretrain)")],
    manifest: Annotated[Path, typer.Argument(help="manifest with labels (labels_unknown = not known)")],
    prompts: Annotated[Path | None, typer.Option(help="YAML of prompt families; default the shipped one")] = None,
    family: Annotated[str | None, typer.Option(help="family of that file; default its first (chexzero)")] = None,
    classes: Annotated[str | None, typer.Option(help="a,b,...; default every label of the manifest")] = None,
    split: Annotated[str, typer.Option(help="split to score; test is logged in the model's folder")] = "val",
    threshold_from: Annotated[
        ThresholdFrom, typer.Option(help="fixed: 0.5; val: chosen on val, per class, by F1 and by MCC")
    ] = ThresholdFrom.fixed,
    temperature: Annotated[
        Temperature, typer.Option(help="model: divide the cosines by pretrain.sigma; none: as CheXzero. Same AUC")
    ] = Temperature.model,
    out: Annotated[Path | None, typer.Option(help="folder for cases.csv and summary.json")] = None,
    seed: Annotated[int, typer.Option(help="of the bootstrap and of the halves of val")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print summary.json")] = False,
) -> None:
    """Classify images by prompts, without training on any label: probability of each class, AUC, F1, accuracy, MCC.

    Intervals of 95 % by patient. The threshold of the published tables, chosen on the scored split, stands apart.
    """
    import json

    from medvl.data.records import load_manifest
    from medvl.evaluate.zero_shot_classification import as_text, zero_shot_classification
    from medvl.text.prompts import load_prompts

    summary = zero_shot_classification(
        model,
        load_manifest(manifest),
        load_prompts(prompts, family),
        split=split,
        classes=None if classes is None else [name.strip() for name in classes.split(",") if name.strip()],
        threshold_from=threshold_from.value,
        temperature=temperature.value,
        out=out,
        seed=seed,
        device=device,
    )
    print(json.dumps(summary) if as_json else as_text(summary, out))
