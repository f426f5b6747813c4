"""medvl ground."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medvl.cli.excel import ExcelSafe
from medvl.cli.predict import SLICE_HELP, SOURCES_HELP


class How(StrEnum):
    """How a cell of the image gets into the space of the texts."""

    value = "value"
    projector = "projector"


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
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Where a phrase is in an image, by a pre-trained model that never saw a mask.

    Of a manifest: Dice, IoU, recall, pointing game and contrast-to-noise ratio against its masks, with intervals by
    patient, beside shuffled phrases and chance; writes cases.csv and summary.json. Of images, and of a manifest without
    masks: the similarity map over each, with --threshold also mask and box.
    """
    import json

    from medvl.core.errors import InputError
    from medvl.data.records import load_manifest
    from medvl.data.slices import parse_slice

    of_manifest = {"target": target, "phrase-column": phrase_column, "phrase": phrase, "split": split, "seed": seed}
    choice = parse_slice(slices)
    scored = [source for source in sources if _has_masks(source)]
    if not scored:
        given = [f"--{name}" for name, value in of_manifest.items() if value is not None]
        if given:
            raise InputError(
                f"{', '.join(given)} with images that are not scored",
                file=sources[0],
                expected="a manifest with masks",
                remedy="--text PHRASE",
            )
        if out is None:
            expected = '--text "right upper zone" and --out FOLDER'
            raise InputError("grounding in images", file=sources[0], expected=expected)
        from medvl.tasks.pretrain.predict import ground_files

        options: dict[str, Any] = {"threshold": threshold, "sigma": sigma, "how": how.value}
        rows = ground_files(model, sources, text or [], out, choice=choice, device=device, **options)
        lines = [*map(_line, rows), *([_no_threshold(model)] if threshold is None else [])]
        print(json.dumps({"phrases": rows, "out": str(out)}) if as_json else "\n".join(lines))
        return
    source = scored[0]
    if len(sources) > 1:
        raise InputError("a manifest with masks among other inputs", file=source, expected="it alone: it is scored")
    if text:
        raise InputError("--text with a manifest", file=source, remedy="--phrase PHRASE, or --phrase-column COLUMN")
    if choice == "all":
        raise InputError("--slice all with a manifest of masks", file=source, expected="one slice: --slice N")
    if phrase is not None and phrase_column is not None:
        raise InputError("--phrase and --phrase-column", expected="one of them")
    from medvl.core.files import keep_other_results
    from medvl.tasks.pretrain.grounding import FORMAT, as_text, grounding

    name = (target or "mask").removeprefix("mask_")
    # A mask cell that is empty is nothing to look for here, whatever it means elsewhere.
    records = load_manifest(source, text_column=phrase_column or "text", classes=[name] if name != "mask" else None)
    same = {"model": model, "split": split or "val", "target": name, "manifest": str(records.path)}
    keep_other_results(out, format=FORMAT, split_hash=records.split_hash(), **same)
    summary = grounding(
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
    print(json.dumps(summary) if as_json else as_text(summary, out))
    practice = summary["published_practice"]
    if practice is not None and practice["threshold"] is not None and summary["split"] == "val" and not as_json:
        print(f"for an image: --threshold {practice['threshold']:.4g}, the best of all val cases by Dice per case")


def _has_masks(source: str) -> bool:
    """Whether a source is a manifest with masks, which is scored."""
    from medvl.data.record import NOT_A_MASK
    from medvl.data.records import SHIPPED
    from medvl.data.tables import read_table
    from medvl.inference.inputs import is_manifest

    if not is_manifest(source):
        return False
    if source.startswith(SHIPPED):
        return True
    columns = read_table(source, needed=("image",)).columns
    return any(name == "mask" or (name.startswith("mask_") and name not in NOT_A_MASK) for name in columns)


def _line(row: dict[str, Any]) -> str:
    if row["mask"] is None:
        box = "no mask, no box"
    else:
        box = "no box" if row["box"] is None else "box x0 y0 x1 y1: {} {} {} {}".format(*row["box"])
    x, y = row["highest_xy"]
    return f"{row['similarity']}  {row['text']!r}  {box}; highest {row['highest']:.3f} at x {x}, y {y}"


def _no_threshold(model: str) -> str:
    """How to come by a threshold: a cosine means something only for one model, set and `--how`."""
    return (
        "mask and box need --threshold: "
        f"medvl ground {model} MANIFEST --split val, with masks of what is looked for, prints the best of val"
    )
