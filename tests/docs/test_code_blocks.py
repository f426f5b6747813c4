"""Every code block of README and docs runs, on small data; what cannot run says why, and is counted here."""

from __future__ import annotations

import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from code_blocks import ROOT, Runner, blocks_of, pages
from PIL import Image

from medvl.data.tables import read_table, write_table
from medvl.phantom.dataset import make_phantoms
from medvl.train import estimate

# `<!-- not run: REASON -->` above a block; how many there are.
NOT_RUN = {
    "needs data sets that are not in the package": 7,
    "needs a checkpoint of the released programs, which nobody published": 1,
    "needs an interrupted run": 1,
}
# Hidden arguments: what is put behind each command whose text the pattern finds.
SMALL = "train.epochs=1 train.max_steps=1 train.batch_size=4 train.accelerator=cpu data.image_size=[32,32]"
HIDDEN = (
    (r"medvl data phantom", "--num 24 --size 48"),
    (r"medvl (train (?!--resume)|fit )", f"{SMALL} data.num_workers=0"),
    (r"medvl train (lvit\w*|\w+\.yaml) (?!.*init=medvl)", "model.size=nano"),
    (r"medvl train g2d\S* ", "model.encoder=resnet18_nano text.encoder=builtin text.train_layers=0"),
    (r"medvl x pretrain-text", "--steps 2"),
    (r"medvl demo(?! --help)", "--quick"),
)
MADE = re.compile(r"medvl (?:train|fit) (?:[^`]|\\\n)*?--out (\S+)")
TABLES = ("manifest.csv", "split.csv", "masks.csv", "notes.csv")


@pytest.fixture(scope="module", autouse=True)
def plans_without_flops() -> Iterator[None]:
    """Counting the FLOPs of a plan takes half of the time here; tests/train/test_estimate.py does it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "count_cost", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take as given: tables, an image, a volume, and a run of each task."""
    folder = tmp_path_factory.mktemp("prepared")
    phantoms = make_phantoms(folder / "phantoms", num=24, size=48, seed=0).parent
    rows = [
        {**row, "age": str(30 + i), "sex": "mf"[i % 2]}
        for i, (_, row) in enumerate(read_table(phantoms / "manifest.csv").rows)
    ]
    boxes: defaultdict[str, list[str]] = defaultdict(list)
    for _, box in read_table(phantoms / "boxes.csv").rows:
        boxes[box["id"]].append(" ".join(filter(None, (box[name] for name in ("cls", "x0", "y0", "x1", "y1")))))
    rows = [{**row, "boxes": "|".join(boxes[row["id"]])} for row in rows]
    for name in ("images", "masks"):
        shutil.move(phantoms / name, folder)
    for name in TABLES:
        write_table(folder / name, rows, list(rows[0]))
    shutil.rmtree(phantoms)
    shutil.copy(folder / rows[0]["image"], folder / "image.png")
    volume = np.stack([np.asarray(Image.open(folder / row["image"])).T for row in rows[:4]], axis=2)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "volume.nii.gz")
    (folder / "volumes.csv").write_text("id,image,text,split\nv,volume.nii.gz,the left lung,val\n")
    lungs = [
        {"id": f"{row['id']}_{side}", "image": row["image"], "text": f"{side} lung", "mask": row[f"mask_{side}_lung"]}
        | {name: row[name] for name in ("patient", "split")}
        for row in rows
        for side in ("left", "right")
    ]
    write_table(folder / "lungs.csv", lungs, list(lungs[0]))
    (folder / "sets").mkdir()
    (folder / "their_masks").mkdir()
    for row in rows:
        if row["split"] == "val" and row["mask"] not in ("", "none"):
            shutil.copy(folder / row["mask"], folder / "their_masks" / f"{row['id']}.png")
        elif row["split"] == "val":
            Image.new("L", (48, 48)).save(folder / "their_masks" / f"{row['id']}.png")
    for run, words in {
        "mine": "lvit_regions data.laterality=patient data.draw_by=null",
        "control": "lvit_regions data.laterality=patient data.draw_by=null model.options.plam=none",
        "g2d": "g2d_notes data.views=null",
        "linear": "classify_linear init=runs/g2d data.image_size=[32,32]",
        "detector": "detect init=runs/g2d",
    }.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            Runner(HIDDEN).command(f"medvl train {words} data.manifest=manifest.csv --out runs/{run}".split())
    return folder


def identity(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in pages() if blocks_of(page)], ids=identity)
def test_the_blocks_of_a_page_run(page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "page"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    for run in MADE.findall(page.read_text(encoding="utf-8")):  # the page makes it itself
        shutil.rmtree(run, ignore_errors=True)
    runner = Runner(HIDDEN)
    for block in blocks_of(page):
        if block.mark in ("not run", "example"):
            continue
        try:
            runner.run(block)
        except Exception as error:
            pytest.fail(f"{identity(page)}, line {block.line}: {error}", pytrace=False)


def test_what_does_not_run_is_listed() -> None:
    reasons = Counter(block.value for page in pages() for block in blocks_of(page) if block.mark == "not run")
    assert dict(reasons) == NOT_RUN


def test_a_block_that_is_wrong_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    wrong = {
        "sh": "medvl train no_such_recipe",
        "python": "raise ValueError",
        "yaml": "data: {no_such_key: 1}",
        "text": "medvl demo",
        "": "medvl demo",
    }
    for kind, text in wrong.items():
        page.write_text(f"```{kind}\n{text}\n```\n")
        (block,) = blocks_of(page)
        with pytest.raises(Exception):  # noqa: B017
            Runner(()).run(block)
