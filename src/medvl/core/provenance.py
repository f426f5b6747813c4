"""What a result file must carry so that it can be made again: versions and the kind of machine (never its name)."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any


def versions() -> dict[str, str]:
    """Versions of medvl, Python and the libraries that decide numbers."""
    versions = {"python": platform.python_version()}
    for name in ("medvl", "torch", "numpy", "transformers", "opencv-python-headless", "scipy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def machine() -> dict[str, Any]:
    """Processor model, cores and GPU: what a timing or a last digit may depend on."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    result: dict[str, Any] = {"processor": processor, "cores": os.cpu_count(), "system": platform.system()}
    import torch

    if torch.cuda.is_available():
        result["gpu"] = torch.cuda.get_device_name(0)
    return result
