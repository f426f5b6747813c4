"""Names of upstream checkpoints -> names of medvl's models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medvl.core.errors import Fault, InputError, warn

if TYPE_CHECKING:
    from medvl.models.lvit import LViT


def _live_prefixes() -> dict[str, str]:
    """Upstream prefix -> our prefix, of everything that takes part in the result."""
    prefixes = {"inc.": "encoder.inc.", "outc.": "outc.", "downVit.CTBN3.": "slots.expand."}
    for n in range(4):
        level, vit = n + 1, f"Vit{n or ''}"
        prefixes |= {
            f"down{level}.nConvs.": f"encoder.down.{n}.",
            f"up{level}.nConvs.": f"up.{n}.",
            f"up{level}.pixModule.conv_avg.": f"plam.{n}.conv_avg.",
            f"up{level}.pixModule.conv_max.": f"plam.{n}.conv_max.",
            f"up{level}.pixModule.bottleneck.": f"plam.{n}.bottleneck.",
            f"reconstruct{level}.": f"reconstruct.{n}.",
            f"down{vit}.embeddings.position_embeddings": f"vit_down.{n}.embed.position_embeddings",
            f"down{vit}.embeddings.patch_embeddings.": f"vit_down.{n}.embed.projection.",
            f"down{vit}.Encoder_blocks.": f"vit_down.{n}.blocks.",
            f"up{vit}.Encoder_blocks.": f"vit_up.{n}.blocks.",
            f"text_module{4 - n}.": f"slots.cascade.{n}.",
        }
        if n > 0:
            prefixes[f"down{vit}.CTBN."] = f"vit_down.{n}.mix."
        if n < 3:
            prefixes[f"up{vit}.CTBN2."] = f"vit_up.{n}.mix."
    return prefixes


_LIVE = _live_prefixes()
# Upstream tensors that never take part in the result (no gradient ever reaches them).
_DEAD = (
    r"pix_module[1-4]\..+",
    r"up[1-4]\.pixModule\.conv_sig\..+",
    r"(?:down|up)Vit[1-3]?\.(?:norm|head|CTBN|CTBN2|CTBN3)\..+",
    r"upVit[1-3]?\.embeddings\..+",
)
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def released_name(name: str) -> str | None:
    """Our name of an upstream LViT tensor, "" for a dead one, None for an unknown one."""
    for prefix, ours in _LIVE.items():
        if name.startswith(prefix):
            return ours + name.removeprefix(prefix)
    return "" if any(re.fullmatch(pattern, name) for pattern in _DEAD) else None


def _upstream_name(name: str) -> str:
    """The inverse of `released_name`."""
    return next(theirs + name.removeprefix(ours) for theirs, ours in _LIVE.items() if name.startswith(ours))


def convert_released(state_dict: Mapping[str, Any], network: type[LViT]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An upstream LViT state dict -> (constructor options of our LViT, its state dict).

    Accepts the checkpoint itself ({"state_dict": ...}) and names that begin with `module.`. `network` is the class
    that they are for.

    Raises:
        InputError: all missing, unknown and misshapen tensors, together.
    """
    tensors = state_dict.get("state_dict", state_dict)
    if not isinstance(tensors, Mapping):
        raise InputError.malformed("not a checkpoint", expected="a mapping of names to tensors, or {'state_dict': ...}")
    tensors = {str(name).removeprefix("module."): value for name, value in tensors.items()}
    state: dict[str, Tensor] = {}
    faults: list[Fault] = []
    num_dead = num_dead_tensors = 0
    for name, value in tensors.items():
        ours = released_name(name)
        if ours is None or not isinstance(value, Tensor):
            faults.append(Fault.unknown(f"unknown tensor {name}", expected="the names of the released LViT"))
        elif ours:
            state[ours] = value
        elif not name.endswith(_BUFFERS):
            num_dead += value.numel()
            num_dead_tensors += 1
    options = _options(state)
    with torch.device("meta"):
        expected = network("T", **options).state_dict()
    for ours in expected.keys() - state.keys():
        faults.append(
            Fault.missing(f"missing tensor {_upstream_name(ours)}", expected=f"shape {tuple(expected[ours].shape)}")
        )
    for ours, value in state.items():
        if ours not in expected:
            faults.append(
                Fault.unknown(f"unknown tensor {_upstream_name(ours)}", expected="the names of the released LViT")
            )
        elif value.shape != expected[ours].shape:
            faults.append(
                Fault.mismatch(
                    f"tensor {_upstream_name(ours)} has shape {tuple(value.shape)}",
                    expected=f"{tuple(expected[ours].shape)}, as in LViT-T at 224 px",
                )
            )
    if faults:
        raise InputError(sorted(faults, key=str))
    if num_dead:
        warn(f"dropped {num_dead:,} dead parameters in {num_dead_tensors} tensors of the released LViT")
    return options, state


def _options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Constructor options by the tensors' shapes; where a tensor is missing or odd, the released value."""

    def length(name: str, axis: int, default: int) -> int:
        shape = state[name].shape if name in state else ()
        return int(shape[axis]) if len(shape) > axis else default

    blocks = [int(name.split(".")[3]) for name in state if name.startswith("vit_down.0.blocks.")]
    return {
        "in_channels": length("encoder.inc.conv.weight", 1, 3),
        "num_classes": length("outc.weight", 0, 1),
        "text_dim": length("slots.cascade.0.weight", 1, 768),
        "depth": max(blocks, default=0) + 1,
    }
