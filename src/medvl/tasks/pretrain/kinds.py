"""What a pre-trained model is evaluated by without training: grounding of phrases, classification by prompts."""

from __future__ import annotations

from typing import Any

from medvl.config import load_config, manifest_path
from medvl.core.csv_cells import read_dicts
from medvl.core.errors import InputError
from medvl.data.record import Manifest
from medvl.evaluation.case_drawing import PRED, draw_mask, manifest_as_written, true_masks
from medvl.evaluation.comparison_metrics import SAME_SET, RatioTable, area_measures
from medvl.evaluation.kind import Cell, EvaluationKind, Key
from medvl.evaluation.labelled import TRAINED_AND_PROMPTED, label_cells, read_labelled
from medvl.evaluation.model_inputs import read_as_trained
from medvl.evaluation.record import CASES, refuse_other_results
from medvl.evaluation.request import EvaluationRequest
from medvl.evaluation.scored_runs import ScoredRun
from medvl.inference.model_folder import find_model
from medvl.tasks.pretrain.grounding import PHRASE, grounding
from medvl.tasks.pretrain.grounding import as_text as grounding_text
from medvl.tasks.pretrain.zero_shot import ZeroShot
from medvl.tasks.pretrain.zero_shot_classification import ThresholdFrom, options_of, split_of, zero_shot_classification
from medvl.tasks.pretrain.zero_shot_classification import as_text as prompted_text
from medvl.text.prompts import load_prompts

TABLE = RatioTable(
    {
        "dice": ("Dice per case", "dice", ""),
        "iou": ("IoU per case", "iou", ""),
        "recall": ("Recall of pixels per case", "recall", ""),
        "pointing": ("Pointing game (share of cases)", "pointing", ""),
    },
    tested=("dice", "pointing"),
    truth="true_px",
    quality="dice",
    method=PHRASE,
)


def phrase_cells(run: ScoredRun, device: str) -> Cell:
    """Contours of a pre-trained model given the phrase, at the threshold that the case was scored with."""
    reader = ZeroShot.load(run.summary["model"], device)
    records = {record.id: record for record in manifest_as_written(run).records}
    with (run.folder / CASES).open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in read_dicts(file) if row["method"] == PHRASE}

    def cell(axes: Any, key: Key) -> str:
        row, record = rows[key[0]], records[key[0]]
        reader.set_image(record.image)
        sigma, how = run.summary["sigma_cells"], run.summary["how"]
        answer = reader.ground(row["text"], float(row["threshold"]), sigma, how)
        assert answer.mask is not None
        draw_mask(axes, record, answer.mask, PRED, 1.1, filled=True)
        return f"Dice {run.cases[key].quality:.3f}"

    return cell


PHRASES = ("target", "phrase", "sigma", "how")
PROMPTS = ("classes", "prompts", "family", "protocol", "temperature")


def requested(request: EvaluationRequest) -> tuple[dict[str, Any], str]:
    """What `medvl evaluate` does with a pre-trained model: summary and text.

    Texts are grounded in images whose manifest has masks; with options of prompts, or without masks, images are
    classified.
    """
    if request.updates_card:
        raise InputError.conflict("--update-card for a pre-trained model", remedy="leave it out")
    config = load_config(find_model(request.source) / "config.yaml")
    path = request.manifest or manifest_path(config)
    overrides, target = list(request.overrides), str(request.options.get("target", "mask")).removeprefix("mask_")
    if target != "mask":
        overrides.append(f"data.classes=[{target}]")
    manifest, _ = read_as_trained(config, path, overrides)
    slice_index, how = request.one_slice("a pre-trained model"), {**request.options}
    how |= {"split": request.split, "out": request.out, "seed": request.seed, "device": request.device}
    grounds = not any(name in how for name in PROMPTS) and _has_masks(manifest)
    same = {"model": request.source, "split": request.split, "manifest": str(manifest.path)}
    refuse_other_results(request.out, evaluation=(GROUNDING if grounds else PROMPTED).name, **same)
    if grounds:
        request.takes("texts against masks", *PHRASES)
        how["target"] = target
        grounded = grounding(
            request.source, manifest, threshold=request.number(None, low=-1.0), slice_index=slice_index, **how
        )
        text, practice = grounding_text(grounded.summary, request.out), grounded.extras["published_practice"]
        if request.split == "val" and practice is not None and practice["threshold"] is not None:
            text += (
                f"\nfor an image: --threshold {practice['threshold']:.4g}, the best of all val cases by Dice per case"
            )
        return grounded.summary, text
    request.takes("images without masks", *PROMPTS)
    if request.threshold not in (None, "val", "0.5"):
        raise InputError.conflict(f"--threshold {request.threshold} for prompts", expected="val, or 0.5")
    threshold_from: ThresholdFrom | None = "fixed" if request.threshold == "0.5" else None
    prompts = how.pop("prompts", None)
    family, values = options_of(
        how.pop("protocol", None),
        has_custom_prompts=prompts is not None,
        family=how.pop("family", None),
        threshold_from=threshold_from,
        temperature=how.pop("temperature", None),
    )
    how["split"] = split_of(manifest) if request.split == "val" else request.split
    prompted = zero_shot_classification(
        request.source, manifest, load_prompts(prompts, family), slice_index=slice_index, **values, **how
    )
    return prompted.summary, prompted_text(prompted.summary, request.out)


def _has_masks(manifest: Manifest) -> bool:
    return any(mask is not None for record in manifest.records for mask in record.masks.values())


GROUNDING = EvaluationKind(
    name="ground",
    task="pretrain",
    title="grounding of phrases",
    unit="record with a mask of the target",
    truth="true mask or phrase",
    quality="Dice",
    same_keys=(*SAME_SET, "grid", "target", "phrase"),
    queries=("sigma_cells", "how"),
    read=TABLE.read,
    measures=TABLE.measures,
    manifest=manifest_as_written,
    draw=phrase_cells,
    draw_truth=lambda run: true_masks(run, lambda key: str(run.summary["target"])),
)
PROMPTED = EvaluationKind(
    name="zero-shot classify",
    task="pretrain",
    title="zero-shot classification",
    unit="image",
    truth="set of labels",
    quality="mean |score - label|",
    same_keys=(*SAME_SET, "classes"),
    queries=("prompts", "temperature"),
    read=read_labelled,
    measures=area_measures,
    threshold="none",
    is_poolable=False,
    joined=TRAINED_AND_PROMPTED,
    manifest=manifest_as_written,
    draw=label_cells,
)
KINDS = (GROUNDING, PROMPTED)
