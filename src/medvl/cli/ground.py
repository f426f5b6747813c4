"""medvl ground."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from medvl.infer.zero_shot import How as HowName


class How(StrEnum):
    """How a cell of the image gets into the space of the texts."""

    value = "value"
    projector = "projector"


def ground(
    model: Annotated[str, typer.Argument(help="run or model folder of a pre-training (task: pretrain)")],
    source: Annotated[Path, typer.Argument(help="a manifest with masks, to score; or one image, to look at")],
    text: Annotated[list[str] | None, typer.Option(help="of an image: what to look for; repeat for more")] = None,
    target: Annotated[str | None, typer.Option(help="of a manifest: column mask, or NAME of mask_NAME")] = None,
    phrase_column: Annotated[str | None, typer.Option(help="of a manifest: column of the phrases [text]")] = None,
    phrase: Annotated[str | None, typer.Option(help="of a manifest: one phrase for all records")] = None,
    split: Annotated[str | None, typer.Option(help="of a manifest; test is logged in the model's folder [val]")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="cosine, -1 to 1; of a manifest default: the best on val by Dice")
    ] = None,
    sigma: Annotated[float, typer.Option(help="of the Gaussian smoothing, in cells; 0 = none")] = 1.5,
    how: Annotated[How, typer.Option(help="value: path of the attention pool; projector: map before it")] = How.value,
    out: Annotated[Path | None, typer.Option(help="folder for what is written; an image needs it")] = None,
    seed: Annotated[int | None, typer.Option(help="of a manifest: bootstrap, halves, shuffled phrases [0]")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Where a phrase is in an image, by a pre-trained model that never saw a mask.

    Of a manifest: Dice, IoU, recall, pointing game and contrast-to-noise ratio against its masks, with intervals by
    patient, beside shuffled phrases and chance; writes cases.csv and summary.json. Of an image: the similarity map over
    it, with --threshold also mask and box.
    """
    import json

    from medvl.data.records import load_manifest
    from medvl.errors import InputError

    of_manifest = {"target": target, "phrase-column": phrase_column, "phrase": phrase, "split": split, "seed": seed}
    if not _is_table(source):
        given = [f"--{name}" for name, value in of_manifest.items() if value is not None]
        if given:
            raise InputError(
                f"{', '.join(given)} with an image", file=source, expected="a manifest", remedy="--text PHRASE"
            )
        rows = _ground_image(model, source, text or [], threshold, sigma, how.value, out, device)
        lines = [*map(_line, rows), *([_no_threshold(model)] if threshold is None else [])]
        print(json.dumps({"phrases": rows, "out": str(out)}) if as_json else "\n".join(lines))
        return
    if text:
        raise InputError("--text with a manifest", file=source, remedy="--phrase PHRASE, or --phrase-column COLUMN")
    if phrase is not None and phrase_column is not None:
        raise InputError("--phrase and --phrase-column", expected="one of them")
    from medvl.core.files import keep_other_results
    from medvl.evaluate.grounding import FORMAT, as_text, grounding

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
    )
    print(json.dumps(summary) if as_json else as_text(summary, out))
    practice = summary["published_practice"]
    if practice is not None and summary["split"] == "val" and not as_json:
        print(f"for an image: --threshold {practice['threshold']:.4g}, the best of all val cases by Dice per case")


def _is_table(source: Path) -> bool:
    from medvl.data.records import SHIPPED
    from medvl.data.tables import SUFFIXES

    return source.suffix.lower() in SUFFIXES or str(source).startswith(SHIPPED)


def _ground_image(
    model: str,
    path: Path,
    phrases: list[str],
    threshold: float | None,
    sigma: float,
    how: HowName,
    out: Path | None,
    device: str,
) -> list[dict[str, Any]]:
    """Writes <id>__<phrase-slug>_similarity.png, with a threshold also <id>__<phrase-slug>.png; a row per phrase."""
    from medvl.errors import InputError, warn
    from medvl.infer.writers import slug, write_mask_png
    from medvl.infer.zero_shot import ZeroShot, write_similarity

    if not phrases or out is None:
        raise InputError("grounding in an image", file=path, expected='--text "right upper zone" and --out FOLDER')
    reader = ZeroShot.load(model, device).set_image(path)
    found = [reader.ground(phrase, threshold, sigma, how) for phrase in phrases]
    out.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    rows: list[dict[str, Any]] = []
    for one in found:
        for note in one.warnings:
            warn(note, place=f"{name}: {one.phrase!r}")
        stem = "__".join([name, slug(one.phrase) or "empty"])
        write_similarity(out / f"{stem}_similarity.png", reader.image, one)
        y, x = divmod(int(one.similarity_map.argmax()), one.similarity_map.shape[1])
        row: dict[str, Any] = {"text": one.phrase, "similarity": str(out / f"{stem}_similarity.png")}
        row |= {"highest": float(one.similarity_map.max()), "highest_xy": [x, y], "mask": None, "box": one.box}
        if one.mask is not None:
            write_mask_png(out / f"{stem}.png", one.mask)
            row["mask"] = str(out / f"{stem}.png")
        rows.append({**row, "warnings": list(one.warnings)})
    return rows


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
