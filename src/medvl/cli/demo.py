"""medvl demo: audit, train, evaluate, report and predict on the shipped real radiographs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

RECIPE = Path(__file__).parents[1] / "assets" / "demo.yaml"
SHIPPED = "medvl:lvit_regions"
PHRASE = "right upper zone"
PROBE_ROWS = 120
QUICK_STEPS = 6
COLUMNS = ["kind", "wording"]


def demo(
    out: Annotated[Path, typer.Option(help="folder to make; an old demo there is replaced")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="a few steps and images only: seconds, not minutes")] = False,
) -> None:
    """Audit, train, evaluate, predict and report on the shipped real radiographs. Minutes on two cores, no network."""
    import shutil
    import time

    from medvl.cli.data import audit
    from medvl.cli.evaluate import evaluate, report
    from medvl.cli.predict import predict
    from medvl.config import load_config, manifest_path
    from medvl.core.errors import InputError
    from medvl.data.records import load_manifest
    from medvl.inference.model_folder import NOT_A_DEVICE
    from medvl.train.run import train

    start = time.monotonic()
    if out.exists():
        if not (out / "demo.txt").is_file():
            raise InputError.exists(
                "the folder exists and is not an earlier demo", file=out, remedy="choose another --out"
            )
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / "demo.txt").write_text("made by medvl demo; the next demo replaces this folder\n", encoding="utf-8")
    few = [f"train.max_steps={QUICK_STEPS}", "train.val_every=100", "data.val_phrases_per_image=1"]
    config = load_config(RECIPE, few if quick else [])
    manifest = manifest_path(config)
    _title(f"1/5 audit of the shipped set (real radiographs of children, CC BY 4.0)  {manifest}")
    audit(manifest)
    _title("2/5 train a tiny text-guided model on it" + (f": {QUICK_STEPS} steps, too few to learn" if quick else ""))
    run = train(config, out / "run", command="medvl demo")
    _title("3/5 evaluate it, and the shipped model of the same method trained longer, on the validation patients")
    table = _first_images(manifest, out / "val.csv", 2 if quick else 24)
    # The tiny model's results lie where the report looks for them, so that nothing is computed twice.
    for model, folder in ((str(run), run / "report" / "val"), (SHIPPED, out / "evaluation_shipped")):
        evaluate(model, table, out=folder, group_by=COLUMNS, surface=False)
    _title("4/5 report: the tiny model asked with true, empty, another patient's and side-swapped texts")
    report(str(run), table, out=out / "report.html", group_by=COLUMNS, probe_rows=PROBE_ROWS)
    _title(f"5/5 an image and a phrase become a mask: {PHRASE!r}")
    image = load_manifest(table).records[0].image
    predict(SHIPPED, [str(image)], out=out / "prediction", text=[PHRASE])
    minutes = (time.monotonic() - start) / 60
    _title(f"done in {minutes:.1f} minutes. {NOT_A_DEVICE}")
    print(f"look at  {out / 'report.html'}\n         {out / 'prediction'}")
    print(f'next     medvl predict {SHIPPED} {image} --text "lower zone of the left lung" --out masks')


def _first_images(manifest: Path, target: Path, num_images: int) -> Path:
    """A manifest of the first validation images, all their phrases: the demo's evaluation stays under two minutes."""
    from medvl.data.records import load_manifest, write_manifest

    records = load_manifest(manifest).split("val")
    images = list(dict.fromkeys(record.image for record in records))[:num_images]
    rows = []
    for record in records:
        if record.image in images:
            reference = record.masks["mask"]
            assert reference is not None and reference.path is not None and reference.values is not None
            values = "|".join(map(str, reference.values))
            row = {"id": record.id, "image": str(record.image), "text": record.text, "mask": str(reference.path)}
            row |= {"mask_values": values, "patient": record.patient, "split": "val", "licence": record.licence or ""}
            rows.append(row | {column: record.extra[column] for column in COLUMNS})
    write_manifest(target, rows)
    print(f"evaluating the first {len(images)} of the validation images, {len(rows)} phrases", file=sys.stderr)
    return target


def _title(text: str) -> None:
    print(f"\n== {text}", file=sys.stderr, flush=True)
