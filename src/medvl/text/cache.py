"""Features of frozen encoders: computed once per distinct text, kept on disk under a key that includes the encoder.

Of a partly frozen encoder the output of its frozen part is kept; the trained layers take it from there.

Shapes: N texts, L tokens, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medvl.core.errors import warn
from medvl.core.files import whole_file, write_text
from medvl.text.base import TextEncoder

BATCH = 64
WRITE_BYTES, WRITE_SHARE = 2**26, 0.1  # a larger file is written anew only once that share of it is new
NOTICE = (
    "Features of report texts, one entry per distinct text, made by medvl. They and their hashes are derived from\n"
    "report text: treat this folder as you treat the reports. It may be deleted; it is then computed anew.\n"
)


class FeatureCache:
    """`features(texts)` of a frozen encoder, or what the frozen part of a partly frozen one gives.

    One file per encoder key. Two processes may use it at once: each writes its own whole file and renames it, so the
    worst is that a text is computed twice. A damaged file is computed anew, with a warning.

    Attributes:
        num_computed: how often a text was computed.
        num_not_kept: how often it was computed without being kept, because the memory bound was reached.
    """

    def __init__(self, encoder: TextEncoder, folder: Path | None = None, *, limit_mb: float = 2048) -> None:
        """`folder` None keeps the features in memory only. `limit_mb` bounds memory and file alike."""
        self.encoder, self.folder = encoder, folder
        self.num_computed = self.num_not_kept = 0
        self._limit = int(limit_mb * 2**20)
        self._features: dict[str, Tensor] = {}
        self._num_bytes = self._num_unwritten = 0
        self._path = None if folder is None else folder / f"{encoder.feature_key}.safetensors"
        if self._path is not None and self._path.is_file():
            self._read(self._path)

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureCache:
        """The copy of what uses a cache uses the same one: its features never change, and may be gigabytes."""
        return self

    def features(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """-> features (N, L, D) and mask (N, L), padded with zeros to the longest of these texts."""
        keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        features = {key: self._features[key] for key in keys if key in self._features}
        features |= self._compute({key: text for key, text in zip(keys, texts, strict=True) if key not in features})
        rows = [features[key] for key in keys]
        length = max(row.shape[0] for row in rows)
        result = torch.zeros(len(rows), length, self.encoder.dim)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for n, row in enumerate(rows):
            result[n, : row.shape[0]] = row
            mask[n, : row.shape[0]] = True
        return result, mask

    def num_missing(self, texts: Iterable[str]) -> int:
        """How many distinct texts have no features yet."""
        return len({hashlib.sha256(text.encode()).hexdigest() for text in texts} - self._features.keys())

    def fill(self, texts: Sequence[str]) -> None:
        """Compute the features of many texts before they are asked for, as far as the memory bound allows."""
        keyed = {hashlib.sha256(text.encode()).hexdigest(): text for text in texts}
        self._compute({key: text for key, text in keyed.items() if key not in self._features}, only_kept=True)
        self.flush()

    def flush(self) -> None:
        """Write what is not yet in the file: `features` may leave up to a tenth of a large file for later."""
        if self._num_unwritten:
            self._write()

    @torch.inference_mode()
    def _compute(self, missing: dict[str, str], *, only_kept: bool = False) -> dict[str, Tensor]:
        """Features (L, D) of the texts by key, kept as far as they fit; with `only_kept` it stops where they do not."""
        if not missing or (only_kept and self._is_full):
            return {}
        from rich.console import Console
        from rich.progress import track

        # Texts of similar length together: little padding.
        order = sorted(missing, key=lambda key: len(missing[key]))
        console = Console(stderr=True)
        starts = track(
            range(0, len(order), BATCH),
            "text features",
            console=console,
            transient=True,
            disable=not console.is_terminal or len(order) <= BATCH,
        )
        computed: dict[str, Tensor] = {}
        for start in starts:
            chunk = order[start : start + BATCH]
            features, mask = self._prefix([missing[key] for key in chunk])
            for key, row, keep in zip(chunk, features.float().cpu(), mask.cpu(), strict=True):
                computed[key] = row[keep].clone()  # (L, D)
                self._keep(key, computed[key])
            self.num_computed += len(chunk)
            if only_kept:
                computed.clear()
                if self._is_full:
                    break
        # Rewriting a large file for a few texts at a time would cost more than it saves.
        if self._num_bytes < WRITE_BYTES or self._num_unwritten > WRITE_SHARE * self._num_bytes:
            self.flush()
        return computed

    def _prefix(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        if not self.encoder.prefix_frozen or self.encoder.frozen:
            self.encoder.eval()
            return self.encoder.encode(texts)
        device = next(self.encoder.parameters()).device
        tokens = self.encoder.tokenize(texts)
        mask = tokens.mask.to(device)
        return self.encoder.prefix(tokens.ids.to(device), mask), mask

    def _keep(self, key: str, row: Tensor) -> None:
        size = row.numel() * row.element_size()
        if self._num_bytes + size > self._limit:
            self.num_not_kept += 1
            warn(
                f"the features of the texts need more than {self._limit / 2**20:g} MB (limit_mb): those beyond it are "
                "computed each time they are needed"
            )
            return
        self._features[key] = row
        self._num_bytes += size
        self._num_unwritten += size

    @property
    def _is_full(self) -> bool:
        return self.num_not_kept > 0

    def _read(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                for key in file.keys():
                    row = file.get_tensor(key)
                    size = row.numel() * row.element_size()
                    if self._num_bytes + size > self._limit:
                        break
                    self._features[key] = row
                    self._num_bytes += size
        except (SafetensorError, OSError) as error:
            self._features, self._num_bytes = {}, 0
            warn(f"{path}: unreadable feature cache ({error}); it is computed anew")

    def _write(self) -> None:
        from safetensors.torch import save_file

        self._num_unwritten = 0
        if self._path is None or self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "README.txt", NOTICE)
        with whole_file(self._path) as temporary:
            save_file(self._features, str(temporary))
