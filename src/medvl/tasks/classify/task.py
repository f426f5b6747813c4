"""`task: classify`: class labels of images, on an image encoder that is frozen or fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from medvl.config.sections import ClassifyConfig
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
    from medvl.tasks.classify.predict import ClassPredictor
    from medvl.text.base import TextEncoder


class ClassifyTask(FolderTask):
    """Images to class labels: a linear layer on a frozen encoder, or encoder and layer fine-tuned."""

    name = "classify"
    model_name = "classifier"
    takes_text = False
    gives_encoder = True
    sections: ClassVar[Mapping[str, type]] = {"classify": ClassifyConfig}
    defaults: ClassVar[Mapping[str, Any]] = {"text.encoder": "none"}
    refused: ClassVar[Mapping[str, Any]] = {
        "fidelity": "medvl",
        "text.encoder": "none",
        "data.phrases_per_image": 1,
        "data.p_empty_text": 0.0,
        "data.rows_per_image": None,
        "data.draw_by": None,
        "data.also_labelled": None,
        "data.balance": "none",
        "train.steps_per_epoch": None,
        "train.freeze_encoder": False,
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
        """Model, learner and loaders of a run; see `classification`."""
        from medvl.tasks.classify.data import classification

        unused = refused_keys(self, config)
        if unused or config.model.name != self.model_name:
            what = ", ".join(unused) if unused else f"model.name: {config.model.name}"
            raise InputError.conflict(
                f"task: classify does not take {what}",
                expected=f"the default there, and model.name: {self.model_name}",
                remedy="classify.mode: linear freezes the encoder" if "train.freeze_encoder" in unused else None,
            )
        return classification(config, manifest, splits, fabric)

    def suits(self, facts: TableFacts) -> int:
        """Labels, where there is nothing else."""
        return 1 * bool(facts.num_labelled)

    def build(
        self, config: Config, num_classes: int, encoder: TextEncoder | None, context: ContextRules | None
    ) -> NetworkModule:
        """The model of a saved configuration, with new weights."""
        from medvl.models.classifier import ImageClassifier
        from medvl.tasks.classify.model import Classifier, classifier_options

        return Classifier(ImageClassifier(**classifier_options(config, num_classes)))

    def cached_in(self, config: Config, folder: str | None) -> Config:
        """The features of frozen encoders, which runs of the same encoder share."""
        return config.with_section("classify", replace(config.classify, cache_dir=folder))

    def load(self, folder: str | Path, device: str) -> ClassPredictor:
        """A trained classifier, applied to one image at a time."""
        from medvl.tasks.classify.predict import ClassPredictor

        return ClassPredictor.load(folder, device)

    def answerer(self, model: str | Path, images: Sequence[InputImage], out: Path, question: Question) -> Answerer:
        """Writes predictions.csv with the probabilities of the classes."""
        from medvl.tasks.classify.predict import ClassPredictor, label_files

        question.takes("a classifier")
        threshold = question.probability(0.5)
        return label_files(ClassPredictor.load(model, question.device), out, threshold)

    def usage(self, folder: str | Path) -> str:
        """The command that applies a model of this task to an image."""
        return f"medvl predict {folder} IMAGE --out DIR gives probabilities with it"


CLASSIFY = ClassifyTask()
