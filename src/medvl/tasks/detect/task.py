"""`task: detect`: boxes of images, by YOLOv3's head on an image encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from medvl.config.sections import DetectConfig
from medvl.core.errors import InputError
from medvl.core.task import Answerer, Prepared, Question, refused_keys
from medvl.tasks.base import FolderTask

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from medvl.config import Config
    from medvl.data.context import ContextRules
    from medvl.data.record import Manifest, Record
    from medvl.data.table_facts import TableFacts
    from medvl.inference.inputs import InputImage
    from medvl.models.module import NetworkModule
    from medvl.tasks.detect.predict import BoxPredictor
    from medvl.text.base import TextEncoder


class DetectTask(FolderTask):
    """Images to boxes with a class and a score."""

    name = "detect"
    model_name = "yolo"
    takes_text = False
    sections: ClassVar[Mapping[str, type]] = {"detect": DetectConfig}
    defaults: ClassVar[Mapping[str, Any]] = {
        "text.encoder": "none",
        "train.freeze_encoder": True,  # as published
    }
    refused: ClassVar[Mapping[str, Any]] = {
        "fidelity": "medvl",
        "text.encoder": "none",
        "data.phrases_per_image": 1,
        "data.p_empty_text": 0.0,
        "data.rows_per_image": None,
        "data.draw_by": None,
        "data.also_labelled": None,
        "data.balance": "none",
    }

    def prepare(
        self,
        config: Config,
        manifest: Manifest,
        splits: dict[str, Sequence[Record]],
        context: ContextRules | None,
        fabric: Fabric,
        out: Path,
    ) -> Prepared:
        """Model, learner and loaders of a run; see `detection`."""
        from medvl.tasks.detect.data import detection

        unused = refused_keys(self, config)
        if unused or config.model.name != self.model_name:
            what = ", ".join(unused) if unused else f"model.name: {config.model.name}"
            expected = f"the default there, and model.name: {self.model_name}"
            raise InputError.conflict(f"task: detect does not take {what}", expected=expected)
        return detection(config, manifest, splits, fabric)

    def suits(self, facts: TableFacts) -> int:
        """Boxes say more about an image than its texts."""
        return 3 * bool(facts.num_boxed)

    def build(
        self, config: Config, num_classes: int, encoder: TextEncoder | None, context: ContextRules | None
    ) -> NetworkModule:
        """The model of a saved configuration, with new weights."""
        from medvl.models.yolo import YOLO
        from medvl.tasks.detect.model import Detector, detector_options

        return Detector(YOLO(**detector_options(config, num_classes)))

    def load(self, folder: str | Path, device: str) -> BoxPredictor:
        """A trained detector, applied to one image at a time."""
        from medvl.tasks.detect.predict import BoxPredictor

        return BoxPredictor.load(folder, device)

    def answerer(self, model: str | Path, images: Sequence[InputImage], out: Path, question: Question) -> Answerer:
        """Writes detections.csv and a picture of each image with its boxes."""
        from medvl.tasks.detect.predict import BoxFiles, BoxPredictor

        question.takes("a detector")
        predictor = BoxPredictor.load(model, question.device)
        return BoxFiles(predictor, out, question.probability(predictor.config.detect.score_threshold))

    def usage(self, folder: str | Path) -> str:
        """The command that applies a model of this task to an image."""
        return f"medvl predict {folder} IMAGE --out DIR finds boxes with it"


DETECT = DetectTask()
