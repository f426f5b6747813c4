"""Image encoders out of the checkpoints of other programs, and out of medvl's own.

| layout | where the ResNet lies |
| --- | --- |
| torchvision | at the top: `conv1.weight`, `layer1.0.conv1.weight`; `fc.*` classifies (also G2D's `_encoder.pth`) |
| segmentation_models_pytorch | `encoder.*`, beside `decoder.*` (also G2D's `_encoder_decoder.pth`) |
| G2D | `img_model.encoder.*`, in `model_state_dict` |
| MGCA | `img_encoder_q.model.*`, in `state_dict` |
| GLoRIA | `gloria.img_encoder.model.*` or `img_encoder.model.*`, in `state_dict` |
| MedKLIP | `res_features.N.*`, a sequence of torchvision's children, in `model`; as released without layer4 |
| medvl | `unet.encoder.*` (pre-training) or `encoder.*` (segmentation); also encoders other than ResNets |

The names of G2D, MGCA, GLoRIA and MedKLIP were read in their programs; no file of their weights was ever at hand.
A single ResNet under another prefix is taken too, and the layout's name says so.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medvl.config import ASSET_PREFIX
from medvl.core.errors import Fault, FaultKind, InputError, warn
from medvl.core.files import whole_file
from medvl.models.encoders.base import ImageEncoder, fit_channels
from medvl.models.encoders.registry import ENCODERS, build_image_encoder

RESNETS: dict[str, tuple[bool, tuple[int, int, int, int]]] = {  # name -> bottleneck blocks, depths
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
TARGETS = {"torchvision": "", "segmentation_models_pytorch": "encoder."}  # what `convert_encoder` writes -> prefix

_SMP = "segmentation_models_pytorch"
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys of a checkpoint that hold the tensors
_OUTER = re.compile(r"^(?:module\.|_orig_mod\.|network\.|model\.)+")  # what wraps a whole model
_LAYOUTS = {
    "": "torchvision",
    "img_model.encoder.": "G2D",
    "img_encoder_q.model.": "MGCA",
    "gloria.img_encoder.model.": "GLoRIA",
    "img_encoder.model.": "GLoRIA",
    "res_features.": "MedKLIP",
    "unet.encoder.": "medvl",
    "encoder.backbone.": "medvl",
}
# What must stand under one prefix, by family; the first name finds the prefix.
_FAMILIES = {
    "resnet": ("layer1.0.conv1.weight", "conv1.weight"),
    "sequence": ("4.0.conv1.weight", "0.weight", "1.running_mean"),
    "efficientnet_lite0": ("_conv_stem.weight", "_blocks.0._depthwise_conv.weight"),
    "ucnn": ("inc.conv.weight", "down.0.0.conv.weight"),
}
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_TRUNK = re.compile(r"(?:conv1|bn1|layer[1-4])\.")  # of a ResNet
_COUNTER = "num_batches_tracked"  # not in files of old; BatchNorm does without


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the tensors: `matched`, `missing`, `reshaped` (matched, too) of the encoder; of the file the rest.

    `missing` leaves out the counters of BatchNorm, which old files lack and which nothing depends on.
    """

    layout: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def encoder_weights(state_dict: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """A checkpoint -> (layout, the encoder's tensors by torchvision's names, or medvl's where it is no ResNet).

    Everything under the encoder's prefix is returned, a classifier (`fc.*`) too.

    Raises:
        InputError: no image encoder in it, or several of which none has a known place.
    """
    tensors = _unwrap(state_dict)
    encoders = _find(tensors)
    known = [(family, prefix) for family, prefix in encoders if _layout(family, prefix, tensors) is not None]
    chosen = known or encoders
    if len(chosen) != 1:
        what = f"{len(chosen)} image encoders, under {', '.join(repr(prefix) for _, prefix in chosen)}"
        some = ", ".join(list(tensors)[:4]) + (" ..." if len(tensors) > 4 else "")
        raise InputError(
            what if chosen else f"no image encoder among the {len(tensors)} tensors: {some}",
            kind=FaultKind.AMBIGUOUS if chosen else FaultKind.MISMATCH,
            expected="a ResNet in the layout of torchvision, segmentation_models_pytorch, G2D, MGCA, GLoRIA or "
            "MedKLIP, or an encoder of medvl",
            remedy="save the encoder's own state dict to a file of its own" if chosen else None,
        )
    family, prefix = chosen[0]
    inner = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if family == "sequence":
        inner = {_from_sequence(name): value for name, value in inner.items()}
    return _layout(family, prefix, tensors) or f"unknown prefix {prefix!r}", inner


def load_encoder(encoder: ImageEncoder, path: str | Path) -> Report:
    """Fill `encoder` from a file (.pth, .pt, .bin, .ckpt, .tar, .safetensors), a MODEL or RUN folder, or medvl:NAME.

    Kernels for three channels are summed for grey images (exact: a grey image fed three times gives the same map), and
    those for one are spread over three. What the file lacks keeps its values, with a warning.

    Raises:
        InputError: not readable as tensors, no encoder in it, or one of another architecture (all misfits together).
    """
    path = Path(path)
    layout, weights = _located(path, encoder)
    before = encoder.state_dict()
    fitted: dict[str, Tensor] = {}
    reshaped: list[str] = []
    faults: list[Fault] = []
    for name, value in weights.items():
        shape = tuple(value.shape)
        if name not in before:
            if _TRUNK.match(name) and not name.endswith(_COUNTER):
                faults.append(Fault.mismatch(f"tensor {name} has no place in the image encoder", path))
            continue
        if value.ndim == 4 and (shape[1], before[name].shape[1], encoder.in_channels) in ((3, 1, 1), (1, 3, 3)):
            value = fit_channels(value, encoder.in_channels)  # the kernel that reads the image
            reshaped.append(name)
        if value.shape != before[name].shape:
            faults.append(
                Fault.mismatch(f"tensor {name} has shape {shape}", path, expected=str(tuple(before[name].shape)))
            )
        fitted[name] = value
    matched = [name for name in before if name in fitted]
    if faults or not any(before[name].ndim > 1 for name in matched):
        expected, remedy = _other_network(encoder, _encoder_name(weights))
        what = Fault.mismatch(
            "the weights are of another network than the image encoder", path, None, None, expected, remedy
        )
        raise InputError([what, *faults[:5]])
    encoder.load_state_dict({**before, **fitted})
    missing = [name for name in before if name not in fitted and not name.endswith(_COUNTER)]
    if missing:
        warn(f"{path} lacks {len(missing)} tensors of the image encoder, which keep their values: {_some(missing)}")
    unexpected = [name for name in weights if name not in before]
    return Report(layout, tuple(matched), tuple(missing), tuple(unexpected), tuple(reshaped))


def convert_encoder(path: str | Path, to: str = "torchvision") -> tuple[str, dict[str, Tensor], Report]:
    """-> (network, the tensors of its ResNet by the names of `to`, report by torchvision's names).

    A kernel for grey images is spread evenly over three channels, as those programs expect them. `unexpected` in the
    report is what is not of the ResNet's trunk (a classifier) and is not converted.

    Raises:
        InputError: not readable, no ResNet in it, an unknown `to`, or tensors of shapes that do not fit together.
    """
    if to not in TARGETS:
        raise InputError.unknown(f"unknown layout {to!r} to convert to", expected=" | ".join(TARGETS))
    path = Path(path)
    layout, weights = _located(path)
    if "layer1.0.conv1.weight" not in weights:
        raise InputError.unsupported(
            "the encoder is no ResNet", file=path, expected=f"a ResNet, which {to} has names for"
        )
    from medvl.models.encoders.resnet import BasicBlock, Bottleneck, ResNet

    bottleneck, depths = _blocks(weights)
    base = int(weights["conv1.weight"].shape[0])
    with torch.device("meta"):
        twin = ResNet(Bottleneck if bottleneck else BasicBlock, depths, base=base, in_channels=3).state_dict()
    converted: dict[str, Tensor] = {}
    reshaped: list[str] = []
    faults: list[Fault] = []
    for name in twin:
        if name not in weights:
            continue
        value = weights[name]
        if name == "conv1.weight" and value.shape[1] == 1:
            value = fit_channels(value, 3)
            reshaped.append(name)
        if value.shape != twin[name].shape:
            faults.append(
                Fault.mismatch(
                    f"tensor {name} has shape {tuple(value.shape)}", path, expected=str(tuple(twin[name].shape))
                )
            )
        converted[name] = value.detach().cpu().contiguous()
    if faults:
        raise InputError(faults)
    missing = tuple(name for name in twin if name not in converted and not name.endswith(_COUNTER))
    unexpected = tuple(name for name in weights if name not in twin)
    report = Report(layout, tuple(converted), missing, unexpected, tuple(reshaped))
    name = _resnet_name(weights) or f"ResNet of depths {depths}"
    if base != 64:
        name += f" of base width {base} (no constructor of torchvision builds this width)"
    return name, {TARGETS[to] + key: value for key, value in converted.items()}, report


def read_tensors(path: Path) -> Mapping[str, Any]:
    """The content of a file of weights. Nothing but tensors and plain containers is read: no code in it can run."""
    if not path.is_file():
        raise InputError.missing_file(
            "no such file of weights", file=path, expected="a local file; nothing is downloaded"
        )
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            loaded: Any = load_file(str(path))
        except (SafetensorError, OSError) as error:
            raise InputError.damaged(f"not a safetensors file: {error}", file=path) from None
        return dict(loaded)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError.unsupported(
            "the file holds Python objects beside its tensors, or is none of torch.save: "
            + str(error).strip().splitlines()[0][:120],
            file=path,
            expected="tensors only, because other objects run code when they are read",
            remedy="if you trust its origin, save the tensors alone where its program is installed: "
            "torch.save(torch.load(FILE, weights_only=False)['state_dict'], 'weights.pth')",
        ) from None
    except Exception as error:  # the unpickler runs on whatever bytes there are: any kind of error comes out of it
        raise InputError.damaged(f"not a whole file of torch.save: {str(error).strip()[:120]}", file=path) from None
    if not isinstance(loaded, Mapping):
        raise InputError.malformed(f"the file holds a {type(loaded).__name__}", file=path, expected="a state dict")
    return loaded


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a plain state dict, whole or not at all, as the suffix says.

    Raises:
        InputError: another suffix than .pth, .pt, .bin or .safetensors, no such folder, or a folder of that name.
    """
    if path.suffix not in (".pth", ".pt", ".bin", ".safetensors"):
        raise InputError.unsupported(
            f"cannot write weights as {path.suffix or 'a file without suffix'}",
            file=path,
            expected=".pth or .safetensors",
        )
    if not path.parent.is_dir():
        raise InputError.missing_file("no such folder", file=path.parent, remedy="make it first")
    if path.is_dir():
        raise InputError.exists("a folder, not a file to write", file=path, remedy="choose another file")
    with whole_file(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(dict(tensors), str(temporary), metadata={"format": "pt"})
        else:
            with temporary.open("wb") as file:  # errors of the disk then are the operating system's
                torch.save(dict(tensors), file)


def _located(path: Path, encoder: ImageEncoder | None = None) -> tuple[str, dict[str, Tensor]]:
    """`encoder_weights` of a file, a MODEL or RUN folder, or a shipped model; its errors name the file.

    `encoder`: what they are for; a file of the library that it is of is read by its rule.
    """
    if path.is_dir() or str(path).startswith(ASSET_PREFIX):
        from medvl.inference.model_folder import find_model

        path = find_model(path) / "model.safetensors"
    content = read_tensors(path)
    renamed = {} if encoder is None else encoder.rename(_unwrap(content))
    if renamed:
        return f"that of {type(encoder).__name__}", renamed
    try:
        return encoder_weights(content)
    except InputError as error:
        fault = error.faults[0]
        raise InputError(fault.what, kind=fault.kind, file=path, expected=fault.expected, remedy=fault.remedy) from None


def _unwrap(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without the containers around them and the prefixes of whole-model wrappers."""
    inner: Mapping[str, Any] = state_dict
    while True:
        key = next((key for key in _WRAPPERS if isinstance(inner.get(key), Mapping)), None)
        if key is None:
            break
        inner = inner[key]
    return {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}


def _find(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """(family, prefix) of every image encoder in sight."""
    encoders = []
    for family, (first, *rest) in _FAMILIES.items():
        for name in tensors:
            prefix = name.removesuffix(first)
            if name.endswith(first) and (not prefix or prefix.endswith(".")):
                if all(prefix + other in tensors for other in rest):
                    encoders.append((family, prefix))
    if not encoders:  # any other encoder inside a model of medvl
        for name in tensors:
            prefix, mark, _ = name.partition("encoder.")
            if mark and _OUTER.sub("", prefix) in ("", "unet."):
                inside_lvit = f"{prefix}encoder.adapt.0.conv.weight" in tensors
                return [("other", prefix + mark + ("backbone." if inside_lvit else ""))]
    return encoders


def _layout(family: str, prefix: str, tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the layout that puts such an encoder under `prefix`; None where it is unknown."""
    inner = _OUTER.sub("", prefix)
    if inner == "encoder.":
        outer = prefix.removesuffix(inner)
        if family != "resnet" or f"{outer}outc.weight" in tensors:
            return "medvl"
        return _SMP if any(name.startswith(f"{outer}decoder.") for name in tensors) else "encoder.*"
    if inner == "" and family != "resnet":
        return "torchvision's children in sequence" if family == "sequence" else family
    return _LAYOUTS.get(inner)


def _from_sequence(name: str) -> str:
    child, _, rest = name.partition(".")
    return f"{_CHILDREN[child]}.{rest}" if child in _CHILDREN else name


def _blocks(weights: Mapping[str, Tensor]) -> tuple[bool, tuple[int, int, int, int]]:
    """Bottleneck blocks or not, and the depths; a layer that is missing has the depth of the ResNet that fits."""
    bottleneck = "layer1.0.conv3.weight" in weights
    depths = []
    for layer in range(1, 5):
        numbers = {name.split(".")[1] for name in weights if name.startswith(f"layer{layer}.")}
        depths.append(max((int(number) for number in numbers if number.isdigit()), default=-1) + 1)
    fits = [
        known
        for deep, known in RESNETS.values()
        if deep == bottleneck and all(a in (0, b) for a, b in zip(depths, known, strict=True))
    ]
    if len(fits) == 1:
        return bottleneck, fits[0]
    first, second, third, fourth = depths
    return bottleneck, (first, second, third, fourth)


def _resnet_name(weights: Mapping[str, Tensor]) -> str | None:
    """resnet18 ... resnet152 by the blocks that are there, of whatever base width; None for anything else."""
    if "layer1.0.conv1.weight" not in weights:
        return None
    blocks = _blocks(weights)
    return next((name for name, known in RESNETS.items() if known == blocks), None)


def _encoder_name(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the registered encoder that the weights are of, whatever its input; None where there is none."""
    shapes = {name: value.shape for name, value in weights.items() if value.ndim > 1}
    for name in ENCODERS:
        with torch.device("meta"):
            encoder = build_image_encoder(name, in_channels=3)
        twin = {key: value.shape for key, value in encoder.state_dict().items() if value.ndim > 1}
        first = next(iter(twin))  # the kernel that reads the image: its input may be of other channels
        if (
            first in shapes
            and shapes[first][0] == twin[first][0]
            and all(key == first or shapes.get(key, shape) == shape for key, shape in twin.items())
            and all(key in twin for key in shapes if _TRUNK.match(key))
        ):
            return name
    return None


def _other_network(encoder: ImageEncoder, like: str | None) -> tuple[str, str | None]:
    """What the recipe asks for, and what to write in it for the encoder `like` that the file holds."""
    words = f"{type(encoder).__name__} with maps of {', '.join(map(str, encoder.channels))} channels"
    return words, f"model.encoder: {like}, as in the file" if like else None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
