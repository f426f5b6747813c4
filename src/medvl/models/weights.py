"""Names of upstream checkpoints -> names of medvl's models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medvl.errors import Fault, InputError, warn

# Upstream names that do something, and what they are called here. `{n}` counts a level from 0.
_LIVE: tuple[tuple[str, str], ...] = (
    (r"inc\.(?P<rest>.+)", "encoder.inc.{rest}"),
    (r"down(?P<level>[1-4])\.nConvs\.(?P<rest>.+)", "encoder.down.{n}.{rest}"),
    (r"up(?P<level>[1-4])\.nConvs\.(?P<rest>.+)", "up.{n}.{rest}"),
    (r"up(?P<level>[1-4])\.pixModule\.(?P<rest>(?:conv_avg|conv_max|bottleneck)\..+)", "plam.{n}.{rest}"),
    (r"reconstruct(?P<level>[1-4])\.(?P<rest>.+)", "reconstruct.{n}.{rest}"),
    (r"outc\.(?P<rest>.+)", "outc.{rest}"),
    (r"downVit(?P<deeper>[1-3]?)\.embeddings\.position_embeddings", "vit_down.{n}.embed.position_embeddings"),
    (r"downVit(?P<deeper>[1-3]?)\.embeddings\.patch_embeddings\.(?P<rest>.+)", "vit_down.{n}.embed.projection.{rest}"),
    (r"downVit(?P<deeper>[1-3]?)\.Encoder_blocks\.(?P<rest>.+)", "vit_down.{n}.blocks.{rest}"),
    (r"downVit(?P<deeper>[1-3])\.CTBN\.(?P<rest>.+)", "vit_down.{n}.mix.{rest}"),
    (r"downVit\.CTBN3\.(?P<rest>.+)", "slots.expand.{rest}"),
    (r"upVit(?P<deeper>[1-3]?)\.Encoder_blocks\.(?P<rest>.+)", "vit_up.{n}.blocks.{rest}"),
    (r"upVit(?P<deeper>[12]?)\.CTBN2\.(?P<rest>.+)", "vit_up.{n}.mix.{rest}"),
    (r"text_module(?P<from_last>[1-4])\.(?P<rest>.+)", "slots.cascade.{n}.{rest}"),
)
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
    for pattern, ours in _LIVE:
        found = re.fullmatch(pattern, name)
        if found:
            parts = found.groupdict()
            n = 0
            if "level" in parts:
                n = int(parts["level"]) - 1
            elif "deeper" in parts:
                n = int(parts["deeper"] or 0)
            elif "from_last" in parts:
                n = 4 - int(parts["from_last"])
            return ours.format(n=n, rest=parts.get("rest", ""))
    return "" if any(re.fullmatch(pattern, name) for pattern in _DEAD) else None


def convert_released(state_dict: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An upstream LViT state dict -> (constructor options of our LViT, its state dict).

    Accepts the checkpoint itself ({"state_dict": ...}) and names that begin with `module.`.

    Raises:
        InputError: all missing, unknown and misshapen tensors, together.
    """
    import torch

    from medvl.models.lvit import LViT

    tensors = state_dict.get("state_dict", state_dict)
    if not isinstance(tensors, Mapping):
        raise InputError("not a checkpoint", expected="a mapping of names to tensors, or {'state_dict': ...}")
    tensors = {str(name).removeprefix("module."): value for name, value in tensors.items()}
    state: dict[str, Tensor] = {}
    upstream: dict[str, str] = {}
    faults: list[Fault] = []
    num_dead = num_dead_tensors = 0
    for name, value in tensors.items():
        ours = released_name(name)
        if ours is None:
            faults.append(Fault(f"unknown tensor {name}", expected="the names of the released LViT"))
        elif ours:
            state[ours], upstream[ours] = value, name
        elif not name.endswith(_BUFFERS):
            num_dead += value.numel()
            num_dead_tensors += 1
    options = _options(state)
    with torch.device("meta"):
        expected = LViT("T", **options).state_dict()
    for ours in expected.keys() - state.keys():
        faults.append(Fault(f"missing tensor, here called {ours}", expected=f"shape {tuple(expected[ours].shape)}"))
    for ours, value in state.items():
        if ours not in expected:
            faults.append(Fault(f"unknown tensor {upstream[ours]}", expected="the names of the released LViT"))
        elif value.shape != expected[ours].shape:
            faults.append(
                Fault(
                    f"tensor {upstream[ours]} has shape {tuple(value.shape)}",
                    expected=f"{tuple(expected[ours].shape)}, as in LViT-T at 224 px",
                )
            )
    if faults:
        raise InputError(sorted(faults, key=str))
    if num_dead:
        warn(f"dropped {num_dead:,} dead parameters in {num_dead_tensors} tensors of the released LViT")
    return options, state


def _options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Constructor options that the tensors' shapes tell; where a tensor is missing or odd, the released value."""

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
