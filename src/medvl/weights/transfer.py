"""From a pre-trained image encoder into a network: `init: g2d:RUN` (G2D, classifier), `init: weights:FILE` (foreign).

EncoderUNet                        <- encoder, and with it the decoder and its last convolution
LViT with its own contracting path <- encoder and decoder of a G2D on `ucnn_*` of the same size
LViT with another `encoder`        <- encoder
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.encoder_unet import EncoderNetwork, EncoderUNet
from medvl.models.g2d import G2D
from medvl.models.lvit import LViT
from medvl.models.pyramid_cnn import PyramidCNN

Parts = Literal["encoder", "encoder_decoder"]
OPTIONS = ("heads", "text_pool", "text_norm", "input_norm", "pool_stride", "pool_deeper")  # not all show in a shape
POSITIONS = "attention_pool.positional_embedding"


@dataclass(frozen=True, slots=True)
class Taken:
    """Names of the network's tensors: `taken` from G2D, `other_shape` (left as they were), and how many are its own."""

    taken: tuple[str, ...]
    other_shape: tuple[str, ...]
    num_new: int

    def __str__(self) -> str:
        text = f"{len(self.taken)} tensors taken over, {self.num_new} are the network's own"
        return text + (f"; of another shape and not taken: {', '.join(self.other_shape)}" if self.other_shape else "")


def start_from_encoder(network: nn.Module, source: EncoderNetwork, parts: Parts, where: str) -> Taken:
    """Copy what fits from `source` into `network`; text encoders and everything else stay as they are.

    Args:
        source: the U-Net of a G2D, or a classifier, which gives its encoder alone.
        parts: "encoder", or "encoder_decoder" where the network has the same decoder.
        where: the folder of `source`, for the message.

    Raises:
        InputError: a network that has no place for an image encoder, another image encoder than that of `source`, or
            one that is fed otherwise.
    """
    before = network.state_dict()
    state: dict[str, Tensor] = {}
    for name, value in source.state_dict().items():
        target = _target(network, name, parts)
        if target is not None:
            state[target] = value
    encoder = [name for name in before if name.startswith(_encoder_prefix(network))]
    wrong = [name for name in encoder if name not in state or state[name].shape != before[name].shape]
    if not encoder or wrong:
        first = wrong[0] if wrong else "no encoder"
        raise InputError.mismatch(
            f"the image encoder of init is another one ({len(wrong)} of {len(encoder)} tensors, e.g. {first})",
            file=where,
            expected=f"{_key_of_encoder(network, source.encoder_name)} and data.in_channels={source.in_channels}, "
            "as pre-trained",
        )
    reader = network.encoder if isinstance(network, LViT) else network
    trained_with = source.input_norm
    if (
        getattr(reader, "input_norm", trained_with) != trained_with
    ):  # not of LViT's own path: there it is data.normalize
        raise InputError.mismatch(
            f"init was pre-trained with input_norm {trained_with}, this network has {reader.input_norm}",
            file=where, expected="the image encoder fed as in its pre-training",
            remedy=f"model.options.input_norm={trained_with}",
        )  # fmt: skip
    taken = {name: value for name, value in state.items() if name in before and before[name].shape == value.shape}
    other = tuple(name for name in state if name in before and name not in taken)
    network.load_state_dict({**before, **taken})
    return Taken(tuple(taken), other, len(before) - len(taken))


def continue_from(network: G2D, other: G2D, where: str) -> str:
    """All of `other` into `network`; a decoder that only one of them has, or another number of its maps, may differ.

    The attention pool's positions are interpolated where the image size is another.

    Raises:
        InputError: anything else differs.
    """
    differences = [
        f"{name}: {old} there, {new} here"
        for name, old, new in zip(("model.encoder", *OPTIONS), _options(other), _options(network), strict=True)
        if old != new
    ]
    if differences:
        what = f"init is another network ({'; '.join(differences)})"
        raise InputError.mismatch(what, file=where, expected="the same")
    before, trained = network.state_dict(), other.state_dict()
    if network.attention_pool is not None and other.attention_pool is not None:
        trained[POSITIONS] = other.attention_pool.positions(network.attention_pool.grid)
    decoder = ("unet.decoder.", "unet.outc.")
    fits = {name for name, value in trained.items() if name in before and before[name].shape == value.shape}
    wrong = sorted(name for name in {*before, *trained} - fits if not name.startswith(decoder))
    if wrong:
        raise InputError.mismatch(
            f"init is another network ({len(wrong)} tensors differ, e.g. {wrong[0]})",
            file=where,
            expected="the same model.encoder and options",
        )
    network.load_state_dict({**before, **{name: trained[name] for name in fits}})
    return f"{len(fits)} tensors taken over, {len(before) - len(fits)} are new"


def _options(g2d: G2D) -> tuple[object, ...]:
    """The values of `model.encoder` and of `OPTIONS`."""
    pool, strides = g2d.attention_pool, g2d.unet.encoder.strides
    heads = pool.mhsa.num_heads if pool is not None else "pool: average"
    deeper = g2d.pool_deeper or g2d.pool_level == len(strides) - 1  # nothing lies below the deepest map
    unet = g2d.unet
    stride = strides[g2d.pool_level]
    return (unet.encoder_name, heads, g2d.text_pool, g2d.text_norm, unet.input_norm, stride, deeper)


def load_foreign(network: nn.Module, path: str) -> str:
    """The image encoder of another program's checkpoint into `network`; -> what became of its tensors, in words."""
    from medvl.weights.external import load_encoder

    prefix = _encoder_prefix(network).rstrip(".")
    report = load_encoder(network.get_submodule(prefix), path)  # type: ignore[arg-type]  # an ImageEncoder, or refused
    return f"{report.layout}: {len(report.matched)} tensors of the image encoder, {len(report.missing)} missing"


def _encoder_prefix(network: nn.Module) -> str:
    if isinstance(network, LViT) and isinstance(network.encoder, PyramidCNN):
        return "encoder.backbone."
    if isinstance(network, LViT | EncoderNetwork):
        return "encoder."
    raise InputError.unsupported(
        f"{type(network).__name__} cannot start from g2d", expected="model.name: encoder_unet or lvit"
    )


def _key_of_encoder(network: nn.Module, encoder: str) -> str:
    """What a network of this kind is given for that encoder."""
    size = encoder.removeprefix("ucnn_")
    both = isinstance(network, LViT) and size != encoder  # LViT's own path has the width of its size
    return f"model.encoder={encoder}" + (f" with model.size={size}" if both else "")


def _target(network: nn.Module, name: str, parts: Parts) -> str | None:
    """The network's name of a tensor of G2D's U-Net, or None."""
    if name.startswith("encoder."):
        return _encoder_prefix(network) + name.removeprefix("encoder.")
    if parts == "encoder":
        return None
    if isinstance(network, EncoderUNet):
        return name
    if name.startswith("decoder.up.") and not isinstance(network.encoder, PyramidCNN):
        return name.removeprefix("decoder.")
    return None
