"""Records -> Sample -> Batch. Every random draw is a pure function of (seed, epoch, image), so that workers, ranks and
resuming cannot change it.

Shapes: B images, N rows (one prompt each, N >= B), C channels, K classes, H W the model's grid.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medvl.config import Config, DataConfig
from medvl.config.augment import StrongViewConfig
from medvl.core.errors import InputError
from medvl.core.limits import allow_megapixels
from medvl.data.body_mask import body_mask
from medvl.data.class_flips import ClassFlips
from medvl.data.geometry import Affine, draw, fit, require_laterality, warn_unmirrored
from medvl.data.image import Image, Turn
from medvl.data.images import read_image
from medvl.data.intensity import intensity, intensity_range, strong_view
from medvl.data.masks import read_mask
from medvl.data.record import MaskRef, Record
from medvl.data.sampler import REPEATED, BatchSampler, EpochSampler
from medvl.data.workers import usable_workers

FloatArray = NDArray[np.float32]
STRONG = 1  # of the seed of strong views
NO_BOX, MOVED_OUT = -1.0, -2.0  # in place of a box's class: padding; augmentation moved it out of the picture


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with the rows (prompts) drawn for it, after the sample's affine."""

    image: FloatArray  # (C, H, W), normalised
    rows: tuple[Record, ...]  # n rows
    texts: tuple[str, ...]  # n texts, rewritten where the affine flips
    target: FloatArray  # (n, K, H, W) in {0, 1}; NaN where not annotated
    affine: Affine
    body: NDArray[np.bool_] | None = None  # (H, W), where the body is in the image as augmented
    boxes: FloatArray | None = None  # (m, 5) class, x0, y0, x1, y1 on the model's grid; see data/box_labels.py
    repeated: bool = False  # another rank validates it too: nothing of it is annotated here
    strong: FloatArray | None = None  # (C, H, W), its harder view; of an image with a mask the image itself


