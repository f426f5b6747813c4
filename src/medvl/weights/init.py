"""Where a network starts from: new weights, a pre-trained image encoder, a run of the same task."""

from __future__ import annotations

from typing import TypeVar

from medvl.config import G2D_PREFIX, WEIGHTS_PREFIX, Config, load_config, split_init
from medvl.core.errors import InputError
from medvl.core.task import find_task
from medvl.data.hashes import Stage, read_stages
from medvl.inference.model_folder import find_model, load_model
from medvl.models.classifier import ImageClassifier
from medvl.models.encoder_unet import EncoderNetwork
from medvl.models.g2d import G2D
from medvl.models.module import NetworkModule
from medvl.weights.transfer import load_foreign, start_from_encoder

Module = TypeVar("Module", bound=NetworkModule)


def init_of(config: Config) -> tuple[str, str]:
    """Prefix and path of `init`, see `split_init`: a run of another task whose encoder is taken is `g2d:` too.

    Raises:
        InputError: no such run.
    """
    prefix, path = split_init(config.init or "")
    if path and not prefix:
        task = find_task(load_config(find_model(path) / "config.yaml").task)
        if task is not find_task(config.task) and task.gives_encoder:
            prefix = G2D_PREFIX
    return prefix, path


def stages_of_init(config: Config) -> tuple[Stage, ...]:
    """The images that the model behind `init` was trained on, by stage; () where there is none, or it does not say."""
    prefix, path = split_init(config.init or "")
    if not path or prefix == WEIGHTS_PREFIX:
        return ()
    return read_stages(find_model(path)) or ()


def load_pretrained(path: str) -> EncoderNetwork:
    """The encoder, and what U-Net stands on it, of the run at `path`; InputError where that pre-trains none."""
    network = load_model(path, uses_text=False)[0].network
    if isinstance(network, G2D):
        return network.unet
    if isinstance(network, ImageClassifier):
        return network
    raise InputError.unsupported(
        "no pre-trained image encoder", file=path, expected="a run of task: pretrain or classify"
    )


def start_image_network(config: Config, fresh: Module, classes: tuple[str, ...]) -> tuple[Module, str | None]:
    """`fresh`, which takes images alone, filled as `init` says, or the network of `init`; and what was taken over from
    it (None without one).

    Raises:
        InputError: no such run, no pre-trained encoder behind `g2d:`, a network of another task, size or other classes.
    """
    prefix, path = init_of(config)
    if not path:
        return fresh, None
    if prefix == WEIGHTS_PREFIX:
        return fresh, load_foreign(fresh.network, path)
    if prefix:
        return fresh, str(start_from_encoder(fresh.network, load_pretrained(path), "encoder", path))
    module, _, saved, card = load_model(path, uses_text=False)
    if not isinstance(module, type(fresh)) or saved.model != config.model or tuple(card["classes"]) != classes:
        raise InputError.mismatch(
            "init is another network",
            file=path,
            expected=f"a pre-trained run, or one of task: {config.task} with the same model and the classes "
            + ", ".join(classes),
        )
    return module, f"all tensors of that {type(fresh).__name__.lower()}"
