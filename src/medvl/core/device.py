"""Which device is used, tensors on their way to it without the host waiting for them, and their precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from medvl.core.errors import InputError


def usable_device(name: str | torch.device, option: str = "--device") -> torch.device:
    """The device of that name. InputError where there is none here.

    Args:
        name: cpu, cuda, cuda:0, mps.
        option: what named it, for the message.
    """
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    names += ["mps"] if torch.backends.mps.is_available() else []
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    kinds = {torch.device(each).type for each in names}
    if device is None or device.type not in kinds or (device.type == "cuda" and str(device) not in ("cuda", *names)):
        raise InputError.no_resource(f"{option} {name} is not here", expected=f"one of {', '.join(names)}")
    return device


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """`x` on `device`. A copy to a GPU goes by way of pinned memory: one from pageable memory waits for the GPU."""
    device = torch.device(device)
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def full_floats(x: Tensor) -> Tensor:
    """`x` in float32 at least: sums over pixels overflow float16 and lose their last digits in bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context with autocast off, for what half precision would change: thresholds, sums over a batch."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
