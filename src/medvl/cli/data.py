"""medvl data: import, check, audit, split, tokenizer, phantom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from medvl.cli.options import ExcelSafe

if TYPE_CHECKING:
    from medvl.config import DataConfig
    from medvl.phantom.report import Kind


def import_(
    layout: Annotated[str, typer.Argument(help="a published layout; medvl data check lists them")],
    folder: Annotated[Path, typer.Argument(help="folder in that layout; lung-regions, reports: also a manifest")],
    out: Annotated[Path, typer.Option(help="manifest file to write, masks/ beside it; lung-regions: new folder")],
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
    as_json: Annotated[bool, typer.Option("--json", help="print what was made as JSON")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Turn a published layout into a manifest. Faults are reported together, and nothing is written then.

    lung-regions leaves out images whose mask is not two lungs, lists them and ends with exit code 1.
    """
    import json
    import sys

    from medvl.core.errors import InputError
    from medvl.data.importers.layouts import all_layouts, get_layout

    chosen = get_layout(layout)
    given: dict[str, object] = {"max_size": max_size, "licence": licence, "uncertain": uncertain}
    given |= {"unmentioned": unmentioned, "images": images, "reports": reports}
    given |= {"text_column": text_column, "max_words": max_words}
    given["views"] = None if views is None else tuple(_names(views))
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in chosen.options:
            takers = ", ".join(other.name for other in all_layouts().values() if name in other.options)
            raise InputError.conflict(f"--{name.replace('_', '-')} belongs to {takers}, not to {layout}")
    result = chosen.run(folder, out, **options)
    made = {"manifest": str(result.manifest), "records": result.num_records, "counts": result.counts}
    made |= {"labels": list(chosen.labels), "warnings": list(result.warnings)}
    made["left_out"] = [str(fault) for fault in result.left_out]
    text = f"{result.manifest}: {_counted(result.num_records)}"
    text += "".join(f"\n  {name.replace('_', ' ')}: {number}" for name, number in result.counts.items())
    for fault in result.left_out:
        print(f"left out: {fault}", file=sys.stderr)
    print(json.dumps(made) if as_json else text)
    if result.left_out:
        raise typer.Exit(code=1)


