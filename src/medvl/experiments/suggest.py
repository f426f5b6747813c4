"""`medvl x suggest`: which unlabelled training cases to annotate next.

Active learning in two parts. How unsure is the model: the mean of the ranks of

- epi: where the run kept EPI pseudo labels P, mean |P - prediction| + mean entropy of P, over all pixels;
- entropy: mean entropy of the model's probabilities in a band about the outline of what it predicts;

entropies are binary, in bits, so all of these lie in [0, 1] or [0, 2]. And how unlike what is labelled or chosen
already: the distance d between the pooled deepest image features (greedy k-centre; Sener & Savarese, "Active learning
for convolutional neural networks: a core-set approach", ICLR 2018). Cases are taken one by one by the largest
rank * d^w, with w = 1 by default; w = 0 is uncertainty alone.

No mask is read, neither hidden nor visible: records lose their masks before anything is opened. Images are seen as in
validation: one plain view, no flips.

Shapes: C channels, K classes, H W the model's grid, D features, n cases.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from medvl.config import Config, as_read
from medvl.core.errors import InputError
from medvl.core.task import find_task
from medvl.data.context import Context, add_context
from medvl.data.dataset import Sample, SegmentDataset
from medvl.data.labels import training_records
from medvl.data.record import Manifest, Record
from medvl.data.records import configured_manifest, write_manifest
from medvl.data.text_input import TextInput
from medvl.inference.model_folder import find_model, load_model
from medvl.losses.pseudo_labels import PseudoLabelStore
from medvl.models.masks import probs_from_logits
from medvl.models.module import SegmentModel
from medvl.text.cache import FeatureCache

FloatArray = NDArray[np.float32]
By = Literal["patient", "image"]

PARTS = ("epi", "disagreement", "label_entropy", "entropy")  # of an image
COLUMNS = ("order", "ids", "image", "patient", "score", "uncertainty", "distance", *PARTS)
ROWS_AT_ONCE = 8  # prompts decoded in one pass; bounds memory
BAND = 0.02  # half width of the band about an outline, in longer sides of the grid; at least one pixel
MIN_FEATURES = 64  # fewer channels are pooled to a grid of cells instead of one


@dataclass(frozen=True, slots=True)
class Case:
    """What is suggested as one: an image, or all unlabelled images of a patient. Records are without their masks."""

    images: Mapping[Path, tuple[Record, ...]]

    @property
    def name(self) -> str:
        """For the order of equal ones and of the random choice: its first record id."""
        return min(record.id for rows in self.images.values() for record in rows)


@dataclass(frozen=True, slots=True)
class Parts:
    """What one image is scored by; NaN without pseudo labels. `features` (D,) has length 1."""

    disagreement: float  # mean |P - prediction|, 0 to 1
    label_entropy: float  # of P, bits
    entropy: float  # of the prediction in its band, bits
    features: FloatArray

    @property
    def epi(self) -> float:
        """Disagreement and entropy of the pseudo label together."""
        return self.disagreement + self.label_entropy


def suggest(
    run: str | Path,
    num: int,
    *,
    by: By = "patient",
    out: Path | None = None,
    diversity: float = 1.0,
    random: int | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """The `num` cases to annotate next, in order: one row (of `COLUMNS`) per image and patient; with `out` written.

    Args:
        run: a finished RUN; its unlabelled training images are the candidates.
        by: suggest whole patients, as label fractions do, or single images.
        diversity: the exponent w of the distance.
        random: instead draw as many cases at random with this seed, to compare with; no score is computed.

    Raises:
        InputError: nothing is unlabelled, or less than `num`.
    """
    if num < 1:
        raise InputError.out_of_range(f"--num {num}", expected="at least 1")
    if diversity < 0:
        raise InputError.out_of_range(f"--diversity {diversity:g}", expected="0 or more")
    module, encoder, config, card = load_model(run)
    if not isinstance(module, SegmentModel):
        raise InputError.unsupported(
            f"a model of task: {config.task} has no masks to choose",
            file=run,
            expected="a run of task: segment",
            remedy=find_task(config.task).usage(run),
        )
    manifest = _manifest(config)
    cases, labelled = find_cases(manifest, config, by)
    if num > len(cases):
        raise InputError.out_of_range(
            f"{num} cases were requested and {len(cases)} are unlabelled",
            file=manifest.path,
            expected=f"--num up to {len(cases)}, by {by}"
            if cases
            else "training images without a mask, or a run with data.label_fraction below 1",
        )
    rows: list[dict[str, Any]] = []
    if random is not None:
        drawn = sorted(cases, key=lambda case: hashlib.sha256(f"{random}/{case.name}".encode()).digest())
        for order, case in enumerate(drawn[:num], 1):
            rows += _rows(order, case, manifest, {})
    else:
        cache = FeatureCache(encoder) if encoder is not None and encoder.frozen and module.uses_text else None
        text = TextInput(encoder if module.uses_text else None, cache, module.uses_text, context=module.context)
        reader = _Reader(module.eval().to(device), text, config, tuple(card["classes"]), _store(run), device)
        parts = reader.parts([rows for case in cases for rows in case.images.values()])
        rows = _scored(cases, parts, reader.features(labelled), num, diversity, manifest)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(out, [{name: _cell(row[name]) for name in COLUMNS} for row in rows], list(COLUMNS))
    return rows


def find_cases(manifest: Manifest, config: Config, by: By) -> tuple[list[Case], list[Record]]:
    """The unlabelled cases of a run's training split, and a record of each labelled image; all without their masks.

    Unlabelled is an image of which no mask was visible: hidden by the label fraction, or not there.
    """
    # With semi-supervision on, every record takes part, so that those which this run left out are candidates too.
    everyone = config.with_section("semi", replace(config.semi, epi="labels"))
    records, hidden, _ = training_records(manifest.split("train"), everyone)
    visible = {
        row.image for row in records if row.id not in hidden and any(ref is not None for ref in row.masks.values())
    }
    bare = [replace(row, masks=dict.fromkeys(row.masks)) for row in records]
    images: dict[Path, list[Record]] = {}
    for row in bare:
        images.setdefault(row.image, []).append(row)
    groups: dict[tuple[str, ...], dict[Path, tuple[Record, ...]]] = {}
    for path, rows in images.items():
        if path not in visible:
            patients = tuple(sorted({row.patient for row in rows}))
            groups.setdefault(patients if by == "patient" else (str(path), *patients), {})[path] = tuple(rows)
    cases = [Case(group) for group in groups.values()]
    return sorted(cases, key=lambda case: case.name), [images[path][0] for path in images if path in visible]


def mixed_rank(columns: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(n,) scores each -> (n,) mean of their ranks, each up to 1 and above 0, equal scores sharing their mean rank.

    A case with NaN in a column has no rank there and is ranked by the others; one column is without NaN.
    """
    from scipy.stats import rankdata

    ranks = []
    for column in columns:
        known = np.isfinite(column)
        rank = np.full(len(column), np.nan)
        rank[known] = rankdata(column[known]) / max(1, known.sum())
        ranks.append(rank)
    return np.asarray(np.nanmean(ranks, axis=0), dtype=np.float64)


