"""Names of upstream G2D checkpoints -> names of medvl's G2D."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medvl.core.errors import Fault, InputError, warn

if TYPE_CHECKING:
    from medvl.models.g2d import G2D

_RULES: tuple[tuple[str, str], ...] = (
    (r"img_model\.encoder\.(.+)", r"unet.encoder.\1"),
    (r"img_model\.decoder\.blocks\.(\d+)\.conv([12])\.0\.(.+)", r"unet.decoder.blocks.\1.conv\2.\3"),
    (r"img_model\.decoder\.blocks\.(\d+)\.conv([12])\.1\.(.+)", r"unet.decoder.blocks.\1.norm\2.\3"),
    (r"img_model\.segmentation_head\.0\.(.+)", r"unet.outc.\1"),
    (r"attnpool\.(.+)", r"attention_pool.\1"),
    (r"proj_v\.0\.(.+)", r"visual_projector.conv1.\1"),
    (r"proj_v\.1\.(.+)", r"visual_projector.norm.\1"),
    (r"proj_v\.3\.(.+)", r"visual_projector.conv2.\1"),
    (r"proj_t\.0\.(.+)", r"text_projector.conv1.\1"),
    (r"proj_t\.1\.(.+)", r"text_projector.norm.\1"),
    (r"proj_t\.3\.(.+)", r"text_projector.conv2.\1"),
)
_UNUSED = ("bert_model.", "lm_model.", "text_encoder.", "pseudo_conv.")  # another module, or never called upstream


def released_name(name: str) -> str | None:
    """Our name of an upstream tensor, "" for one that is left out, None for an unknown one."""
    for pattern, ours in _RULES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name)
    return "" if name.startswith(_UNUSED) else None


def convert_released(state_dict: Mapping[str, Any], network: type[G2D]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An upstream G2D state dict -> (constructor options of our G2D, its state dict).

    Accepts the checkpoint itself ({"model_state_dict": ...} or {"state_dict": ...}) and names that begin with
    `module.`. The depth (ResNet-18 or -50), widths and the grid of positions are read off the tensors; heads are 4, as
    the released program has it. `network` is the class that they are for.

    Raises:
        InputError: all missing, unknown and misshapen tensors, together.
    """
    tensors: Any = state_dict
    for key in ("model_state_dict", "state_dict"):
        tensors = tensors.get(key, tensors) if isinstance(tensors, Mapping) else tensors
    if not isinstance(tensors, Mapping):
        raise InputError.malformed("not a checkpoint", expected="a mapping of names to tensors")
    state: dict[str, Tensor] = {}
    faults: list[Fault] = []
    num_left = 0
    for full, value in tensors.items():
        name = str(full).removeprefix("module.")
        ours = released_name(name)
        if ours is None or not isinstance(value, Tensor):
            faults.append(Fault.unknown(f"unknown tensor {name}", expected="the names of the released G2D"))
        elif ours:
            if name.startswith("proj_t.") and value.ndim == 3:  # a convolution over tokens of kernel 1
                value = value[..., None]
            state[ours] = value
        else:
            num_left += 1
    options = _options(state)
    with torch.device("meta"):
        expected = network(**options).state_dict()
    for name in sorted(expected.keys() | state.keys()):
        if name not in state:
            faults.append(Fault.missing(f"missing tensor {name}", expected=f"shape {tuple(expected[name].shape)}"))
        elif name not in expected:
            faults.append(Fault.unknown(f"unknown tensor {name}", expected="the names of the released G2D"))
        elif state[name].shape != expected[name].shape:
            faults.append(
                Fault.mismatch(
                    f"tensor {name} has shape {tuple(state[name].shape)}", expected=str(tuple(expected[name].shape))
                )
            )
    if faults:
        raise InputError(faults)
    if num_left:
        warn(f"left out {num_left} tensors of the released G2D: its text encoder, and what it never calls")
    return options, state


def _options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    def length(name: str, axis: int, default: int) -> int:
        return int(state[name].shape[axis]) if name in state and state[name].ndim > axis else default

    cells = length("attention_pool.positional_embedding", 0, 65) - 1
    side = round(cells**0.5)
    bottleneck = "unet.encoder.layer1.0.conv3.weight" in state
    return {
        "encoder": "resnet50" if bottleneck else "resnet18",
        "in_channels": length("unet.encoder.conv1.weight", 1, 3),
        "num_outputs": length("unet.outc.weight", 0, 1),
        "text_dim": length("text_projector.conv1.weight", 1, 768),
        "projection_dim": length("visual_projector.conv2.weight", 0, 128),
        "heads": 4,
        "text_pool": "first",
        "text_norm": "tokens",
        "image_size": 32 * side,
        "input_norm": "none",
    }
