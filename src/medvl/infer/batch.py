"""Many images and phrases -> files: masks, overlays, predictions.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from medvl.data.context import Context
from medvl.data.images import image_size
from medvl.data.records import write_manifest
from medvl.errors import Fault, InputError
from medvl.infer.predictor import Predictor, Segmentation, as_image, report_notes
from medvl.infer.writers import slug, write_mask_nifti, write_mask_png, write_overlay

COLUMNS = ("id", "image", "text", "class", "mask", "nifti", "overlay", "pred_px", "mean_prob", "warnings")


def predict_files(
    model: str | Path,
    images: Sequence[Path],
    texts: Sequence[str],
    out: Path,
    *,
    threshold: float = 0.5,
    device: str = "cpu",
    context: Context | None = None,
) -> list[dict[str, Any]]:
    """Segment every image by every text into `out`; returns the rows of predictions.csv.

    `context`: the clinical variables beside the texts, {"age": "63"}, of all images; what is not given is missing.

    Files are `<id>__<phrase-slug>.png` (0/255, native size), `.nii.gz` where the spacing is known, `_overlay.png`.
    All unreadable images are reported together before anything is written.
    """
    names = named_images(images)
    predictor = Predictor.load(model, device=device)
    if predictor.uses_text and not texts:
        raise InputError("this model is guided by text", expected='--text "right upper zone"')
    if not predictor.uses_text and texts:
        raise InputError("this model takes no text", remedy="leave --text out; its classes are in predictions.csv")
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    console = Console(stderr=True)
    for name, path in track(names.items(), "predict", console=console, disable=not console.is_terminal):
        image = as_image(path, predictor.config)
        asked = list(texts) or [""]
        results = predictor.set_image(image).segment_many(asked, threshold, [context or {}] * len(asked))
        report_notes(results, name)
        for result in results:
            rows += [_write(out, name, image, part, label) for label, part in _by_class(result)]
    write_manifest(out / "predictions.csv", [{k: str(v) for k, v in row.items()} for row in rows], list(COLUMNS))
    return rows


def named_images(images: Sequence[Path]) -> dict[str, Path]:
    """Name of the files to be written -> image. InputError of all images that cannot be read or share a name."""
    names: dict[str, Path] = {}
    faults = []
    for path in images:
        name = path.name.removesuffix(".gz").rsplit(".", 1)[0]
        if name in names:
            faults.append(Fault(f"two images are called {name}", file=path, remedy="predict them into two folders"))
        names[name] = path
        try:
            image_size(path)
        except InputError as error:
            faults.extend(error.faults)
    if faults:
        raise InputError(faults)
    return names


def _by_class(result: Segmentation) -> list[tuple[str, Segmentation]]:
    if len(result.classes) == 1:
        return [(result.classes[0], result)]
    return [
        (name, replace(result, mask=result.mask[k], probs=result.probs[k], classes=(name,)))
        for k, name in enumerate(result.classes)
    ]


def _write(out: Path, name: str, image: Any, result: Segmentation, label: str) -> dict[str, Any]:
    # One class: the phrase names the file. Several: the class does too.
    parts = [slug(result.phrase)] if result.phrase.strip() else []
    parts += [slug(label)] if label != "mask" or not parts else []
    stem = "__".join([name, *parts])
    write_mask_png(out / f"{stem}.png", result.mask)
    nifti = ""
    if result.spacing_mm is not None:
        nifti = f"{stem}.nii.gz"
        write_mask_nifti(out / nifti, result.mask, image)
    caption = " ".join(part for part in (result.phrase, "" if label == "mask" else label) if part)
    write_overlay(out / f"{stem}_overlay.png", image, result.mask, caption=caption)
    return {
        "id": name,
        "image": str(image.path),
        "text": result.phrase,
        "class": label,
        "mask": f"{stem}.png",
        "nifti": nifti,
        "overlay": f"{stem}_overlay.png",
        "pred_px": int(result.mask.sum()),
        "mean_prob": round(float(result.probs[result.mask].mean()), 4) if result.mask.any() else 0.0,
        "warnings": "; ".join(result.warnings),
    }
