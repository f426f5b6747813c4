"""Verbs of earlier releases: medvl classify, medvl ground and medvl detect."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medvl.cli.evaluate import ProtocolName
from medvl.cli.options import AsJson, Device, ExcelSafe, names_of, show
from medvl.cli.predict import SLICE_HELP, SOURCES_HELP, How, Temperature, line_of, lines_of


class ThresholdFrom(StrEnum):
    """Where the threshold of F1, accuracy and MCC comes from."""

    fixed = "fixed"
    val = "val"


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
    device: Device = "cpu",
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Classify images by prompts, without training on any label: probability of each class, AUC, F1, accuracy, MCC.

    Images without labels get probabilities alone.

    Intervals of 95 % by patient. The threshold of the published tables, chosen on the scored split, stands apart.
    """
    import sys

    from medvl.core.errors import InputError
    from medvl.data.images import parse_slice
    from medvl.data.records import load_manifest
    from medvl.evaluation.record import refuse_other_results
    from medvl.inference.inputs import as_manifest, default_slice, is_manifest, list_images
    from medvl.tasks.pretrain.zero_shot_classification import (
        as_text,
        options_of,
        split_of,
        zero_shot_classification,
    )
    from medvl.text.prompts import load_prompts

    chosen_family, values = options_of(
        None if protocol is None else protocol.value,
        has_custom_prompts=prompts is not None,
        family=family,
        threshold_from=None if threshold_from is None else threshold_from.value,
        temperature=None if temperature is None else temperature.value,
    )
    if protocol is not None:
        print(f"protocol {protocol.value}: " + ", ".join(f"{k} {v}" for k, v in values.items()), file=sys.stderr)
    choice = parse_slice(slices)
    if choice == "all":
        raise InputError.unsupported(
            "--slice all", expected="one slice: a probability is of one image", remedy="--slice N"
        )
    if len(sources) == 1 and is_manifest(sources[0]):
        records = load_manifest(sources[0])
    else:
        records = as_manifest(list_images(sources, choice=choice, default_slice=default_slice(model)), sources[0])
    split = split or split_of(records)
    same = {"model": model, "split": split, "manifest": str(records.path)}
    refuse_other_results(out, evaluation="zero-shot classify", split_hash=records.split_hash(), **same)
    record = zero_shot_classification(
        model,
        records,
        load_prompts(prompts, chosen_family),
        split=split,
        classes=None if classes is None else names_of(classes),
        out=out,
        seed=seed,
        device=device,
        slice_index=choice,
        **values,
    )
    show(record.summary, as_text(record.summary, out), as_json)