def choose(
    uncertainty: NDArray[np.float64], features: FloatArray, centres: FloatArray, num: int, diversity: float
) -> list[tuple[int, float, float]]:
    """Greedy k-centre weighted by uncertainty: -> (index, score, distance) of `num` cases, in order.

    Each step takes the largest uncertainty * d^diversity, d the Euclidean distance to the nearest centre or chosen
    case over the largest such distance of the step's candidates (1 where there is no centre yet). Of equal ones the
    more uncertain, then the first.

    Args:
        uncertainty: (n,) above 0.
        features: (n, D).
        centres: (m, D) of what is labelled already; m may be 0.
    """
    distance = np.full(len(features), np.inf)
    for centre in centres:
        distance = np.minimum(distance, np.linalg.norm(features - centre, axis=1))
    left = list(range(len(features)))
    chosen: list[tuple[int, float, float]] = []
    while len(chosen) < num:
        far = distance[left].max()
        share = np.ones(len(left)) if not np.isfinite(far) else distance[left] / far if far > 0 else np.zeros(len(left))
        score = uncertainty[left] * share**diversity
        best = max(range(len(left)), key=lambda i: (score[i], uncertainty[left[i]], -i))
        index = left.pop(best)
        chosen.append((index, float(score[best]), float(share[best])))
        distance = np.minimum(distance, np.linalg.norm(features - features[index], axis=1))
    return chosen


