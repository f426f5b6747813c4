"""Pooled features of frozen encoders on disk: once per encoder and image, for every run, fraction and seed.

A feature's name is made of all that it is computed from: the encoder's tensors, its network's options, how pixels are
read, the versions of the libraries, and the bytes of the image file. What differs in any of them has another name, so
that nothing stale can be read. Against changes of the program itself one image is computed anew at every use; if it
differs, the whole file is thrown away.

Shapes: n images, D pooled features.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvl.config import Config, DataConfig
from medvl.core.errors import warn
from medvl.core.files import whole_file
from medvl.core.provenance import versions
from medvl.data.hashes import file_hash
from medvl.tasks.classify.model import Classifier

FloatArray = NDArray[np.float32]
Compute = Callable[[Sequence[int]], FloatArray]
FORMAT = "medvl-features/1"
HEAD = "head."  # tensors of ImageClassifier that no feature passes through
# Keys of `data` that say which images and labels are taken, not how the pixels of one are read without augmentation.
NOT_PIXELS = frozenset(
    {
        "manifest", "text_column", "constant_text", "laterality", "classes", "views", "empty_means_absent", "augment",
        "mask_rule", "p_empty_text", "phrases_per_image", "rows_per_image", "draw_by", "val_phrases_per_image",
        "label_fraction", "label_seed", "label_by", "balance", "also_labelled", "boxes_from", "num_workers", "cache_mb",
    }
)  # fmt: skip


class FeatureStore:
    """A folder with one file per encoder and way of reading; several processes may share it."""

    def __init__(self, folder: Path, module: Classifier, config: Config, data: DataConfig) -> None:
        """`data`: how pixels are read, where that is not `config.data` (see `evaluate_classifier`)."""
        self.key = encoder_key(module, config, data)
        self.path = folder / f"{self.key[:32]}.npz"

    def features(self, images: Sequence[Path], compute: Compute) -> FloatArray:
        """(n, D) of `images`, in order; `compute(indices)` gives the rows of those that are not there yet."""
        digests = [file_hash(image) for image in images]
        known = self._read()
        first = next((i for i, digest in enumerate(digests) if digest in known), None)
        if first is not None and not np.allclose(compute([first])[0], known[digests[first]], rtol=1e-3, atol=1e-4):
            warn(f"{self.path} was made by another program state and is made anew")
            known = {}
        missing: dict[str, int] = {}
        for i, digest in enumerate(digests):
            if digest not in known:
                missing.setdefault(digest, i)
        if missing:
            computed = compute(list(missing.values()))
            known |= dict(zip(missing, computed, strict=True))
            self._write(known)
        return np.stack([known[digest] for digest in digests])

    def _read(self) -> dict[str, FloatArray]:
        if not self.path.is_file():
            return {}
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                if str(stored["key"]) != self.key:
                    raise ValueError("of another encoder")
                digests, features = stored["digests"], stored["features"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            warn(f"{self.path} cannot be used and is made anew: {error}")
            return {}
        return dict(zip(digests.tolist(), features, strict=True))

    def _write(self, known: dict[str, FloatArray]) -> None:
        # Another process may write in between: its images are then computed once more, and nothing is wrong.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=self.key, digests=np.array(list(known)), features=np.stack(list(known.values())))


def encoder_key(module: Classifier, config: Config, data: DataConfig) -> str:
    """Hex digest of everything but the image that a pooled feature is computed from."""
    digest = hashlib.sha256()
    properties = {
        "format": FORMAT,
        "model": asdict(config.model),
        "data": {key: value for key, value in asdict(data).items() if key not in NOT_PIXELS},
        "image_size": config.data.image_size,
        "versions": versions(),
    }
    digest.update(json.dumps(properties, sort_keys=True).encode())
    for name, tensor in sorted(module.network.state_dict().items()):
        if not name.startswith(HEAD):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()
