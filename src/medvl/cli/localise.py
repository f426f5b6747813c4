"""medvl localise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.excel import ExcelSafe


def localise(
    model: Annotated[str, typer.Argument(help="run or model folder of a pre-training (task: pretrain)")],
    manifest: Annotated[Path, typer.Argument(help="manifest whose masks are looked for")],
    target: Annotated[str, typer.Option(help="column of the mask: mask, or NAME of mask_NAME")] = "mask",
    lungs: Annotated[str | None, typer.Option(help="NAME of the column of the lung field, for comparison")] = None,
    text_column: Annotated[
        str, typer.Option(help="column of the reports; read of models with pretrain.mask.source=evidence only")
    ] = "text",
    split: Annotated[str, typer.Option(help="train, val, test, or all (then each split apart too)")] = "val",
    out: Annotated[Path | None, typer.Option(help="folder for cases.csv and summary.json")] = None,
    seed: Annotated[int, typer.Option(help="of the order in which masks are shuffled")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print summary.json")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Where a pre-trained model looks: attention, pseudo mask and decoder against masks it was never trained on.

    Overlap, pointing game and ROC area, each with a 95 % interval by patient, beside the mask of another image
    (shuffled), the lung field and chance.
    """
    import json

    from medvl.core.files import keep_other_results
    from medvl.data.records import load_manifest
    from medvl.experiments.localise import FORMAT, as_text, localisation

    classes = [name.removeprefix("mask_") for name in (target, *([lungs] if lungs else []))]
    # A mask cell that is empty is nothing to look for here, whatever it means elsewhere.
    records = load_manifest(manifest, text_column=text_column, classes=classes if classes != ["mask"] else None)
    same = {"model": model, "split": split, "target": classes[0], "manifest": str(records.path)}
    keep_other_results(out, format=FORMAT, split_hash=records.split_hash(), **same)
    summary = localisation(
        model, records, split=split, target=classes[0], lungs=classes[1] if lungs else None, out=out, seed=seed
    )
    print(json.dumps(summary) if as_json else as_text(summary))
