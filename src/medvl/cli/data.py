"""medvl data: import, check, audit, split, pack, unpack, tokenizer, phantom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from medvl.cli.options import OTHER_COLUMNS, AsJson, ExcelSafe, names_of, numbers_of, show, split_overrides

if TYPE_CHECKING:
    from medvl.config import DataConfig
    from medvl.phantom.report import Kind


def import_(
    layout: Annotated[str, typer.Argument(help="a published layout; medvl data check lists them")],
    folder: Annotated[Path, typer.Argument(help="folder in that layout; lung-regions, reports: also a manifest")],
    out: Annotated[Path, typer.Option(help="manifest file to write, masks/ beside it; lung-regions: new folder")],
    overrides: Annotated[list[str] | None, typer.Argument(help=f"reports: {OTHER_COLUMNS}")] = None,
    max_size: Annotated[int | None, typer.Option(help="lung-regions: shrink images to this longest side")] = None,
    licence: Annotated[str | None, typer.Option(help="lung-regions: licence to write into each row")] = None,
    uncertain: Annotated[
        str | None, typer.Option(help="chexpert: uncertain cells are g2d (by label), positive, negative or unknown")
    ] = None,
    unmentioned: Annotated[
        str | None, typer.Option(help="chexpert: cells without a mention are negative or unknown")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="ms-cxr: folder of MIMIC-CXR-JPG")] = None,
    views: Annotated[str | None, typer.Option(help="mimic-cxr, padchest: views to keep, with commas between")] = None,
    reports: Annotated[Path | None, typer.Option(help="mimic-cxr: folder or zip of the reports")] = None,
    text_column: Annotated[str | None, typer.Option(help="reports: column of the reports as typed [text]")] = None,
    max_words: Annotated[int | None, typer.Option(help="reports: cut behind a sentence within so many words")] = None,
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Turn a published layout into a manifest. Faults are reported together, and nothing is written then.

    lung-regions leaves out images whose mask is not two lungs, lists them and ends with exit code 1.
    """
    import sys

    from medvl.data.columns import table_columns
    from medvl.data.importers.layouts import get_layout

    options: dict[str, object] = {"max_size": max_size, "licence": licence, "uncertain": uncertain}
    options |= {"unmentioned": unmentioned, "images": images, "reports": reports, "text_column": text_column}
    options |= {"columns": table_columns(overrides or ())}
    options |= {"max_words": max_words, "views": None if views is None else tuple(names_of(views))}
    source = get_layout(layout)
    result = source.run(folder, out, **{name: value for name, value in options.items() if value is not None})
    for fault in result.left_out:
        print(f"left out: {fault}", file=sys.stderr)
    show({**result.as_dict(), "labels": list(source.labels)}, str(result), as_json)
    if result.left_out:
        raise typer.Exit(code=1)