def split(
    manifest: Annotated[Path, typer.Argument(help="manifest: CSV, JSONL, XLSX, Parquet")],
    out: Annotated[Path, typer.Option(help="manifest to write; with --folds one file per fold beside it")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="names of other columns: data.columns={image: Path, patient: PatientID}")
    ] = None,
    by: Annotated[str, typer.Option(help="what stays together: patient, study or any column")] = "patient",
    fractions: Annotated[str, typer.Option(help="train,val[,test]")] = "0.7,0.1,0.2",
    folds: Annotated[int | None, typer.Option(help="cross-validation: val is one fold, train the others")] = None,
    keep_test: Annotated[bool, typer.Option("--keep-test", help="leave test and holdout rows as they are")] = False,
    seed: Annotated[int, typer.Option(help="another seed gives another split")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the counts as JSON")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Split a manifest so that no patient and no image stands in two splits."""
    import json

    from medvl.core.errors import InputError
    from medvl.data.columns import table_columns
    from medvl.data.splits import split_manifest

    try:
        parts = [float(part) for part in fractions.split(",")]
    except ValueError:
        raise InputError.malformed(f"--fractions is {fractions}", expected="numbers, e.g. 0.7,0.1,0.2") from None
    files = split_manifest(
        manifest,
        out,
        by=by,
        fractions=parts,
        folds=folds,
        keep_test=keep_test,
        seed=seed,
        columns=table_columns(overrides or ()),
    )
    if as_json:
        rows = [
            {"manifest": str(f.path), "records": f.num_records, "groups": f.num_groups, "split_hash": f.split_hash}
            for f in files
        ]
        print(json.dumps({"files": rows}))
        return
    for found in files:
        parts_text = ", ".join(
            f"{name} {number} records of {found.num_groups[name]} groups" for name, number in found.num_records.items()
        )
        print(f"{found.path}: {parts_text}; split hash {found.split_hash[:12]}")


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
    max_tokens: Annotated[int | None, typer.Option(help="also count the texts longer than this")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print audit.json")] = False,
    out: Annotated[Path | None, typer.Option(help="write audit.json here")] = None,
) -> None:
    """Audit a manifest: faults, patients or images in two splits, texts, masks, classes and licences.

    Exit code 2 when the manifest has faults, 1 when patients or images leak between splits, else 0.
    """

    from medvl.core.errors import InputError
    from medvl.core.files import write_text
    from medvl.data.audit.audit import audit_manifest, audit_text
    from medvl.data.images import parse_slice

    if max_tokens is not None and max_tokens < 1:
        raise InputError.out_of_range(f"--max-tokens is {max_tokens}", expected="at least 1")
    choice = parse_slice(slices)
    reading: dict[str, Any] = {"slices": choice}
    if recipe is not None or overrides:
        data = _data_config(recipe, overrides or ())
        reading = {"text_column": data.text_column, "classes": data.classes, "window": data.window}
        reading |= {"empty_means_absent": data.empty_means_absent, "mask_rule": data.mask_rule}
        reading["slices"] = data.slice_index if choice is None else choice
        reading["columns"] = data.columns or (None if recipe is None else {})  # without a recipe they are guessed
    if text_column is not None:
        reading["text_column"] = text_column
    if classes is not None:
        reading["classes"] = _names(classes)
    if empty_means_absent is not None:
        reading["empty_means_absent"] = _names(empty_means_absent)
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


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def check(
    layout: Annotated[str | None, typer.Argument(help="a published layout; none: list them all")] = None,
    folder: Annotated[Path | None, typer.Argument(help="where the set lies; none: say what it consists of")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what was found as JSON")] = False,
) -> None:
    """What is missing of a published set, where it is obtained and on which terms. Without arguments: all layouts.

    Exit code 0 when the set is complete, 1 when a required file is missing.
    """
    import json

    from medvl.data.importers.layouts import all_layouts, examine, get_layout

    if layout is None:
        layouts = all_layouts()
        if as_json:
            print(json.dumps({"layouts": {known.name: known.title for known in layouts.values()}}))
            return
        width = max(map(len, layouts))
        for known in layouts.values():
            print(f"{known.name:{width}}  {known.title}")
        return
    chosen = get_layout(layout)
    facts: dict[str, object] = {"layout": chosen.name, "title": chosen.title}
    facts |= {"obtained": chosen.obtained, "terms": chosen.terms, "met": chosen.met, "note": chosen.note}
    if folder is None:
        parts = chosen.parts
        facts["parts"] = [
            {"what": part.what, "files": part.patterns, "expected": part.num, "required": part.required}
            for part in parts
        ]
        lines = [_line(part.what, part.patterns, part.num, part.required, "") for part in parts]
        complete = True
    else:
        result = examine(chosen, folder)
        complete = all(found.complete for found in result)
        facts |= {"folder": str(folder), "complete": complete}
        facts["parts"] = [
            {
                "what": found.part.what,
                "files": found.part.patterns,
                "expected": found.part.num,
                "required": found.part.required,
                "found": found.num_found,
                "missing": found.num_missing,
            }
            for found in result
        ]
        lines = []
        for found in result:
            state = "ok" if not found.num_missing else f"{found.num_missing:,} MISSING"
            if found.num_missing and not found.part.required:
                state = "absent"
            part, state = found.part, f"{found.num_found:,} found, {state}"
            lines.append(_line(part.what, part.patterns, part.num, part.required, state))
    if as_json:
        print(json.dumps(facts))
    else:
        print(f"{chosen.name}: {chosen.title}")
        print("\n".join(lines))
        said = {"obtained": chosen.obtained, "terms": chosen.terms, "real files met": chosen.met, "note": chosen.note}
        for label, text in said.items():
            if text:
                print(f"  {label}: {text}")
        if folder is not None:
            print(f"{folder}: {'complete' if complete else 'something is missing'}")
    if not complete:
        raise typer.Exit(code=1)


def _line(what: str, patterns: tuple[str, ...], num: int | None, required: bool, found: str) -> str:
    expected = "at least one" if num is None else f"{num:,} files"
    if not required:
        expected += ", optional"
    return f"  {what}: {expected} ({' or '.join(patterns)})" + (f": {found}" if found else "")


def tokenizer(
    manifest: Annotated[str, typer.Argument(help="manifest: CSV, JSONL, XLSX, Parquet; its images are not read")],
    out: Annotated[Path, typer.Option(help="new folder for the tokenizer")],
    vocab_size: Annotated[int, typer.Option(help="at most so many word pieces")] = 8000,
    text_column: Annotated[str, typer.Option(help="column that holds the reports")] = "text",
    split: Annotated[str, typer.Option(help="rows to learn from; all = every row")] = "train",
    as_json: Annotated[bool, typer.Option("--json", help="print what was made as JSON")] = False,
) -> None:
    """Learn word pieces from report texts, for text.tokenizer=FOLDER of the built-in text encoder.

    The folder derives from report text. It holds no number of more than two digits and only parts of words that stand
    in reports of at least 3 patients.
    """
    import json

    from medvl.data.corpus import read_corpus
    from medvl.experiments.masked_language import new_folder
    from medvl.text.tokenizer import WordPieces

    corpus = read_corpus(manifest, text_column)
    texts = corpus.texts(split)
    pieces = WordPieces.train(texts, vocab_size, corpus.patients(split))
    new_folder(out)
    lengths = [len(row) for row in pieces.encode(texts)]
    card: dict[str, object] = {
        "derives_from": "report texts",
        "texts": len(texts),
        "split": split if corpus.has_splits else "all (the manifest has no splits)",
        "rows_without_text": corpus.num_empty,
        "pieces": len(pieces),
        "mean_pieces_per_text": round(sum(lengths) / len(lengths), 2),
        "longest_text": max(lengths),
        "words_without_pieces": pieces.unknown_words(texts).total(),
    }
    pieces.save(out, card)
    if as_json:
        print(json.dumps({"folder": str(out), **card}))
        return
    print(
        f"{out}: {card['pieces']} word pieces from {card['texts']} texts (split {card['split']}), "
        f"{card['mean_pieces_per_text']} pieces a text, at most {card['longest_text']}; "
        f"{card['words_without_pieces']} words without pieces. It derives from report text."
    )


def phantom(
    out: Annotated[Path, typer.Option(help="new folder for images, masks, boxes.csv and manifest.csv")],
    num: Annotated[int, typer.Option(help="how many films")] = 200,
    size: Annotated[int, typer.Option(help="side in pixels")] = 96,
    seed: Annotated[int, typer.Option(help="another seed gives other films")] = 0,
    kinds: Annotated[str, typer.Option(help="of lesions, with commas between, e.g. consolidation,nodule")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print what was made as JSON")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Draw synthetic chest films with reports, masks and boxes: phantoms, nobody's films, to test mechanisms on."""
    import json
    from collections.abc import Iterable

    from rich.console import Console
    from rich.progress import track

    from medvl.phantom.dataset import make_phantoms
    from medvl.phantom.report import KINDS

    def progress(indices: Iterable[int], total: int) -> Iterable[int]:
        return track(indices, "phantoms", total=total, console=Console(stderr=True), transient=True)

    chosen = tuple(cast("Kind", kind.strip()) for kind in kinds.split(",")) if kinds.strip() else KINDS
    manifest = make_phantoms(out, num=num, size=size, seed=seed, kinds=chosen, progress=progress)
    if as_json:
        made = {"manifest": str(manifest), "num": num, "size": size, "seed": seed, "kinds": chosen, "phantoms": True}
        print(json.dumps(made))
    else:
        print(f"{manifest}: {num} phantoms of {size} px (seed {seed}); synthetic, for tests of mechanisms only")
