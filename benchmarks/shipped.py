"""Measure and publish the shipped model.

    medvl train recipes/lvit_regions.yaml --out runs/lvit_regions
    python benchmarks/shipped.py val runs/lvit_regions       # validation -> runs/shipped/val.json
    python benchmarks/shipped.py publish runs/lvit_regions   # opens test, once -> src/medvl/assets/lvit_regions

`publish` refuses a model whose test split was opened before.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.files import write_json
from medvl.data.importers.lung_regions import label_map
from medvl.data.record import Manifest, Record
from medvl.evaluation.case_metrics import CaseRow, grouped_rows, metrics_of, row_of
from medvl.evaluation.model_inputs import open_inputs
from medvl.evaluation.prediction_sources import PredictorSource
from medvl.evaluation.record import EvaluationRecord, log_test, read_record
from medvl.evaluation.text_sensitivity import text_sensitivity
from medvl.inference.model_folder import find_model, times_test_opened, update_card
from medvl.tasks.segment.evaluate import evaluate

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "runs" / "shipped"
MODEL = ROOT / "src" / "medvl" / "assets" / "lvit_regions"
SET = "medvl:cxr_regions"
ATTRIBUTION = "images: Kermany et al., Mendeley Data 10.17632/rscbjbr9sj.2; lung masks: V7 Labs; both CC BY 4.0"
LIMITS = [
    "Trained on frontal chest radiographs of children aged 1 to 5 of one hospital; never evaluated on adults.",
    "It finds lungs and thirds of their height, nothing else: no disease, no lobe, no heart.",
    "Whole picture in standard display, the patient's right at its left edge; on a mirrored picture sides are wrong.",
    "Unions of different parts of the two lungs are weaker, and weakest where the union never stood in training.",
    "It does not understand denial: 'no right upper zone' is answered like 'right upper zone'.",
    "English phrases in the manner of its training texts; words it does not know are named in a warning.",
    "The masks are zones cut by a rule from human lung masks (see assets/cxr_regions/README.md).",
]


class RuleCut:
    """The model's own "right lung" and "left lung", cut into thirds by the set's rule and told the region by the row's
    label values: what a zone's Dice would be if the model knew the rule exactly."""

    uses_text = False

    def __init__(self, source: PredictorSource) -> None:
        self._source = source

    def check(self, records: Sequence[Record], classes: Sequence[str]) -> None:
        """As the model."""
        self._source.check(records, classes)

    def masks(self, records: Sequence[Record], texts: Sequence[str]) -> list[dict[str, NDArray[np.bool_]]]:
        """The union of the thirds that the row selects."""
        first = records[0]
        right, left = (p["mask"] > 0.5 for p in self._source.probs([first, first], ["right lung", "left lung"]))
        if not (right.any() and left.any()):
            return [{"mask": np.zeros_like(right)} for _ in records]
        zones = label_map(right & ~left, left)
        return [{"mask": np.isin(zones, record.masks["mask"].values)} for record in records]  # type: ignore[union-attr]  # never none here

    def spacing_mm(self, record: Record) -> tuple[float, float] | None:
        """Unknown: the set is PNG and JPEG."""
        return None

    def describe(self) -> dict[str, Any]:
        """As the model."""
        return self._source.describe() | {"kind": "model, zones cut by rule"}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["val", "publish"])
    parser.add_argument("run", type=Path)
    words = parser.parse_args()
    if words.verb == "val":
        measure_val(words.run)
    else:
        publish(words.run)


