"""The registry of published layouts: who imports them, what their folders hold, where they are obtained, on what terms.

Labels in the manifests of all layouts, for whoever reads them (classification, detection):

- `labels`: the positive labels of the row, `|` between them; `none` = none of the layout's labels is positive; empty =
  not annotated.
- `labels_unknown`: those of which neither is known (uncertain, not mentioned): no loss, not scored. Without this column
  everything is known.
- `Layout.labels`: all labels of a set, in the order of its table. What is in neither column is negative.

Segmentation sets mark absence with `none` in their mask column, boxes stand in boxes.csv. MIMIC-CXR and Open-i are
imported by their own modules.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

from medvl.core.errors import InputError, nearest
from medvl.core.files import NEW_OUT, refuse_source
from medvl.data.importers.result import ImportResult


@dataclass(frozen=True, slots=True)
class Part:
    """Files that belong to a set: shell patterns for their path below the folder ("*" also stands for "/").

    `num`: how many the published set has, None where that is up to the user (then one will do). A part that is not
    `required` may be absent.
    """

    what: str
    patterns: tuple[str, ...]
    num: int | None = None
    required: bool = True


@dataclass(frozen=True, slots=True)
class Layout:
    """One published layout."""

    name: str
    title: str
    importer: str  # "module:function" in this package
    parts: tuple[Part, ...]
    obtained: str  # where the set is to be had
    terms: str
    met: str  # real files that the importer was tried on; for the rest it follows the set's description
    options: tuple[str, ...] = ()  # of the command line; passed on under their own names
    note: str = ""

    def function(self) -> Callable[..., Any]:
        """The importer; its module is imported now. InputError when this installation does not have it."""
        module, _, name = self.importer.partition(":")
        try:
            return getattr(import_module(f"{__package__}.{module}"), name)  # type: ignore[no-any-return]
        except ModuleNotFoundError as error:
            raise InputError(f"the importer of {self.name} is not installed ({error})") from None

    def check_out(self, folder: str | Path, out: str | Path) -> None:
        """Refuse an `out` that is the source itself or a file of the set. Every importer would replace it."""
        refuse_source(folder, out)
        if not Path(out).is_file():
            return
        # A link is looked at both as it is called and as the file that it leads to.
        for root, file in ((os.path.abspath(folder), os.path.abspath(out)), map(os.path.realpath, (folder, out))):
            relative = Path(os.path.relpath(file, root)).as_posix()
            patterns = [pattern for part in self.parts for pattern in part.patterns]
            if not relative.startswith("../") and any(fnmatchcase(relative, pattern) for pattern in patterns):
                raise InputError("--out is a file of the set", file=out, expected=NEW_OUT, remedy="another --out")

    def run(self, folder: str | Path, out: str | Path, **options: Any) -> ImportResult:
        """Import a folder. Not for `lvit` and `lung-regions`, whose importers have results of their own."""
        self.check_out(folder, out)
        result: ImportResult = self.function()(folder, out, **options)
        return result

    def labels(self) -> tuple[str, ...]:
        """All labels of the set, () where it has none or they are the user's own."""
        return tuple(getattr(import_module(f"{__package__}.{self.importer.partition(':')[0]}"), "LABELS", ()))


def get_layout(name: str) -> Layout:
    """The layout of a name. InputError with the nearest name and the list of all."""
    if name not in LAYOUTS:
        like = nearest(name, LAYOUTS)
        remedy = f"did you mean {like}?" if like else None
        raise InputError(f"unknown layout {name}", expected=", ".join(LAYOUTS), remedy=remedy)
    return LAYOUTS[name]


def _lvit_parts(train: int | None, val: int | None, test: int | None) -> tuple[Part, ...]:
    parts = []
    for split, num in (("Train", train), ("Val", val), ("Test", test)):
        both = () if split == "Test" else ("Train_Folder/Train_Val_text.xlsx",)  # one table may serve two splits
        parts.append(Part(f"{split}: sentences", (f"{split}_Folder/{split}_text.*", *both)))
        parts.append(Part(f"{split}: images", (f"{split}_Folder/img/*.*",), num))
        parts.append(Part(f"{split}: masks", (f"{split}_Folder/labelcol/*.*",), num))
    return tuple(parts)


def _at(*names: str) -> tuple[str, ...]:
    """Files of the folder itself or of a folder in it."""
    return tuple(pattern for name in names for pattern in (name, f"*/{name}"))


_PICTURES = ("*.png", "*.jpg", "*.jpeg", "*.tif", "*.tiff", "*.bmp")
_PHYSIONET = "PhysioNet Credentialed Health Data License 1.5.0: credentialed account, training, data use agreement"

