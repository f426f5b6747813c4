"""`task: pretrain`: G2D on image-report pairs, and its use without any label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from medvl.config.sections import PretrainConfig
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
    from medvl.tasks.pretrain.zero_shot import ZeroShot
    from medvl.text.base import TextEncoder


class PretrainTask(FolderTask):
    """Pairs of image and report to an image encoder, a text encoder and a decoder."""

    name = "pretrain"
    model_name = "g2d"
    method = "g2d"
    needs_labels = False
    gives_encoder = True
    skips_parameters = True  # in its warm-up, the decoder is not run
    sections: ClassVar[Mapping[str, type]] = {"pretrain": PretrainConfig}
    refused: ClassVar[Mapping[str, Any]] = {
        "data.label_fraction": 1.0,
        "data.balance": "none",
        "data.phrases_per_image": 1,
        "data.p_empty_text": 0.0,
        "data.normalize": "none",
        "train.steps_per_epoch": None,
        "train.freeze_encoder": False,
        "train.choose_by": "metric",
    }

    def check_context(self, config: Config, num_columns: int) -> None:
        """InputError where the network cannot take clinical variables."""
        if config.data.context_as == "tokens" and config.model.options.get("text_pool") == "first":
            raise InputError.conflict(
                "data.context_as: tokens with model.options.text_pool: first, which reads one token only",
                expected="text_pool: attention or mean, or data.context_as: text",
            )

    def prepare(
        self,
        config: Config,
        manifest: Manifest,
        splits: dict[str, Sequence[Record]],
        context: ContextRules | None,
        fabric: Fabric,
        out: Path,
    ) -> Prepared:
        """Model, learner and loaders of a run; see `pretraining`."""
        from medvl.tasks.pretrain.data import pretraining

        unused = refused_keys(self, config)
        if config.pretrain.shuffle_masks and config.pretrain.decoder != "pseudo_mask":
            unused.append(f"pretrain.shuffle_masks with decoder: {config.pretrain.decoder}")
        if config.pretrain.mask.soft and config.pretrain.mask.smooth == "none":
            unused.append("pretrain.mask.soft with smooth: none")
        if unused or config.model.name != self.model_name:
            what = ", ".join(unused) if unused else f"model.name: {config.model.name}"
            expected = f"the default there, and model.name: {self.model_name}"
            raise InputError.conflict(f"task: pretrain does not take {what}", expected=expected)
        return pretraining(config, manifest, splits, context, fabric, out)

    def suits(self, facts: TableFacts) -> int:
        """Texts of many kinds are reports to align images with."""
        from medvl.tasks.fit import MIN_TEXTS

        return 2 * (facts.num_distinct_texts >= MIN_TEXTS)

    def build(
        self, config: Config, num_classes: int, encoder: TextEncoder | None, context: ContextRules | None
    ) -> NetworkModule:
        """The model of a saved configuration, with new weights."""
        from medvl.models.g2d import G2D
        from medvl.tasks.pretrain.model import G2DModel, g2d_options

        if encoder is None:
            raise InputError.missing("a pre-trained model without its text encoder", expected="the folder text/")
        return G2DModel(G2D(**g2d_options(config, encoder)), encoder, context)

    def load(self, folder: str | Path, device: str) -> ZeroShot:
        """A pre-trained model: `set_image` once, then `ground` a prompt or `classify` by prompts."""
        from medvl.tasks.pretrain.zero_shot import ZeroShot

        return ZeroShot.load(folder, device)

    def answerer(self, model: str | Path, images: Sequence[InputImage], out: Path, question: Question) -> Answerer:
        """Writes similarity maps of the texts, or the probabilities of `question.classes`."""
        from medvl.tasks.pretrain.predict import ClassFiles, GroundFiles
        from medvl.tasks.pretrain.zero_shot import ZeroShot

        if question.classes:
            question.takes("a pre-trained model with --classes", "classes", "prompts", "family", "temperature")
        else:
            question.takes("a pre-trained model without --classes", "text", "sigma", "how")
        reader = ZeroShot.load(model, question.device)
        if question.classes:
            return ClassFiles(reader, images, out, question)
        return GroundFiles(reader, images, out, question)

    def usage(self, folder: str | Path) -> str:
        """The command that applies a model of this task to an image."""
        return (
            f'medvl predict {folder} IMAGE --text "PHRASE" --out DIR shows where it is, or train task: segment with '
            f"init={folder}"
        )


PRETRAIN = PretrainTask()
