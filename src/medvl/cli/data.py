"""medvl import, medvl split, medvl audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LAYOUTS = ("lvit", "lung-regions")


def import_(
    layout: Annotated[str, typer.Argument(help="lvit (LViT's folders and tables) or lung-regions (phrases for masks)")],
    folder: Annotated[Path, typer.Argument(help="folder in that layout; lung-regions also takes a manifest")],
    out: Annotated[Path, typer.Option(help="lvit: manifest file to write; lung-regions: new folder")],
    max_size: Annotated[int | None, typer.Option(help="lung-regions: shrink images to this longest side")] = None,
    licence: Annotated[str | None, typer.Option(help="lung-regions: licence to write into each row")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what was made as JSON")] = False,
) -> None:
    """Turn a published layout into a manifest. Faults are reported together, and nothing is written then.

    lung-regions leaves out images whose mask is not two lungs, lists them and ends with exit code 1.
    """
    import json
    import sys

    from medvl.errors import InputError, nearest

    if layout == "lvit":
        from medvl.data.importers.lvit import import_lvit

        if max_size is not None or licence is not None:
            raise InputError("--max-size and --licence belong to lung-regions")
        found = import_lvit(folder, out)
        made: dict[str, object] = {"manifest": str(found.manifest), "records": found.num_records}
        made |= {"sentences": found.num_sentences, "named_patients": found.num_named_patients}
        made["warnings"] = list(found.warnings)
        text = ", ".join(f"{split} {number}" for split, number in found.num_records.items())
        text = f"{found.manifest}: {text}; {found.num_sentences} distinct sentences"
        left_out: tuple[object, ...] = ()
    elif layout == "lung-regions":
        from medvl.data.importers.lung_regions import import_lung_regions

        result = import_lung_regions(folder, out, max_size=max_size, licence=licence)
        left_out = result.left_out
        made = {"manifest": str(result.manifest), "images": result.num_images, "rows": result.num_rows}
        made |= {"left_out": [str(fault) for fault in left_out], "images_with_specks": result.num_specks}
        text = f"{result.manifest}: {result.num_images} images, {result.num_rows} phrases, {len(left_out)} left out"
        if result.num_specks:
            text += f"; specks were dropped from {result.num_specks} masks"
        for fault in left_out:
            print(f"left out: {fault}", file=sys.stderr)
    else:
        like = nearest(layout, LAYOUTS)
        remedy = f"did you mean {like}?" if like else None
        raise InputError(f"unknown layout {layout}", expected=", ".join(LAYOUTS), remedy=remedy)
    print(json.dumps(made) if as_json else text)
    if left_out:
        raise typer.Exit(code=1)


def split(
    manifest: Annotated[Path, typer.Argument(help="manifest: CSV, JSONL, XLSX, Parquet")],
    out: Annotated[Path, typer.Option(help="manifest to write; with --folds one file per fold beside it")],
    by: Annotated[str, typer.Option(help="what stays together: patient, study or any column")] = "patient",
    fractions: Annotated[str, typer.Option(help="train,val[,test]")] = "0.7,0.1,0.2",
    folds: Annotated[int | None, typer.Option(help="cross-validation: val is one fold, train the others")] = None,
    keep_test: Annotated[bool, typer.Option("--keep-test", help="leave test and holdout rows as they are")] = False,
    seed: Annotated[int, typer.Option(help="another seed gives another split")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the counts as JSON")] = False,
) -> None:
    """Split a manifest so that no patient and no image stands in two splits."""
    import json

    from medvl.data.splits import split_manifest
    from medvl.errors import InputError

    try:
        parts = [float(part) for part in fractions.split(",")]
    except ValueError:
        raise InputError(f"--fractions is {fractions}", expected="numbers, e.g. 0.7,0.1,0.2") from None
    files = split_manifest(manifest, out, by=by, fractions=parts, folds=folds, keep_test=keep_test, seed=seed)
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
    text_column: Annotated[str, typer.Option(help="column that holds the text")] = "text",
    classes: Annotated[str | None, typer.Option(help="mask_NAME columns to look at, with commas between")] = None,
    empty_means_absent: Annotated[str, typer.Option(help="classes whose empty cell is an empty mask")] = "",
    max_tokens: Annotated[int | None, typer.Option(help="also count the texts longer than this")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print audit.json")] = False,
    out: Annotated[Path | None, typer.Option(help="write audit.json here")] = None,
) -> None:
    """Audit a manifest: faults, patients or images in two splits, texts, masks, classes and licences.

    Exit code 2 when the manifest has faults, 1 when patients or images leak between splits, else 0.
    """
    import os

    from medvl.data.audit import audit_manifest, audit_text
    from medvl.errors import InputError

    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"--max-tokens is {max_tokens}", expected="at least 1")
    found = audit_manifest(
        manifest,
        text_column=text_column,
        classes=None if classes is None else _names(classes),
        empty_means_absent=_names(empty_means_absent),
        max_tokens=max_tokens,
    )
    if out is not None:
        target = out / "audit.json" if out.is_dir() else out
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        temporary.write_text(found.as_json() + "\n", encoding="utf-8")
        os.replace(temporary, target)
    print(found.as_json() if as_json else audit_text(found))
    if found.exit_code:
        raise typer.Exit(code=found.exit_code)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
