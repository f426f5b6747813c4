"""`task: segment`: masks of images, guided by text, with all masks or with few of them (semi-supervised)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from medvl.config.objective import ObjectiveConfig
from medvl.config.sections import SemiConfig
from medvl.core.errors import Fault, InputError
from medvl.core.task import Answerer, Prepared, Question
from medvl.tasks.base import FolderTask

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from medvl.config import Config
    from medvl.data.context import ContextRules
    from medvl.data.record import Manifest, Record
    from medvl.data.table_facts import TableFacts
    from medvl.inference.inputs import InputImage
    from medvl.inference.predictor import Predictor
    from medvl.models.module import NetworkModule
    from medvl.text.base import TextEncoder


class SegmentTask(FolderTask):
    """An image and a prompt to a mask."""

    name = "segment"
    model_name = "lvit"
    sections: ClassVar[Mapping[str, type]] = {"objective": ObjectiveConfig, "semi": SemiConfig}

    def faults(self, config: Config, source: str) -> list[Fault]:
        """Values of its sections that are right alone and wrong together."""
        faults = []
        if not any(term.weight for term in config.objective.terms):
            what = "no term of objective.terms has a weight above 0"
            faults.append(Fault.conflict(what, file=source, expected="one at least: nothing would be learned"))
        if config.semi.view == "strong" and config.semi.epi == "none":
            what = "semi.view: strong without pseudo labels"
            faults.append(Fault.conflict(what, file=source, expected="semi.epi: labels or weights"))
        return faults

    def check_context(self, config: Config, num_columns: int) -> None:
        """InputError where the network cannot take so many clinical variables."""
        from medvl.models.registry import option_names

        options, tokens = config.model.options, config.data.context_as == "tokens"
        merge = options.get("text_merge", "slots") if config.model.name == "lvit" else "attention"
        if "text_dim" not in option_names(config.model.name) or merge == "none":
            raise InputError.conflict(
                f"data.context_columns with model {config.model.name}, which takes no text", expected="lvit, text_unet"
            )
        if config.model.name == "clipseg" and tokens:
            raise InputError.conflict(
                "data.context_as: tokens with clipseg, which reads one token only", expected="text"
            )
        if merge == "slots":
            _check_slots(config, num_columns)

    def prepare(
        self,
        config: Config,
        manifest: Manifest,
        splits: dict[str, Sequence[Record]],
        context: ContextRules | None,
        fabric: Fabric,
        out: Path,
    ) -> Prepared:
        """Model, learner and loaders of a run; see `segmentation`."""
        from medvl.tasks.segment.data import segmentation

        return segmentation(config, manifest, splits, context, fabric, out)

    def suits(self, facts: TableFacts) -> int:
        """Masks say most about an image."""
        return 4 * bool(facts.num_annotated)

    def build(
        self, config: Config, num_classes: int, encoder: TextEncoder | None, context: ContextRules | None
    ) -> NetworkModule:
        """The model of a saved configuration, with new weights."""
        from medvl.models.module import SegmentModel
        from medvl.models.registry import build_model
        from medvl.tasks.segment.model import network_options

        network = build_model(config.model.name, **network_options(config, num_classes, encoder))
        return SegmentModel(network, encoder, context)

    def load(self, folder: str | Path, device: str) -> Predictor:
        """A trained segmenter: `set_image` once, then `segment` any number of prompts."""
        from medvl.inference.predictor import Predictor

        return Predictor.load(folder, device)

    def answerer(self, model: str | Path, images: Sequence[InputImage], out: Path, question: Question) -> Answerer:
        """Writes masks, overlays and predictions.csv."""
        from medvl.tasks.segment.predict import MaskFiles

        question.takes("a segmentation model", "text", "context")
        return MaskFiles(model, images, out, question)

    def usage(self, folder: str | Path) -> str:
        """The command that applies a model of this task to an image."""
        return f'medvl predict {folder} IMAGE --text "PHRASE" --out DIR segments with it'


def _check_slots(config: Config, num_columns: int) -> None:
    """Slots are few: the context must not push words out of them."""
    num_slots = config.model.options.get("num_slots") or 10
    if config.data.context_as == "text":
        raise InputError.conflict(
            f"data.context_as: text with text_merge: slots: of {num_slots} slots the words would leave the text none",
            expected="data.context_as: tokens, or text_merge: attention",
        )
    room, limit = num_slots - num_columns, config.text.max_tokens
    if limit is None or limit > room:
        raise InputError.out_of_range(
            f"{num_columns} clinical variables and {limit or 'any number of'} text tokens for {num_slots} token slots",
            expected=f"text.max_tokens: {room}" if room > 0 else f"fewer than {num_slots} variables",
            remedy="or text_merge: attention, which takes any number",
        )


SEGMENT = SegmentTask()