def band_entropy(probs: FloatArray) -> float:
    """Mean binary entropy in bits of (H, W) probabilities over the band about the outline of p > 0.5.

    The band has the width of `BAND` on either side, so that large and small regions have the same weight. Where nothing
    is predicted, the outline is that of half the highest probability: what was almost found counts, a confident "not
    there" stays near 0.
    """
    import cv2

    level = 0.5 if probs.max() > 0.5 else 0.5 * float(probs.max())
    region = (probs > level).astype(np.uint8)
    width = 2 * max(1, round(BAND * max(probs.shape))) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    band = (cv2.dilate(region, kernel) - cv2.erode(region, kernel)) > 0
    # A region that fills the image has no outline, and then its pixels are used.
    return float(binary_entropy(probs[band] if band.any() else probs).mean())


def binary_entropy(probs: FloatArray) -> FloatArray:
    """Entropy in bits of probabilities in [0, 1], any shape; 0 log 0 = 0."""
    p = np.clip(probs.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Reader:
    """A model that looks at images of bare records."""

    module: SegmentModel
    text: TextInput
    config: Config
    classes: tuple[str, ...]
    store: PseudoLabelStore | None
    device: str

    def parts(self, groups: Sequence[Sequence[Record]]) -> dict[Path, Parts]:
        """The parts of each image; each group are its rows."""
        data = SegmentDataset(
            [row for rows in groups for row in rows],
            self.classes,
            as_read(self.config),
            seed=0,
            train=False,
            all_rows=True,
        )
        return {data.groups[i][0].image: self._parts(data[i]) for i in _shown(range(len(data)), "unlabelled images")}

    def features(self, records: Sequence[Record]) -> FloatArray:
        """(m, D) of one record per image; (0, 0) of none."""
        if not records:
            return np.zeros((0, 0), dtype=np.float32)
        data = SegmentDataset(records, self.classes, as_read(self.config), seed=0, train=False)
        return np.stack([_pooled(self._encode(data[i])) for i in _shown(range(len(data)), "labelled images")])

    def _encode(self, sample: Sample) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            maps: tuple[Tensor, ...] = self.module.network.encode_image(
                torch.from_numpy(sample.image)[None].to(self.device)
            )
        return maps

    def _parts(self, sample: Sample) -> Parts:
        maps = self._encode(sample)
        probs = np.concatenate(
            [
                self._probs(
                    maps,
                    sample.texts[start : start + ROWS_AT_ONCE],
                    [row.context for row in sample.rows[start : start + ROWS_AT_ONCE]],
                )
                for start in range(0, len(sample.texts), ROWS_AT_ONCE)
            ]
        )  # (rows, K, H, W)
        disagreement, entropy = [], []
        for row, prediction in zip(sample.rows, probs, strict=True):
            # A record that was never visited has no pseudo label, only the store's stand-in of 0.5.
            if self.store is not None and row.id in self.store and self.store.visits(row.id):
                label = self.store.read(row.id)  # (K, H, W) on the grid of `own`
                disagreement.append(float(np.abs(label - prediction).mean()))
                entropy.append(float(binary_entropy(label).mean()))
        return Parts(
            float(np.mean(disagreement)) if disagreement else float("nan"),
            float(np.mean(entropy)) if entropy else float("nan"),
            float(np.mean([band_entropy(one) for prediction in probs for one in prediction])),
            _pooled(maps),
        )

    @torch.inference_mode()
    def _probs(self, maps: tuple[Tensor, ...], texts: Sequence[str], context: Sequence[Context]) -> FloatArray:
        device = torch.device(self.device)
        tokens, mask = self.text(texts, device, context)
        values = self.text.context_values(len(texts), context, device)
        features, mask = self.module.text_features(tokens, mask, values)  # (rows, L, D)
        index = torch.zeros(len(texts), dtype=torch.long, device=self.device)
        logits = self.module.network.decode(maps, features, mask, index, size=self.config.data.image_size)
        probs: FloatArray = probs_from_logits(logits, self.config.objective.mode).float().cpu().numpy()
        return probs


def _pooled(maps: tuple[Tensor, ...]) -> FloatArray:
    """(D,) of length 1: the mean of the deepest map (1, C, h, w) over its pixels.

    Networks that give few channels (those of `models.baselines` give their logits) are pooled to 8 x 8 cells.
    """
    deepest = maps[-1].float()
    side = 1 if deepest.shape[1] >= MIN_FEATURES else 8
    vector = F.normalize(F.adaptive_avg_pool2d(deepest, side).flatten(1), dim=1)[0]  # (C * side * side,)
    pooled: FloatArray = vector.cpu().numpy()
    return pooled


def _scored(
    cases: Sequence[Case],
    parts_of: Mapping[Path, Parts],
    centres: FloatArray,
    num: int,
    diversity: float,
    manifest: Manifest,
) -> list[dict[str, Any]]:
    """A case has the mean of its images' parts and features."""
    parts_of_cases = [[parts_of[path] for path in case.images] for case in cases]
    uncertainty = mixed_rank(
        np.array([np.mean([getattr(part, name) for part in parts]) for parts in parts_of_cases])
        for name in ("epi", "entropy")
    )
    features = np.stack([np.mean([part.features for part in parts], axis=0) for parts in parts_of_cases])
    rows = []
    for order, (i, score, distance) in enumerate(choose(uncertainty, features, centres, num, diversity), 1):
        values = {"score": score, "uncertainty": float(uncertainty[i]), "distance": distance}
        rows += _rows(order, cases[i], manifest, values, parts_of)
    return rows


def _rows(
    order: int, case: Case, manifest: Manifest, values: Mapping[str, Any], parts_of: Mapping[Path, Parts] | None = None
) -> list[dict[str, Any]]:
    """One row per image and patient of a case; what was not computed is None."""
    rows = []
    for path, records in case.images.items():
        part = parts_of[path] if parts_of is not None else None
        scores = {name: getattr(part, name) for name in PARTS} if part is not None else {}
        known = {name: float(value) for name, value in scores.items() if np.isfinite(value)}
        image = Path(os.path.relpath(path, manifest.path.parent)).as_posix()  # as the manifest writes it
        for patient in sorted({record.patient for record in records}):
            ids = "|".join(record.id for record in records if record.patient == patient)
            place = {"order": order, "ids": ids, "image": image, "patient": patient}
            rows.append({**dict.fromkeys(COLUMNS), **place, **values, **known})
    return rows


def _manifest(config: Config) -> Manifest:
    data = config.data
    manifest = configured_manifest(data, check_files=False)  # else it would open the masks
    return add_context(manifest, data, config.train.seed, needed=True)


def _store(run: str | Path) -> PseudoLabelStore | None:
    """The pseudo labels of a run, where it has any."""
    folder = find_model(run).parent / "semi" / "pseudo_labels"
    return PseudoLabelStore(folder) if (folder / "index.json").is_file() else None


def _shown(items: Iterable[int], title: str) -> Iterable[int]:
    console = Console(stderr=True)
    return track(items, title, console=console, disable=not console.is_terminal)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