def ground(
    model: Annotated[str, typer.Argument(help="run or model folder of a pre-training (task: pretrain)")],
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCES", help=f"a manifest with masks, to score; or {SOURCES_HELP}")
    ],
    text: Annotated[list[str] | None, typer.Option(help="of images: what to look for; repeat for more")] = None,
    slices: Annotated[str | None, typer.Option("--slice", help=f"{SLICE_HELP} (of images)")] = None,
    target: Annotated[str | None, typer.Option(help="of a manifest: column mask, or NAME of mask_NAME")] = None,
    phrase_column: Annotated[str | None, typer.Option(help="of a manifest: column of the phrases [text]")] = None,
    phrase: Annotated[str | None, typer.Option(help="of a manifest: one phrase for all records")] = None,
    split: Annotated[str | None, typer.Option(help="of a manifest; test is logged in the model's folder [val]")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="cosine, -1 to 1; of a manifest default: the best on val by Dice")
    ] = None,
    sigma: Annotated[float, typer.Option(help="of the Gaussian smoothing, in cells; 0 = none")] = 1.5,
    how: Annotated[How, typer.Option(help="value: path of the attention pool; projector: map before it")] = How.value,
    out: Annotated[Path | None, typer.Option(help="folder for what is written; images need it")] = None,
    seed: Annotated[int | None, typer.Option(help="of a manifest: bootstrap, halves, shuffled phrases [0]")] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Where a phrase is in an image, by a pre-trained model that never saw a mask.

    Of a manifest: Dice, IoU, recall, pointing game and contrast-to-noise ratio against its masks, with intervals by
    patient, beside shuffled phrases and chance; writes cases.csv and summary.json. Of images, and of a manifest without
    masks: the similarity map over each, with --threshold also mask and box.
    """
    import json

    from medvl.core.errors import InputError
    from medvl.data.images import parse_slice
    from medvl.data.records import load_manifest

    of_manifest = {"target": target, "phrase-column": phrase_column, "phrase": phrase, "split": split, "seed": seed}
    choice = parse_slice(slices)
    scored = [source for source in sources if _has_masks(source)]
    if not scored:
        given = [f"--{name}" for name, value in of_manifest.items() if value is not None]
        if given:
            raise InputError.conflict(
                f"{', '.join(given)} with images that are not scored",
                file=sources[0],
                expected="a manifest with masks",
                remedy="--text PHRASE",
            )
        if out is None:
            expected = '--text "right upper zone" and --out FOLDER'
            raise InputError.missing("grounding in images", file=sources[0], expected=expected)
        from medvl.inference.batch import predict_files

        options: dict[str, Any] = {"sigma": sigma, "how": how.value}
        rows = predict_files(
            model, sources, text or [], out, threshold=threshold, device=device, choice=choice, task="pretrain",
            text_column="text", options=options,
        )  # fmt: skip
        show({"phrases": rows, "out": str(out)}, "\n".join(lines_of(rows, model, threshold)), as_json)
        return
    source = scored[0]
    if len(sources) > 1:
        raise InputError.conflict(
            "a manifest with masks among other inputs", file=source, expected="it alone: it is scored"
        )
    if text:
        raise InputError.conflict(
            "--text with a manifest", file=source, remedy="--phrase PHRASE, or --phrase-column COLUMN"
        )
    if choice == "all":
        raise InputError.unsupported(
            "--slice all with a manifest of masks", file=source, expected="one slice: --slice N"
        )
    if phrase is not None and phrase_column is not None:
        raise InputError.conflict("--phrase and --phrase-column", expected="one of them")
    from medvl.evaluation.record import refuse_other_results
    from medvl.tasks.pretrain.grounding import as_text, grounding

    name = (target or "mask").removeprefix("mask_")
    # A mask cell that is empty is nothing to look for here, whatever it means elsewhere.
    records = load_manifest(source, text_column=phrase_column or "text", classes=[name] if name != "mask" else None)
    same = {"model": model, "split": split or "val", "target": name, "manifest": str(records.path)}
    refuse_other_results(out, evaluation="ground", split_hash=records.split_hash(), **same)
    record = grounding(
        model,
        records,
        target=name,
        split=split or "val",
        phrase=phrase,
        threshold=threshold,
        sigma=sigma,
        how=how.value,
        out=out,
        seed=seed or 0,
        device=device,
        slice_index=choice,
    )
    summary = record.summary
    print(json.dumps(summary) if as_json else as_text(summary, out))
    practice = summary["published_practice"]
    if practice is not None and practice["threshold"] is not None and summary["split"] == "val" and not as_json:
        print(f"for an image: --threshold {practice['threshold']:.4g}, the best of all val cases by Dice per case")


def _has_masks(source: str) -> bool:
    """Whether a source is a manifest with masks, which is scored."""
    from medvl.assets import SHIPPED
    from medvl.data.record import NOT_A_MASK
    from medvl.data.tables import read_table
    from medvl.inference.inputs import is_manifest

    if not is_manifest(source):
        return False
    if source.startswith(SHIPPED):
        return True
    columns = read_table(source, needed=("image",)).columns
    return any(name == "mask" or (name.startswith("mask_") and name not in NOT_A_MASK) for name in columns)


def detect(
    model: Annotated[str, typer.Argument(help="run or model folder of task: detect")],
    sources: Annotated[list[str], typer.Argument(metavar="IMAGES", help=SOURCES_HELP)],
    out: Annotated[Path, typer.Option(help="folder for detections.csv and overlays")],
    slices: Annotated[str | None, typer.Option("--slice", help=SLICE_HELP)] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="lowest score; default detect.score_threshold")
    ] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Find boxes in images, as `medvl predict` with a detector: detections.csv in native pixels, and overlays."""
    from medvl.data.images import parse_slice
    from medvl.inference.batch import predict_files

    rows = predict_files(
        model, sources, [], out, threshold=threshold, device=device, choice=parse_slice(slices), task="detect"
    )
    lines = [*map(line_of, rows), f"{len(rows)} boxes on {len({row['id'] for row in rows})} images"]
    show({"detections": rows, "out": str(out)}, "\n".join(lines) + f"; {out}: detections.csv", as_json)


VERBS: dict[str, Callable[..., None]] = {"classify": classify, "ground": ground, "detect": detect}