def check(
    layout: Annotated[str | None, typer.Argument(help="a published layout; none: list them all")] = None,
    folder: Annotated[Path | None, typer.Argument(help="where the set lies; none: say what it consists of")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is missing of a published set, where it is obtained and on which terms. Without arguments: all layouts.

    Exit code 0 when the set is complete, 1 when a required file is missing.
    """
    from medvl.data.importers.layouts import all_layouts, check_layout

    if layout is None:
        titles = {known.name: known.title for known in all_layouts().values()}
        width = max(map(len, titles))
        show({"layouts": titles}, "\n".join(f"{name:{width}}  {title}" for name, title in titles.items()), as_json)
        return
    result = check_layout(layout, folder)
    show(result.as_dict(), str(result), as_json)
    if not result.complete:
        raise typer.Exit(code=1)


def audit(
    manifest: Annotated[Path, typer.Argument(help="manifest: CSV, JSONL, XLSX, Parquet, or medvl:cxr_regions")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="how to read the data, e.g. data.slice_index=40")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="read text, classes, slices and windows as this recipe does in training")
    ] = None,
    slices: Annotated[
        str | None, typer.Option("--slice", help="of volumes and files of several frames: a number from 0, or all")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="column that holds the text [text]")] = None,
    classes: Annotated[str | None, typer.Option(help="mask_NAME columns to look at, with commas between")] = None,
    empty_means_absent: Annotated[str | None, typer.Option(help="classes whose empty cell is an empty mask")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="also count the texts longer than this")] = None,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option(help="write audit.json here")] = None,
) -> None:
    """Audit a manifest: faults, patients or images in two splits, texts, masks, classes and licences.

    Columns of other usual names (Filename, PatientID, Report ...) are guessed, with a note. Exit code 2 when the
    manifest has faults, 1 when patients or images leak between splits, else 0.
    """
    from medvl.core.files import write_text
    from medvl.data.audit.audit import audit_manifest, audit_text
    from medvl.data.images import parse_slice

    choice = parse_slice(slices)
    reading: dict[str, Any] = {"slices": choice}
    if recipe is not None or overrides:
        data = _data_config(recipe, overrides or ())
        reading = {"text_column": data.text_column, "classes": data.classes, "window": data.window}
        reading |= {"empty_means_absent": data.empty_means_absent, "mask_rule": data.mask_rule}
        reading["slices"] = data.slice_index if choice is None else choice
        reading["columns"] = data.columns or (None if recipe is None else {})  # without a recipe they are guessed
    reading |= {} if text_column is None else {"text_column": text_column}
    reading |= {} if classes is None else {"classes": names_of(classes)}
    reading |= {} if empty_means_absent is None else {"empty_means_absent": names_of(empty_means_absent)}
    result = audit_manifest(manifest, max_tokens=max_tokens, **reading)
    if out is not None:
        target = out / "audit.json" if out.is_dir() else out
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, result.as_json() + "\n")
    print(result.as_json() if as_json else audit_text(result))
    if result.exit_code:
        raise typer.Exit(code=result.exit_code)


def _data_config(recipe: str | None, overrides: Sequence[str]) -> DataConfig:
    """How a recipe, or overrides alone, read the data. (Most audits need neither, and importing this takes seconds.)"""
    from medvl.config import load_config, make_config
    from medvl.evaluation.model_inputs import parse_overrides

    if recipe is not None:
        return load_config(recipe, overrides).data
    return make_config({"data": parse_overrides(overrides)}, source="overrides").data


def split(
    manifest: Annotated[Path, typer.Argument(help="manifest: CSV, JSONL, XLSX, Parquet")],
    out: Annotated[Path, typer.Option(help="manifest to write; with --folds one file per fold beside it")],
    overrides: Annotated[list[str] | None, typer.Argument(help=OTHER_COLUMNS)] = None,
    by: Annotated[str, typer.Option(help="what stays together: patient, study or any column")] = "patient",
    fractions: Annotated[str, typer.Option(help="train,val[,test]")] = "0.7,0.1,0.2",
    folds: Annotated[int | None, typer.Option(help="cross-validation: val is one fold, train the others")] = None,
    keep_test: Annotated[bool, typer.Option("--keep-test", help="leave test and holdout rows as they are")] = False,
    seed: Annotated[int, typer.Option(help="another seed gives another split")] = 0,
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Split a manifest so that no patient and no image stands in two splits."""
    from medvl.data.columns import table_columns
    from medvl.data.splits import split_manifest

    files = split_manifest(
        manifest,
        out,
        by=by,
        fractions=numbers_of(fractions, "--fractions"),
        folds=folds,
        keep_test=keep_test,
        seed=seed,
        columns=table_columns(overrides or ()),
    )
    show({"files": [file.as_dict() for file in files]}, "\n".join(map(str, files)), as_json)


def pack(
    manifests: Annotated[
        list[str],
        typer.Argument(
            help=f"manifest; also more of the same folder, of which the first stands for all; {OTHER_COLUMNS}"
        ),
    ],
    out: Annotated[Path, typer.Option(help="the pack, a new file FILE.tar")],
    as_json: AsJson = False,
) -> None:
    """Write a manifest and all its images and masks as one file, which is read wherever a manifest is.

    `medvl train recipe.yaml data.manifest=FILE.tar` gives the same numbers as the folder. Another table in it is
    FILE.tar/NAME.
    """
    from dataclasses import asdict

    from medvl.data.columns import table_columns
    from medvl.data.packing import pack_manifests

    paths, overrides = split_overrides(manifests)
    packed = pack_manifests(paths, out, columns=table_columns(overrides), show_progress=not as_json)
    text = f"{packed.path}: {packed.num_files} files, {packed.num_bytes / 1e6:.1f} MB"
    if packed.num_renamed:
        text += f"\n{packed.num_renamed} files from outside the folder of the manifest are in outside/"
    text += f"\ncontent {packed.content_hash}\nsplit   {packed.split_hash}"
    show({**asdict(packed), "path": str(packed.path)}, text, as_json)


def unpack(
    pack: Annotated[str, typer.Argument(help="a pack, or medvl:cxr_regions")],
    out: Annotated[Path, typer.Option(help="new folder")],
) -> None:
    """Write the files of a pack into a folder. Each is compared with its SHA-256."""
    from medvl.data.packing import unpack as unpack_files

    print(f"{out}: {unpack_files(pack, out, show_progress=True)} files")


def tokenizer(
    manifest: Annotated[str, typer.Argument(help="manifest: CSV, JSONL, XLSX, Parquet; its images are not read")],
    out: Annotated[Path, typer.Option(help="new folder for the tokenizer")],
    overrides: Annotated[list[str] | None, typer.Argument(help=OTHER_COLUMNS)] = None,
    vocab_size: Annotated[int, typer.Option(help="at most so many word pieces")] = 8000,
    text_column: Annotated[str, typer.Option(help="column that holds the reports")] = "text",
    split: Annotated[str, typer.Option(help="rows to learn from; all = every row")] = "train",
    as_json: AsJson = False,
) -> None:
    """Learn word pieces from report texts, for text.tokenizer=FOLDER of the built-in text encoder.

    The folder derives from report text. It holds no number of more than two digits and only parts of words that stand
    in reports of at least 3 patients.
    """
    from medvl.data.columns import table_columns
    from medvl.data.corpus import learn_word_pieces

    columns = table_columns(overrides or ())
    card = learn_word_pieces(
        manifest, out, vocab_size=vocab_size, text_column=text_column, split=split, columns=columns
    )
    text = (
        f"{out}: {card['pieces']} word pieces from {card['texts']} texts (split {card['split']}), "
        f"{card['mean_pieces_per_text']} pieces a text, at most {card['longest_text']}; "
        f"{card['words_without_pieces']} words without pieces. It derives from report text."
    )
    show(card, text, as_json)


def phantom(
    out: Annotated[Path, typer.Option(help="new folder for images, masks, boxes.csv and manifest.csv")],
    num: Annotated[int, typer.Option(help="how many images")] = 200,
    size: Annotated[int, typer.Option(help="side in pixels")] = 96,
    seed: Annotated[int, typer.Option(help="another seed gives other images")] = 0,
    kinds: Annotated[str, typer.Option(help="of lesions, with commas between, e.g. consolidation,nodule")] = "",
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Draw synthetic chest radiographs with reports, masks and boxes, of no patient, to test mechanisms on."""
    from medvl.core.progress import track
    from medvl.phantom.dataset import make_phantoms
    from medvl.phantom.report import KINDS

    chosen = cast("tuple[Kind, ...]", tuple(names_of(kinds)) or KINDS)
    progress = lambda indices, total: track(indices, "phantoms", total)  # noqa: E731
    manifest = make_phantoms(out, num=num, size=size, seed=seed, kinds=chosen, progress=progress)
    text = f"{manifest}: {num} phantoms of {size} px (seed {seed}); synthetic, for tests of mechanisms only"
    made = {"manifest": str(manifest), "num": num, "size": size, "seed": seed, "kinds": chosen, "phantoms": True}
    show(made, text, as_json)
