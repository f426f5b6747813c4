"""Features of frozen encoders: computed once per distinct text, kept on disk under a key that includes the encoder.

Shapes: N texts, L tokens, D width.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from medvl.errors import warn
from medvl.files import write_text
from medvl.text.encoder import TextEncoder

BATCH = 64
NOTICE = (
    "Features of report texts, one entry per distinct text, made by medvl. They and their hashes are derived from\n"
    "report text: treat this folder as you treat the reports. It may be deleted; it is then computed anew.\n"
)


class FeatureCache:
    """`features(texts)` of a frozen encoder.

    One file per encoder key. Two processes may use it at once: each writes its own whole file and renames it, so the
    worst is that a text is computed twice. A damaged file is computed anew, with a warning.
    """

    def __init__(self, encoder: TextEncoder, folder: Path | None = None) -> None:
        """`folder` None keeps the features in memory only."""
        self.encoder, self.folder = encoder, folder
        self.num_computed = 0
        self._features: dict[str, Tensor] = {}
        self._path = None if folder is None else folder / f"{encoder.key}.safetensors"
        if self._path is not None and self._path.is_file():
            self._read(self._path)

    def features(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """-> features (N, L, D) and mask (N, L), padded with zeros to the longest of these texts."""
        keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._features}
        if missing:
            self._compute(missing)
        rows = [self._features[key] for key in keys]
        length = max(row.shape[0] for row in rows)
        result = torch.zeros(len(rows), length, self.encoder.dim)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for n, row in enumerate(rows):
            result[n, : row.shape[0]] = row
            mask[n, : row.shape[0]] = True
        return result, mask

    @torch.inference_mode()
    def _compute(self, missing: dict[str, str]) -> None:
        from rich.console import Console
        from rich.progress import track

        # Texts of similar length together: little padding.
        order = sorted(missing, key=lambda key: len(missing[key]))
        console = Console(stderr=True)
        starts = track(
            range(0, len(order), BATCH), "text features", console=console, transient=True,
            disable=not console.is_terminal or len(order) <= BATCH,
        )
        self.encoder.eval()
        for start in starts:
            chunk = order[start : start + BATCH]
            features, mask = self.encoder.encode([missing[key] for key in chunk])
            for key, row, keep in zip(chunk, features.float().cpu(), mask.cpu(), strict=True):
                self._features[key] = row[: int(keep.sum())].clone()  # (L, D)
        self.num_computed += len(missing)
        self._write()

    def _read(self, path: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            self._features = load_file(str(path))
        except (SafetensorError, OSError) as error:
            warn(f"{path}: unreadable feature cache ({error}); it is computed anew")

    def _write(self) -> None:
        from safetensors.torch import save_file

        if self._path is None or self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "README.txt", NOTICE)
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".tmp")
        os.close(handle)
        save_file(self._features, name)
        os.replace(name, self._path)
