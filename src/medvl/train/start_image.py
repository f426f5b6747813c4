"""Where a network that takes images alone starts from: new weights, a pre-trained encoder, a run of the same task."""

from __future__ import annotations

from typing import TypeVar

from medvl.config import WEIGHTS_PREFIX, Config, split_init
from medvl.errors import InputError
from medvl.model_folder import load_model
from medvl.models.bridge import load_foreign, start_from_g2d
from medvl.models.g2d import G2D
from medvl.tasks.segment import TextGuidedSegmenter

Module = TypeVar("Module", bound=TextGuidedSegmenter)


def start_image_network(config: Config, fresh: Module, classes: tuple[str, ...]) -> tuple[Module, str | None]:
    """`fresh`, filled as `init` says, or the network of `init`; and what was taken over from it (None without one).

    Raises:
        InputError: no such run, no pre-trained G2D behind `g2d:`, a network of another task, size or other classes.
    """
    prefix, path = split_init(config.init or "")
    if not path:
        return fresh, None
    if prefix == WEIGHTS_PREFIX:
        return fresh, load_foreign(fresh.network, path)
    module, _, own, card = load_model(path)
    if prefix:
        if not isinstance(module.network, G2D):
            raise InputError("not a pre-trained G2D", file=path, expected="a run of task: pretrain")
        return fresh, str(start_from_g2d(fresh.network, module.network, "encoder", path))
    if not isinstance(module, type(fresh)) or own.model != config.model or tuple(card["classes"]) != classes:
        raise InputError(
            "init is another network",
            file=path,
            expected=f"a run of task: {config.task} with the same model and the classes {', '.join(classes)}",
            remedy="init: g2d:RUN takes the image encoder of a pre-trained run",
        )
    return module, f"all tensors of that {type(fresh).__name__.lower()}"