def measure_val(run: Path) -> None:
    """Validation: every kind and wording, the rule's row, the probe with untrue texts."""
    inputs = open_inputs(str(run))
    assert isinstance(inputs.source, PredictorSource)
    manifest = inputs.manifest(Path(SET))
    cell, _ = _score(inputs.source, manifest, "val", run / "shipped" / "val")
    cut = evaluate(RuleCut(inputs.source), manifest, split="val", surface=False)
    cell["rows"] += [
        {**row, "name": f"cut by the rule: {row['name']}"} for row in grouped_rows(cut.cases, manifest, "val", ["kind"])
    ]
    asked = text_sensitivity(inputs.source, manifest, split="val", laterality=inputs.data.laterality).summary
    for name, found in asked["conditions"].items():
        cell["rows"].append({"name": f"probe: {name}", "num": found["num"], "dice_per_image": found["dice"]})
    cell["probe"] = {key: asked[key] for key in ("conditions", "side_swap", "notes")}
    swap = asked["side_swap"]
    cell["notes"] = [
        *cell["notes"],
        f"validation: with the side swapped the mask's centroid changes side in "
        f"{swap['share_changing_side']['mean']:.2%} of {swap['num']} one-sided cases; it lies on the named side in "
        f"{swap['share_on_named_side']['mean']:.2%}; an empty phrase gives an empty mask in "
        f"{asked['conditions']['empty']['share_empty']['mean']:.2%} of the rows",
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS / "val.json", cell)
    _print(cell)


def publish(run: Path) -> None:
    """Open test once and copy the model, its card, its log and its training curve into the package."""
    if times_test_opened(find_model(run)):
        sys.exit(f"test was opened for {run} before; a published model is scored on it once")
    inputs = open_inputs(str(run))
    assert isinstance(inputs.source, PredictorSource)
    manifest = inputs.manifest(Path(SET))
    start = time.monotonic()
    out = run / "shipped" / "test"
    cell, result = _score(inputs.source, manifest, "test", out)
    minutes = (time.monotonic() - start) / 60
    log_test(run, read_record(out))
    write_json(RESULTS / "test.json", cell)
    shutil.rmtree(MODEL, ignore_errors=True)
    shutil.copytree(find_model(run), MODEL)
    for name in ("metrics.jsonl", "test_log.jsonl"):
        shutil.copyfile(run / name, MODEL / name)
    val = json.loads((RESULTS / "val.json").read_text(encoding="utf-8"))
    update_card(
        MODEL,
        name="lvit_regions: lungs and their thirds, by phrase",
        summary="LViT mini with attention merge at 128 px: a phrase such as 'right upper zone' becomes a mask.",
        attribution=ATTRIBUTION,
        limits=LIMITS,
        metrics={one["split"]: _means(one["rows"][0]) for one in (val, cell)},
        check=check_of(result.cases),
        groups={one["split"]: {row["name"]: _means(row) for row in one["rows"][1:]} for one in (val, cell)},
        side_swap=val["probe"]["side_swap"],
    )
    _print(cell)
    print(f"test took {minutes:.1f} minutes; the model is in {MODEL}")


def check_of(cases: Sequence[CaseRow]) -> dict[str, Any]:
    """Every fourth image of a split and the means over its rows: what a test can evaluate again in seconds."""
    images = list(dict.fromkeys(case.image for case in cases))[::4]
    rows = [case for case in cases if case.image in set(images)]
    return {"images": images, "metrics": _means(row_of(metrics_of(rows, num_draws=1), len(rows)))}


def _score(
    source: PredictorSource, manifest: Manifest, split: str, out: Path
) -> tuple[dict[str, Any], EvaluationRecord]:
    result = evaluate(source, manifest, split=split, out=out, surface=False)
    rows = [{"name": "all", **row_of(result.summary["metrics"], result.summary["num_cases"])}]
    for columns in (["kind"], ["wording"], ["kind", "wording"]):
        rows += grouped_rows(result.cases, manifest, split, columns)
    summary = {key: value for key, value in result.summary.items() if key not in ("by_class", "by_phrase", "model")}
    variant = "shipped model, validation" if split == "val" else "shipped model, test (opened once)"
    return {**summary, "manifest": SET, "variant": variant, "recipe": "lvit_regions.yaml", "rows": rows}, result


def _means(row: dict[str, Any]) -> dict[str, Any]:
    """The means of a row, for the card."""
    means = {name: value["mean"] for name, value in row.items() if isinstance(value, dict)}
    return {"grid": "native", "num_cases": row["num"], **means}


def _print(cell: dict[str, Any]) -> None:
    for row in cell["rows"]:
        print(f"{row['dice_per_image']['mean']:.4f}  {row['num']:5d}  {row['name']}")
    for note in cell["notes"]:
        print("note:", note)


if __name__ == "__main__":
    main()
