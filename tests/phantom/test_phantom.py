"""Phantoms: what is written about a film is true of it, every draw is a function of (seed, index)."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from subprocess import CompletedProcess

import cv2
import numpy as np
import pytest
from runs import medvl

from medvl.core.errors import InputError
from medvl.data.audit.audit import audit_manifest
from medvl.data.records import load_manifest
from medvl.data.reports import findings, mirror_text
from medvl.phantom.dataset import Phantom, draw_phantom, make_phantoms
from medvl.phantom.report import KINDS

NUM = 90
ZONES = ("upper", "middle", "lower")
WORDS = {
    "consolidation": r"consolidation|airspace|opacity|opacification", "nodule": r"nodule|lesion",
    "effusion": r"effusion|fluid", "pneumothorax": r"pneumothora", "cardiomegaly": r"cardiomegaly|enlarged",
}  # fmt: skip


def says(text: str) -> tuple[dict[tuple[str, str | None], set[str]], set[tuple[str, str | None]]]:
    """What the parser reads: {(kind, side): thirds of the lung}, and the (kind, side) that are denied."""
    said: dict[tuple[str, str | None], set[str]] = {}
    denied = set()
    for sentence in re.split(r"(?<=[.])\s+", text):
        for kind in (kind for kind, words in WORDS.items() if re.search(words, sentence, re.IGNORECASE)):
            for found in findings(sentence):
                for side in ("left", "right") if found.side == "bilateral" else (found.side,):
                    if found.negated:
                        denied.add((kind, side))
                    else:
                        said.setdefault((kind, side), set()).update(found.zones)
    return said, denied


def untrue(phantom: Phantom, text: str) -> str:
    """What `text` says of the film that its masks do not show, or leaves out; "" when all of it is true."""
    said, denied = says(text)
    lesions = {(lesion.kind, lesion.side): lesion for lesion in phantom.lesions}
    if set(said) != set(lesions):
        return f"names {sorted(map(str, said))}, drawn are {sorted(map(str, lesions))}"
    for (kind, side), zones in said.items():
        if side is None:
            continue
        values = phantom.zones[lesions[kind, side].mask]
        share = {zone: np.mean(values == 1 + i + 3 * (side == "left")) for i, zone in enumerate(ZONES)}
        if kind in ("consolidation", "nodule"):
            if zones != {zone for zone in ZONES if share[zone] >= 0.25}:
                return f"{kind} {side}: {zones}, drawn {share}"
        elif any(share[zone] < 0.75 for zone in zones):
            return f"{kind} {side}: {zones}, drawn {share}"
    for kind, side in denied:
        if (kind, side) in lesions or (side is None and any(kind == other for other, _ in lesions)):
            return f"denies {kind} {side}"
    return ""


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [draw_phantom(i, size=96, seed=0) for i in range(NUM)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("sets") / "phantoms", num=NUM, size=64, seed=3)


def images(manifest: Path, num: int) -> list[bytes]:
    return [path.read_bytes() for path in sorted((manifest.parent / "images").glob("*.png"))[:num]]


def test_a_small_set_is_the_beginning_of_a_large_one(folder: Path, tmp_path: Path) -> None:
    small = make_phantoms(tmp_path / "small", num=12, size=64, seed=3)
    assert images(small, 12) == images(folder, 12)
    rows = {r.id: (r.text, r.split, r.patient) for r in load_manifest(small).records}
    assert rows == {r.id: (r.text, r.split, r.patient) for r in load_manifest(folder).records if r.id in rows}
    other = make_phantoms(tmp_path / "other", num=12, size=64, seed=4)
    assert images(other, 12) != images(small, 12)


def test_the_set_is_a_manifest_without_faults(folder: Path) -> None:
    audit = audit_manifest(folder)
    assert audit.exit_code == 0 and audit.num_faults == 0
    manifest = load_manifest(folder)
    assert {r.extra["source"] for r in manifest.records} == {"phantom"}
    assert {r.licence for r in manifest.records} == {"CC0-1.0"}
    patients = {split: {r.patient for r in manifest.split(split)} for split in ("train", "val")}
    assert patients["train"] and patients["val"] and not patients["train"] & patients["val"]


def test_every_word_of_200_reports_is_true_and_the_other_side_would_be_false() -> None:
    """Kinds, sides and thirds as read by the parser are exactly those of the masks."""
    one_sided = 0
    for phantom in (draw_phantom(i, seed=0) for i in range(200)):
        assert not untrue(phantom, phantom.text), (phantom.id, phantom.text)
        drawn = {(lesion.kind, lesion.side) for lesion in phantom.lesions if lesion.side}
        if any((kind, "left" if side == "right" else "right") not in drawn for kind, side in drawn):
            one_sided += 1
            assert untrue(phantom, mirror_text(phantom.text, left_right=True)), (phantom.id, phantom.text)
    assert one_sided > 100


def test_kinds_sides_and_normals_are_balanced(phantoms: list[Phantom]) -> None:
    kinds = Counter(lesion.kind for p in phantoms for lesion in p.lesions)
    sides = Counter(lesion.side for p in phantoms for lesion in p.lesions if lesion.side in ("left", "right"))
    normal = sum(not p.lesions for p in phantoms) / NUM
    assert len(kinds) == 5 and min(kinds.values()) > 4
    assert 0.5 < sides["left"] / sides["right"] < 2
    assert 0.15 < normal < 0.42


def test_brightness_alone_does_not_find_lesions(phantoms: list[Phantom]) -> None:
    best = []
    for phantom in (phantom for phantom in phantoms if phantom.lesions):
        image, mask = phantom.image.astype(float) / 255, phantom.masks()["mask"]
        above = [image > threshold for threshold in np.linspace(0.1, 0.9, 17)]
        found = above + [~one for one in above]
        best.append(max(2 * (one & mask).sum() / (one.sum() + mask.sum()) for one in found))
    assert np.mean(best) < 0.35


def test_lesions_stand_out_from_the_lung_round_them_more_than_the_noise(phantoms: list[Phantom]) -> None:
    """Mean grey value inside minus that of the lung round it, over the standard deviation of what is fine there."""
    signs = {"consolidation": 1, "nodule": 1, "effusion": 1, "pneumothorax": -1}
    ratios: dict[str, list[float]] = {kind: [] for kind in signs}
    for phantom in phantoms:
        image = phantom.image.astype(float)
        fine = image - cv2.GaussianBlur(image, (0, 0), 1.5)
        assert all((lesion.mask & phantom.body).sum() > 0.9 * lesion.mask.sum() > 0 for lesion in phantom.lesions)
        for lesion in (lesion for lesion in phantom.lesions if lesion.side):
            others = np.any([other.mask for other in phantom.lesions], axis=0)
            ring = cv2.dilate(lesion.mask.astype(np.uint8), np.ones((13, 13))) > 0
            ring &= phantom.lungs[lesion.side] & ~others
            if ring.sum() >= 15:
                contrast = image[lesion.mask].mean() - image[ring].mean()
                ratios[lesion.kind].append(signs[lesion.kind] * contrast / fine[ring].std())
    for kind, values in ratios.items():
        assert len(values) > 10 and np.mean(values) > 1.2 and np.mean(np.array(values) > 0) > 0.95, kind


@pytest.mark.parametrize(
    "wrong", [{"num": 0}, {"size": 8}, {"splits": (0.5, 0.2)}, {"kinds": ()}, {"kinds": ("nodule",) * 2}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        make_phantoms(tmp_path / "x", **{"num": 3, "size": 64, **wrong})  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()
    (tmp_path / "mine.txt").write_text("mine")  # a folder that holds something is kept
    with pytest.raises(InputError):
        make_phantoms(tmp_path, num=3, size=64)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_only_the_kinds_that_were_asked_for_are_drawn_and_named() -> None:
    for phantom in (draw_phantom(i, size=64, seed=0, kinds=("nodule", "consolidation")) for i in range(60)):
        assert {lesion.kind for lesion in phantom.lesions} <= {"consolidation", "nodule"}
        assert not untrue(phantom, phantom.text), (phantom.id, phantom.text)
    hearts = [draw_phantom(i, size=64, seed=0, kinds=("cardiomegaly",)) for i in range(30)]
    assert {len(phantom.lesions) for phantom in hearts} == {0, 1}  # no second heart, however many were drawn
    one, other = (draw_phantom(7, size=64, kinds=kinds) for kinds in (KINDS, KINDS[::-1]))
    assert one.text == other.text and np.array_equal(one.image, other.image)


def test_the_command_line(tmp_path: Path) -> None:
    def phantom(name: str, *words: str) -> CompletedProcess[str]:
        return medvl("data", "phantom", "--out", str(tmp_path / name), *words)

    done = phantom("set", "--num", "6", "--size", "64", "--json")
    assert done.returncode == 0 and '"phantoms": true' in done.stdout, done.stderr
    assert len(load_manifest(tmp_path / "set" / "manifest.csv").records) == 6
    done = phantom("kinds", "--num", "8", "--kinds", "nodule, effusion")
    assert done.returncode == 0, done.stderr
    found = {name for r in load_manifest(tmp_path / "kinds" / "manifest.csv").records for name in r.labels or ()}
    assert found <= {"nodule", "effusion", "normal"} and found & {"nodule", "effusion"}
    assert "--kinds nodule,effusion`" in (tmp_path / "kinds" / "README.md").read_text(encoding="utf-8")
    done = phantom("wrong", "--kinds", "nodul")
    assert done.returncode != 0 and "nodule" in done.stderr and not (tmp_path / "wrong").exists()