@dataclass(frozen=True, slots=True)
class Batch:
    """What a task sees. Row n belongs to image `image_index[n]`."""

    image: Tensor  # (B, C, H, W) float32
    image_index: Tensor  # (N,) int64
    texts: tuple[str, ...]
    source_texts: tuple[str, ...]  # as the records have them, before the affine rewrote them
    affines: tuple[Affine, ...]  # one per row: native grid -> model's grid
    target: Tensor  # (N, K, H, W) float32 in {0, 1}; NaN where not annotated
    annotated: Tensor  # (N, K) bool
    ids: tuple[str, ...]
    patients: tuple[str, ...]
    body: Tensor | None = None  # (B, H, W) bool
    context: tuple[Mapping[str, str], ...] = ()  # one per row, as the records have it
    boxes: Tensor | None = None  # (B, M, 5) class (below 0: none), x0, y0, x1, y1
    repeated: Tensor | None = None  # (N,) bool, rows that another rank validates too: nothing of them is annotated
    strong: Tensor | None = None  # (B, C, H, W) float32, the harder view of each image without a mask

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        return Batch(
            self.image.to(device, non_blocking=True),
            self.image_index.to(device, non_blocking=True),
            self.texts,
            self.source_texts,
            self.affines,
            self.target.to(device, non_blocking=True),
            self.annotated.to(device, non_blocking=True),
            self.ids,
            self.patients,
            None if self.body is None else self.body.to(device, non_blocking=True),
            self.context,
            None if self.boxes is None else self.boxes.to(device, non_blocking=True),
            None if self.repeated is None else self.repeated.to(device, non_blocking=True),
            None if self.strong is None else self.strong.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, which alone is copied to a GPU without waiting; the loader calls it."""
        return replace(
            self,
            image=self.image.pin_memory(),
            image_index=self.image_index.pin_memory(),
            target=self.target.pin_memory(),
            annotated=self.annotated.pin_memory(),
            body=None if self.body is None else self.body.pin_memory(),
            boxes=None if self.boxes is None else self.boxes.pin_memory(),
            repeated=None if self.repeated is None else self.repeated.pin_memory(),
            strong=None if self.strong is None else self.strong.pin_memory(),
        )


class SizedCache:
    """The most recently used arrays, at most `limit_mb` of them."""

    def __init__(self, limit_mb: int) -> None:
        self._limit = limit_mb * 2**20
        self._size = 0
        self._arrays: OrderedDict[object, tuple[object, int]] = OrderedDict()

    def get(self, key: object) -> object | None:
        """The stored value, or None."""
        entry = self._arrays.get(key)
        if entry is None:
            return None
        self._arrays.move_to_end(key)
        return entry[0]

    def put(self, key: object, value: object, size: int) -> None:
        """Store a value of `size` bytes; the least recently used ones make room."""
        self._arrays[key] = (value, size)
        self._size += size
        while self._size > self._limit and len(self._arrays) > 1:
            self._size -= self._arrays.popitem(last=False)[1][1]


class SegmentDataset(Dataset[Sample]):
    """One item per distinct image; an item is indexed by (epoch, index) so that it needs no state.

    With `train=True` an item draws `phrases_per_image` of the image's rows (evenly over the values of `draw_by`), an
    affine and intensities. Otherwise it gives the first `val_phrases_per_image` rows of a fixed shuffle (all rows with
    `all_rows`), unaugmented.
    An item of the epoch `REPEATED` is marked as one that another rank has too.
    The masks of the record ids in `hidden` are never opened: those records are unlabelled.
    """

    def __init__(
        self,
        records: Sequence[Record],
        classes: Sequence[str],
        config: DataConfig,
        *,
        seed: int,
        train: bool,
        hidden: frozenset[str] = frozenset(),
        all_rows: bool = False,
        body: bool = False,
        strong: StrongViewConfig | None = None,
    ) -> None:
        """
        Args:
            body: also find the body in each image as augmented (here, so that it runs in the loader's workers).
            strong: also make a harder view of each training image of which no drawn row has a mask.
        """
        if not records:
            raise InputError.empty("no records to read", expected="at least one record in this split")
        self.config, self.seed, self.train, self.hidden, self.all_rows = config, seed, train, hidden, all_rows
        self.classes, self.body, self.strong = tuple(classes), body, strong
        self._flips = ClassFlips(self.classes, config.augment) if train else None
        groups: dict[Path, list[Record]] = {}
        for record in records:
            groups.setdefault(record.image, []).append(record)
        self.groups: list[tuple[Record, ...]] = [tuple(rows) for rows in groups.values()]
        if config.draw_by is not None and config.draw_by not in records[0].extra:
            raise InputError.unknown(
                f"data.draw_by names no column: {config.draw_by}",
                expected=f"one of {', '.join(records[0].extra) or '(there are no further columns)'}",
                remedy="data.draw_by=null draws all rows alike",
            )
        # A side named in a text must be declared the patient's or the viewer's before anything is flipped.
        require_laterality([record.text for record in records], config.laterality)
        if train:
            warn_unmirrored([record.text for record in records], config.augment)
        self._cache = SizedCache(config.cache_mb)

    def __len__(self) -> int:
        return len(self.groups)

    def labelled(self) -> list[int]:
        """Indices of the images of which any row has a mask that is not hidden."""
        return [
            i
            for i, rows in enumerate(self.groups)
            if any(row.id not in self.hidden and any(mask is not None for mask in row.masks.values()) for row in rows)
        ]

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        epoch, index = item if isinstance(item, tuple) else (0, item)
        group = self.groups[index]
        name = zlib.crc32(group[0].id.encode())
        rng = np.random.default_rng([self.seed, epoch if self.train else 0, name])
        rows = self._draw_rows(group, rng)
        texts = [row.text for row in rows]
        image = self._image(group[0])
        masks = [[self._mask(row, name) for name in self.classes] for row in rows]
        base = fit_image(image.size, image.orientation.turn, self.config)
        affine, empty = base, np.zeros(len(rows), dtype=bool)
        if self.train:
            present = [mask for row in masks for mask in row if mask is not None]
            union = np.logical_or.reduce(present) if present else None
            affine = draw(self.config.augment, rng, base, text=texts, laterality=self.config.laterality, mask=union)
            has_mask = [any(mask is not None for mask in row) for row in masks]
            empty = (rng.random(len(rows)) < self.config.p_empty_text) & has_mask  # an unlabelled text stays its own
        pixels = affine.apply_image(image.as_channels(self.config.in_channels))  # (C, H, W)
        if self.train:
            pixels = intensity(self.config.augment, rng, pixels, intensity_range(image.pixels))
        strong = None
        if self.strong is not None:
            strong = pixels
            if all(mask is None for row in masks for mask in row):  # of its own seed: the other draws stay as they were
                strong_rng = np.random.default_rng([self.seed, epoch, name, STRONG])
                strong = strong_view(self.strong, strong_rng, pixels, intensity_range(image.pixels))
            strong = prepare(strong, self.config)
        target = np.full((len(rows), len(self.classes), *self.config.image_size), np.nan, dtype=np.float32)
        order = range(len(self.classes)) if self._flips is None else self._flips.order(affine)
        for n, row_masks in enumerate(masks):
            for k in range(len(row_masks)):
                mask = row_masks[order[k]]
                if mask is not None:
                    target[n, k] = 0.0 if empty[n] else mask_on_grid(mask, affine, self.config)
        new_texts = tuple("" if empty[n] else affine.apply_text(text) for n, text in enumerate(texts))
        body = body_mask(pixels) if self.body else None
        shown = prepare(pixels, self.config)
        return Sample(shown, rows, new_texts, target, affine, body, repeated=epoch == REPEATED, strong=strong)

    def _draw_rows(self, group: tuple[Record, ...], rng: np.random.Generator) -> tuple[Record, ...]:
        config = self.config
        if not self.train:
            limit = config.val_phrases_per_image
            if self.all_rows or limit is None or limit >= len(group):
                return group
            order = np.random.default_rng([self.seed, zlib.crc32(group[0].id.encode())]).permutation(len(group))
            return tuple(group[i] for i in sorted(order[:limit]))
        if len(group) <= config.phrases_per_image:
            return group
        if config.draw_by is None:
            chosen = rng.choice(len(group), config.phrases_per_image, replace=False)
            return tuple(group[i] for i in chosen)
        kinds: dict[str, list[int]] = {}
        for i, record in enumerate(group):
            kinds.setdefault(record.extra[config.draw_by], []).append(i)
        names = sorted(kinds)
        # Kinds in a random order, over and over; rows of a kind without repetition until they run out.
        pools = {kind: list(rng.permutation(kinds[kind])) for kind in names}
        kind_order = [names[i] for i in rng.permutation(len(names))]
        picks: list[int] = []
        while len(picks) < config.phrases_per_image:
            for kind in kind_order:
                if pools[kind] and len(picks) < config.phrases_per_image:
                    picks.append(int(pools[kind].pop()))
        return tuple(group[i] for i in picks)

    def _image(self, record: Record) -> Image:
        cached = self._cache.get(record.image)
        if isinstance(cached, Image):
            return cached
        image = load_image(record.image, self.config)
        self._cache.put(record.image, image, image.pixels.nbytes)
        return image

    def _mask(self, record: Record, name: str) -> NDArray[np.bool_] | None:
        reference = record.masks.get(name)
        if reference is None or record.id in self.hidden:
            return None
        key = (record.image, reference.path, reference.values)  # an absent mask has no path, and its image's size
        cached = self._cache.get(key)
        if isinstance(cached, np.ndarray):
            return cached
        mask = load_mask(reference, self._image(record), self.config)
        self._cache.put(key, mask, mask.nbytes)
        return mask


def load_image(path: Path, config: DataConfig) -> Image:
    """Read one image as `config` says (window, slice)."""
    allow_megapixels(config.max_megapixels)  # in a worker too
    return read_image(path, window=config.window, slice_index=config.slice_index)


def load_mask(reference: MaskRef, image: Image, config: DataConfig) -> NDArray[np.bool_]:
    """The (H, W) bool mask of a reference on the native grid of its image; an absent one is empty."""
    if reference.path is None:
        return np.zeros(image.pixels.shape[:2], dtype=bool)
    mask = read_mask(reference.path, reference.values, slice_index=config.slice_index, rule=config.mask_rule)
    if mask.shape != image.pixels.shape[:2]:
        raise InputError.mismatch(
            f"the mask is {mask.shape[0]}x{mask.shape[1]} pixels",
            file=reference.path,
            expected=f"{image.pixels.shape[0]}x{image.pixels.shape[1]}, as its image {image.path}",
        )
    return mask


def fit_image(size: tuple[int, int], turn: Turn, config: DataConfig) -> Affine:
    """From an image of stored (H, W) to the model's grid, in training, validation and prediction alike.

    Args:
        turn: of the image into the standard display, `Image.orientation.turn`.
    """
    return fit(size, config.image_size, config.resize, config.border, turn)


def mask_on_grid(mask: NDArray[np.bool_], affine: Affine, config: DataConfig) -> NDArray[np.bool_]:
    """A mask on the native grid -> on the model's grid, as `data.mask_rule` says.

    `any` resizes as the released program does, before anything is turned: OpenCV's bilinear rule, then above 0.
    """
    if config.mask_rule == "area":
        return affine.apply_mask(mask)
    base = fit_image((mask.shape[0], mask.shape[1]), affine.turn, config)
    return affine.after(base).apply_mask(base.touched(mask))


def prepare(pixels: FloatArray, config: DataConfig) -> FloatArray:
    """(C, H, W) in [0, 1] -> what the network is fed: channel order and normalisation."""
    if config.channel_order == "bgr":
        pixels = pixels[::-1]
    if config.normalize == "zscore":
        pixels = (pixels - pixels.mean()) / max(float(pixels.std()), 1e-3)
    return np.ascontiguousarray(pixels, dtype=np.float32)


def _stack(arrays: Sequence[NDArray[Any] | None]) -> Tensor | None:
    """(B, ...), or None where they were not requested."""
    present = [array for array in arrays if array is not None]
    return torch.from_numpy(np.stack(present)) if present else None


def _pad(boxes: Sequence[FloatArray | None]) -> Tensor | None:
    """(m, 5) of each image -> (B, M, 5), M at least 1, with class NO_BOX behind them; None where there are none."""
    present = [rows for rows in boxes if rows is not None]
    if not present:
        return None
    padded = np.zeros((len(present), max(1, *(len(rows) for rows in present)), 5), dtype=np.float32)
    padded[:, :, 0] = NO_BOX
    for row, rows in zip(padded, present, strict=True):
        row[: len(rows)] = rows
    return torch.from_numpy(padded)


def collate(samples: Sequence[Sample]) -> Batch:
    """Join samples; each image stands once, each row names its image."""
    rows = [row for sample in samples for row in sample.rows]
    target = torch.from_numpy(np.concatenate([sample.target for sample in samples]))  # (N, K, H, W)
    repeated = torch.tensor([sample.repeated for sample in samples for _ in sample.rows], dtype=torch.bool)  # (N,)
    counts = torch.tensor([len(sample.rows) for sample in samples])
    return Batch(
        image=torch.from_numpy(np.stack([sample.image for sample in samples])),  # (B, C, H, W)
        image_index=torch.repeat_interleave(torch.arange(len(samples)), counts),  # (N,)
        texts=tuple(text for sample in samples for text in sample.texts),
        source_texts=tuple(row.text for row in rows),
        affines=tuple(sample.affine for sample in samples for _ in sample.rows),
        target=target,
        annotated=~torch.isnan(target).flatten(2).any(dim=2) & ~repeated[:, None],  # (N, K)
        ids=tuple(row.id for row in rows),
        patients=tuple(row.patient for row in rows),
        body=_stack([sample.body for sample in samples]),
        context=tuple(row.context for row in rows),
        boxes=_pad([sample.boxes for sample in samples]),
        repeated=repeated,
        strong=_stack([sample.strong for sample in samples]),
    )


def make_loader(
    dataset: Dataset[Sample], sampler: BatchSampler, config: Config, fabric: Fabric, *, in_memory: bool = False
) -> DataLoader[Sample]:
    """The batches of a dataset; workers decode images unless the dataset holds its samples in memory."""
    num_workers = 0 if in_memory else usable_workers(config.data.num_workers)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,  # they keep what they decoded; an item names its epoch itself
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator().manual_seed(config.train.seed),  # the loader draws from its own, not the global one
    )


def epoch_loader(
    dataset: Dataset[Sample], config: Config, fabric: Fabric, *, train: bool, in_memory: bool = False
) -> DataLoader[Sample]:
    """`make_loader` of every item once an epoch, shared out over the ranks; in training in random order."""
    sampler = EpochSampler(
        len(dataset),  # type: ignore[arg-type]  # torch leaves the length of datasets untyped
        config.train.batch_size,
        seed=config.train.seed,
        shuffle=train,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    return make_loader(dataset, sampler, config, fabric, in_memory=in_memory)