_ALL = (
    Layout(
        "lvit",
        "LViT's folders and tables, any set",
        "lvit:import_lvit",
        _lvit_parts(None, None, None),
        "your own set; the layout is described in the README of HUANGLIZI/LViT on GitHub",
        "those of your set",
        "names, captions and images of the sets qata and monuseg, laid out anew",
    ),
    Layout(
        "qata",
        "QaTa-COV19-v2 with LViT's captions: 9,258 radiographs, infection masks, text",
        "lvit_sets:import_lvit_set",
        _lvit_parts(5716, 1429, 2113),
        "Kaggle, aysendegerli/qatacov19-dataset; captions and split: README of HUANGLIZI/LViT on GitHub",
        "see both pages; no licence text was read for this tool",
        "the 9,258 captions with their file names, in a wording turned back by rule; images and masks never",
    ),
    Layout(
        "mosmed",
        "MosMedData+ with LViT's captions: 2,729 CT slices, infection masks, text",
        "lvit_sets:import_lvit_set",
        _lvit_parts(2183, 273, 273),
        "mosmed.ai (COVID19_1110); slices, captions and split: README of HUANGLIZI/LViT on GitHub",
        "MosMedData: CC BY-NC-ND 3.0 by its authors' paper; the captions: see LViT's page",
        "none, layout from description",
    ),
    Layout(
        "monuseg",
        "MoNuSeg with LViT's captions: 44 histology images, nuclei masks, text",
        "lvit_sets:import_lvit_set",
        _lvit_parts(24, 6, 14),
        "monuseg.grand-challenge.org; captions and split: README of HUANGLIZI/LViT on GitHub",
        "CC BY-NC-SA 4.0",
        "36 of the 44 images with their masks and captions, laid out anew",
    ),
    Layout(
        "lung-regions",
        "phrases and zone maps, made from any manifest with lung masks",
        "lung_regions:import_lung_regions",
        (Part("manifest with lung masks", ("manifest.csv",)),),
        "your own set, or medvl's shipped one (medvl:cxr_regions)",
        "those of your set",
        "medvl's shipped set",
        options=("max_size", "licence"),
        note="--out is a new folder",
    ),
    Layout(
        "reports",
        "reports as typed in a column of any manifest: sections, cleaned text, counts",
        "reports:import_reports",
        (Part("manifest with a column of reports", ("manifest.csv",)),),
        "your own set",
        "those of your set",
        "its rules of text: 3,561 reports of Open-i",
        options=("text_column", "max_words"),
        note="instead of the folder a manifest may be given; the column is --text-column",
    ),
    Layout(
        "mimic-cxr",
        "MIMIC-CXR-JPG with the reports of MIMIC-CXR: 377,110 radiographs, 227,835 reports",
        "mimic_cxr:import_mimic_cxr",
        (
            Part("metadata", ("mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-metadata.csv.gz")),
            Part("split", ("mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-split.csv.gz")),
            Part("images", ("files/p1*/*.jpg",), 377110),
            Part("reports (may lie elsewhere: --reports)", ("*/s*.txt", "mimic-cxr-reports.zip"), None, False),
        ),
        "physionet.org/content/mimic-cxr-jpg and physionet.org/content/mimic-cxr (reports)",
        _PHYSIONET,
        "none, layout from description",
        options=("views", "reports"),
    ),
    Layout(
        "openi",
        "Indiana University chest X-rays (Open-i): 7,470 images, 3,955 reports",
        "openi:import_openi",
        (
            Part("reports", _at("ecgen-radiology/*.xml"), 3955),
            Part("images", ("NLMCXR_png/*.png",), 7470),
        ),
        "openi.nlm.nih.gov, FAQ, collection of Indiana University",
        "CC BY-NC-ND 4.0, stated in every report",
        "all 3,955 reports, with the names of the 7,470 images; images never",
    ),
    Layout(
        "padchest",
        "PadChest: 160,861 radiographs with Spanish reports and labels",
        "padchest:import_padchest",
        (
            Part("table", _at("PADCHEST_chest_x_ray_images_labels*.csv", "PADCHEST_chest_x_ray_images_labels*.csv.gz")),
            Part("images", ("*.png",), 160861),
        ),
        "bimcv.cipf.es/bimcv-projects/padchest",
        "BIMCV PadChest Dataset Research Use Agreement: request, research only",
        "the table, whole; images never",
        options=("views",),
    ),
    Layout(
        "ms-cxr",
        "MS-CXR: phrases with boxes on images of MIMIC-CXR-JPG",
        "ms_cxr:import_ms_cxr",
        (
            Part("table of boxes", _at("MS_CXR_Local_Alignment*.csv")),
            Part("images (may lie elsewhere: --images)", ("*.jpg",), None, False),
        ),
        "physionet.org/content/ms-cxr; its images are those of physionet.org/content/mimic-cxr-jpg",
        _PHYSIONET,
        "none, layout from description",
        options=("images",),
    ),
    Layout(
        "siim",
        "SIIM-ACR pneumothorax: 12,047 radiographs, masks",
        "siim:import_siim",
        (
            Part("run lengths", _at("train-rle.csv", "stage_2_train.csv")),
            Part("DICOM files", ("*.dcm",), 12047),
        ),
        "Kaggle, competition siim-acr-pneumothorax-segmentation",
        "the competition's rules: see its page",
        "the table of run lengths, whole; DICOM files never",
        note="DICOM files of the challenge's test set count too, but have no masks",
    ),
    Layout(
        "rsna",
        "RSNA pneumonia: 26,684 radiographs, boxes",
        "rsna:import_rsna",
        (
            Part("boxes", _at("stage_2_train_labels.csv")),
            Part("DICOM files", ("stage_2_train_images/*.dcm", "*/stage_2_train_images/*.dcm"), 26684),
        ),
        "Kaggle, competition rsna-pneumonia-detection-challenge",
        "the challenge's terms of use (RSNA): see its page",
        "the table of boxes, whole; DICOM files never",
    ),
    Layout(
        "object-cxr",
        "Object-CXR: 9,000 radiographs, foreign objects as rectangles, ellipses, polygons",
        "object_cxr:import_object_cxr",
        (
            Part("train: table", _at("train.csv")),
            Part("dev: table", _at("dev.csv")),
            Part("train: images", ("train/*.jpg", "*/train/*.jpg"), 8000),
            Part("dev: images", ("dev/*.jpg", "*/dev/*.jpg"), 1000),
            Part("test: table", ("test.csv",), None, False),
        ),
        "jfhealthcare.github.io/object-CXR; archive.org, item object-CXR",
        "see its page; no licence text was read for this tool",
        "none, layout from description",
    ),
    Layout(
        "nih",
        "NIH ChestX-ray14: 112,120 radiographs, 14 labels, 984 boxes",
        "nih:import_nih",
        (
            Part("labels", _at("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")),
            Part("official list: train and validation", _at("train_val_list.txt")),
            Part("official list: test", _at("test_list.txt")),
            Part("images", ("*.png",), 112120),
            Part("boxes", _at("BBox_List_2017.csv"), None, False),
        ),
        "nihcc.app.box.com/v/ChestXray-NIHCC",
        "free use; name the NIH Clinical Center, link its page and cite Wang et al., CVPR 2017",
        "both tables, whole; the official lists and the images never",
    ),
    Layout(
        "chexpert",
        "CheXpert-v1.0-small: 191,229 frontal radiographs, 14 observations with uncertain ones",
        "chexpert:import_chexpert",
        (
            Part("train: table", _at("train.csv")),
            Part("valid: table", _at("valid.csv")),
            Part("train: frontal images", ("train/*_frontal.jpg", "*/train/*_frontal.jpg"), 191027),
            Part("valid: frontal images", ("valid/*_frontal.jpg", "*/valid/*_frontal.jpg"), 202),
        ),
        "Stanford AIMI, shared datasets: CheXpert",
        "Stanford University Dataset Research Use Agreement: registration, no commercial use",
        "train.csv, whole; valid.csv and the images never",
        options=("uncertain", "unmentioned"),
    ),
    Layout(
        "covidx",
        "COVIDx CXR 9A: 30,386 radiographs, normal / pneumonia / COVID-19",
        "covidx:import_covidx",
        (
            Part("train: list", _at("train_COVIDx9A.txt")),
            Part("test: list", _at("test_COVIDx9A.txt")),
            Part("train: images", ("train/*.*", "*/train/*.*"), 29986),
            Part("test: images", ("test/*.*", "*/test/*.*"), 400),
        ),
        "Kaggle, andyczhao/covidx-cxr2 (images); labels/ of lindawangg/COVID-Net on GitHub (lists)",
        "mixed, by source: docs/COVIDx.md of COVID-Net",
        "the first lines of the training list; the rest never",
    ),
    Layout(
        "coco",
        "COCO instance annotations, any set: polygons or run lengths, boxes, categories",
        "coco:import_coco",
        (
            Part("annotations", ("*.json",)),
            Part("images", _PICTURES),
        ),
        "your own set; the format is described on cocodataset.org",
        "those of your set",
        "run lengths of pycocotools; whole files never",
    ),
    Layout(
        "labelme",
        "LabelMe, a JSON file an image: polygons, rectangles, circles, masks",
        "labelme:import_labelme",
        (
            Part("annotations", ("*.json",)),
            Part("images (or embedded in the JSON)", _PICTURES, None, False),
        ),
        "your own set; the format is described in wkentaro/labelme on GitHub",
        "those of your set",
        "none, layout from description",
    ),
    Layout(
        "colour-masks",
        "label maps with a table of colours or values: CVAT, Pascal VOC, CamVid, Roboflow",
        "colour_masks:import_colour_masks",
        (
            Part("table", _at("labelmap.txt", "class_dict.csv", "label_colors.txt", "_classes.csv")),
            Part("images and masks", _PICTURES),
        ),
        "your own set",
        "those of your set",
        "none, layout from description",
    ),
    Layout(
        "yolo",
        "YOLO text labels, any set: boxes or polygons",
        "yolo:import_yolo",
        (
            Part("classes and parts", ("data.yaml",)),
            Part("labels", ("labels/*.txt", "*/labels/*.txt")),
            Part("images", tuple(f"{place}{kind}" for place in ("images/", "*/images/") for kind in _PICTURES)),
        ),
        "your own set; the format is described in the Ultralytics documentation",
        "those of your set",
        "none, layout from description",
    ),
)
LAYOUTS = {layout.name: layout for layout in _ALL}
