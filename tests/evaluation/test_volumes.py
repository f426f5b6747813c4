"""Whole volumes as cases: counted by hand, and equal to what `predict --slice all` writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from faults import refused
from scipy.spatial.distance import cdist
from typer.testing import CliRunner

from medvl.cli import app
from medvl.data.records import load_manifest
from medvl.evaluation.prediction_sources import FolderSource
from medvl.evaluation.volumes import volumes_of
from medvl.inference.batch import predict_files
from medvl.inference.predictor import Predictor
from medvl.metrics.segmentation import count_lesions, edge_coordinates, surface_distances
from medvl.tasks.segment.evaluate import evaluate

AFFINE = np.array([[0, -0.5, 0, 5], [0.8, 0, 0, -3], [0, 0, -2.5, 9], [0, 0, 0, 1]], dtype=float)


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Three volumes of (9, 8, 4), one image of a single slice; true and predicted masks are random blocks."""
    rng = np.random.default_rng(5)
    (tmp_path / "pred").mkdir()
    lines = ["id,image,text,mask,patient,split"]
    for i, depth in enumerate((4, 4, 4, 1)):
        arrays = {"v": rng.integers(0, 900, (9, 8, depth)).astype(np.int16)}
        for name in ("s", "p"):
            mask = np.zeros((9, 8, depth), np.uint8)
            x, y = rng.integers(0, 4, 2)
            mask[x : x + 4, y : y + 4, : max(1, depth - 1)] = 1
            arrays[name] = mask
        for name, path in (("v", f"v{i}"), ("s", f"s{i}"), ("p", f"pred/a{i}")):
            nibabel.save(nibabel.Nifti1Image(arrays[name], AFFINE), tmp_path / f"{path}.nii.gz")
        lines.append(f"a{i},v{i}.nii.gz,a text,s{i}.nii.gz,p{i},val")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def values(path: Path) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(nibabel.load(path).dataobj) > 0


def test_a_folder_of_volumes_by_hand(volumes: Path) -> None:
    manifest = load_manifest(volumes / "m.csv")
    found = evaluate(volumes_of(FolderSource(volumes / "pred")), manifest, slice_index="all")
    assert found.summary["slice"] == "all" and len(found.cases) == 4
    for i, row in enumerate(found.cases):
        true, pred = values(volumes / f"s{i}.nii.gz"), values(volumes / "pred" / f"a{i}.nii.gz")
        both = int((true & pred).sum())
        assert (row.tp_px, row.true_px, row.pred_px) == (both, true.sum(), pred.sum())
        assert row.dice == pytest.approx(2 * both / (true.sum() + pred.sum()))
    true, pred = values(volumes / "s0.nii.gz"), values(volumes / "pred" / "a0.nii.gz")
    edges = [_edges(mask) @ np.diag((0.8, 0.5, 2.5)) for mask in (true, pred)]  # mm
    distances = cdist(*edges)
    assert found.cases[0].assd_mm == pytest.approx(np.concatenate([distances.min(0), distances.min(1)]).mean())
    assert found.cases[3].hd95_mm >= 0  # of the single slice


def _edges(mask: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """By brute force: voxels with one of six neighbours outside."""
    inside = {tuple(place) for place in np.argwhere(mask)}
    steps = [tuple(sign * np.eye(3, dtype=int)[axis]) for axis in range(3) for sign in (1, -1)]
    return np.array(
        [p for p in sorted(inside) if any(tuple(np.add(p, step)) not in inside for step in steps)], dtype=float
    )


def test_metrics_of_volumes() -> None:
    mask = np.zeros((4, 5, 6), bool)
    mask[0:3, 1:4, 1:5] = True
    assert sorted(map(tuple, edge_coordinates(mask))) == sorted(map(tuple, _edges(mask)))
    corner = np.zeros((4, 5, 6), bool)
    corner[3, 4, 5] = mask[2, 3, 4] = True  # 26-connected with it
    assert count_lesions(mask | corner, mask | corner).true_lesions == 1
    assert surface_distances(mask, mask, (2.0, 1.0, 1.0)).hd95_mm == 0


def test_a_volume_without_a_choice_is_refused_and_one_slice_is_scored(volumes: Path) -> None:
    manifest = load_manifest(volumes / "m.csv")
    with refused("ambiguous") as caught:
        evaluate(FolderSource(volumes / "pred"), manifest)
    assert len(caught.value.faults) == 3
    words = ["evaluate", str(volumes / "pred"), str(volumes / "m.csv"), "--no-surface", "--json", "--slice"]
    done = CliRunner().invoke(app, [*words, "0", "--out", str(volumes / "one")])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, [*words, "all", "--out", str(volumes / "all")])
    assert json.loads(done.stdout)["slice"] == "all"
    rows = [list(csv.DictReader((volumes / name / "cases.csv").open())) for name in ("one", "all")]
    assert int(rows[0][0]["true_px"]) in (0, 16) and int(rows[1][0]["true_px"]) == 48


def test_a_model_and_the_volumes_that_it_writes_score_alike(volumes: Path, tiny_run: Path, tmp_path: Path) -> None:
    level = float(np.median(Predictor.load(tiny_run).set_image(np.full((9, 8), 90, np.uint8)).segment("a text").probs))
    predict_files(tiny_run, [volumes / "m.csv"], [], tmp_path / "masks", choice="all", threshold=level)
    words = ["evaluate", str(volumes / "m.csv"), "--slice", "all", "--no-surface", "--json"]
    of_model, of_files = (
        CliRunner().invoke(app, [words[0], str(source), *words[1:], *more, "--out", str(tmp_path / name)])
        for source, more, name in (
            (tiny_run, ["--threshold", str(level)], "model"), (tmp_path / "masks", [], "files")
        )
    )  # fmt: skip
    assert of_model.exit_code == of_files.exit_code == 0, of_model.output + of_files.output
    first, second = (json.loads(done.stdout)["metrics"]["dice_pooled"]["mean"] for done in (of_model, of_files))
    assert first == second > 0
