"""G2D pre-training on image-text pairs: alignment of vectors, and a decoder that learns what the attention looked at.

    L = L_VLA + decoder_weight * L_decoder      (reference: G2D, equation 5; L_VLA alone for the first `warmup_steps`)

The three schools of the paper's figure 1 are `pretrain.decoder`: none (alignment only), reconstruction, pseudo_mask.

Shapes: B pairs, L tokens, D text features, d joint width, M masks an image, C channels, H W the model's grid, P cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from medvl.config import Config
from medvl.core.distributed import gather_objects, gather_with_grad
from medvl.core.errors import DivergedError, InputError, warn
from medvl.core.learner import Learner
from medvl.data.dataset import Batch
from medvl.data.text_input import TextInput
from medvl.losses.contrastive import (
    CachedEmbeddings,
    gathered_info_nce,
    info_nce,
    plain_text,
    retrieval,
    same_pairs,
)
from medvl.losses.pixel_alignment import (
    pixel_alignment_loss,
    reconstruction_loss,
    released_pixel_alignment_loss,
)
from medvl.losses.pseudo_mask import PseudoMask, find_mask_source, pseudo_mask
from medvl.models.g2d import ImageOutput
from medvl.tasks.pretrain.model import G2DModel
from medvl.tasks.pretrain.panels import Panel, draw_panel


class PretrainLearner(Learner):
    """Alignment and, after its warm-up, the decoder."""

    module: G2DModel

    def __init__(self, config: Config, module: G2DModel, text: TextInput) -> None:
        self.config, self.module, self.text = config, module, text
        self.metric = "mean_recall" if config.pretrain.select == "mean_recall" else None
        self.num_parts = config.pretrain.accumulate
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._ids: list[str] = []  # of the validation pairs
        self._texts: list[str] = []
        self._panels: dict[str, Panel] = {}

    @property
    def decoding(self) -> bool:
        """Whether the decoder is run in this step."""
        return self.config.pretrain.decoder != "none" and self.step >= self.config.pretrain.warmup_steps

    def training_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """`loss` with graph; `vla_loss` and the decoder's parts, detached."""
        output, vectors = self.forward(batch, module, self.decoding)
        vla = self._align(output.pooled, vectors, batch)
        return self._total(vla, output, vectors, batch)

    def backward(self, batch: Batch, module: nn.Module | None, backward: Callable[[Tensor], None]) -> dict[str, Tensor]:
        """The gradients of a batch, in `pretrain.accumulate` parts.

        "micro": each part is a batch of its own, with its own negatives. "cached": the vectors of all parts first,
        without graph; the alignment of the whole batch gives their gradients; then each part again with graph (Gao et
        al., arXiv 2101.06983). In training BatchNorm normalises each part by itself in both modes; with BatchNorm in
        eval mode the gradients of "cached" are those of the whole batch.
        """
        num_parts = self.config.pretrain.accumulate
        if num_parts == 1:
            return super().backward(batch, module, backward)
        parts = _split(batch, num_parts)
        if self.config.pretrain.accumulate_mode == "micro":
            sums: dict[str, Tensor] = {}
            for part in parts:
                share = len(part.ids) / len(batch.ids)
                losses = self.training_step(part, module)
                backward(losses["loss"] * share)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0) + share * value.detach()
            return sums
        return self._cached(batch, parts, module, backward)

    def _cached(
        self, batch: Batch, parts: list[Batch], module: nn.Module | None, backward: Callable[[Tensor], None]
    ) -> dict[str, Tensor]:
        cached = CachedEmbeddings(len(parts), module=module or self.module)
        targets: list[tuple[Tensor, Tensor]] = []  # of the parts; the second pass has the same attention

        def first(i: int) -> tuple[Tensor, Tensor]:
            output, vectors = self.forward(parts[i], module, False)
            if self.decoding and self.config.pretrain.decoder == "pseudo_mask":
                target = self.mask_of(output, vectors, parts[i])
                targets.append((target.mask, target.valid))
            return output.pooled, vectors

        image, text = cached.embed(first)
        mask, valid = map(torch.cat, zip(*targets, strict=True)) if targets else (None, None)
        if mask is not None and valid is not None and self.config.pretrain.shuffle_masks:
            mask, valid = self._shuffled(mask, valid)
        vla = self._align(image, text, batch)
        vla["loss"].backward()  # type: ignore[no-untyped-call]  # to the leaves that stand for the vectors, no further
        sums: dict[str, Tensor] = {}
        start = 0
        for i, part in enumerate(parts):
            with cached.replay(i):
                output, vectors = self.forward(part, module, self.decoding)
            loss = cached.surrogate(i, (output.pooled, vectors))
            stop = start + len(part.ids)
            decoder: dict[str, Tensor] = {}
            if output.mask_logits is not None and mask is not None and valid is not None:
                decoder = self._pixel_loss(
                    output.mask_logits, mask[start:stop], valid[start:stop], num_valid=valid.sum()
                )
            elif output.mask_logits is not None:
                decoder = reconstruction_loss(output.mask_logits, part.image, num_images=len(batch.ids))
            if decoder:
                loss = loss + self.config.pretrain.decoder_weight * decoder["loss"]
            backward(loss)
            for name, value in decoder.items():
                sums[f"decoder_{name}"] = sums.get(f"decoder_{name}", 0) + value.detach()
            start = stop
        total = vla["loss"].detach() + self.config.pretrain.decoder_weight * sums.get("decoder_loss", 0)
        return {"loss": total, "vla_loss": vla["loss"].detach(), **sums}

    def validation_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """Keeps the pairs' vectors; -> sums of the decoder's loss. The alignment is of all pairs, at the end."""
        decode = self.config.pretrain.decoder != "none"
        output, vectors = self.forward(batch, module, decode)
        self._pairs.append((output.pooled.float(), vectors.float()))
        self._ids += batch.ids
        self._texts += batch.texts
        num = torch.tensor(float(len(batch.ids)), device=batch.image.device, dtype=torch.float64)
        sums = {"num": num}
        if self.config.pretrain.decoder == "reconstruction":
            assert output.mask_logits is not None
            sums["decoder_loss_sum"] = reconstruction_loss(output.mask_logits, batch.image)["loss"].double() * num
        elif decode:  # the loss is the mean over the masks that are a target
            assert output.mask_logits is not None
            target = self.mask_of(output, vectors, batch)
            valid = target.valid.sum().double()
            sums |= {"valid_sum": valid, "mask_sum": torch.full_like(valid, target.valid.numel())}
            loss = self._pixel_loss(output.mask_logits, target.mask, target.valid)["loss"]
            sums["decoder_loss_sum"] = loss.double() * valid
        self._draw(batch, output, vectors)
        return sums

    def validation_values(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """`alignment_loss` (all pairs at once), retrieval both ways with its chance, `decoder_loss`; with pseudo masks
        `valid_masks`, the share of them that is a target (see `PseudoMask.valid`)."""
        image = gather_with_grad(torch.cat([pair[0] for pair in self._pairs]))
        text = gather_with_grad(torch.cat([pair[1] for pair in self._pairs]))
        ids, texts = gather_objects(self._ids), gather_objects(self._texts)
        self._pairs, self._ids, self._texts = [], [], []
        first = {name: i for i, name in reversed(list(enumerate(ids)))}  # ranks are padded with repetitions
        keep = sorted(first.values())
        image, text = image[keep], text[keep]
        finite = (image.isfinite().all(dim=1) & text.isfinite().all(dim=1)).tolist()
        if broken := [ids[i] for i, is_finite in zip(keep, finite, strict=True) if not is_finite]:
            some = ", ".join(broken[:12]) + (", ..." if len(broken) > 12 else "")
            what = f"embeddings of {len(broken)} validation pairs are not finite: {some}"
            raise DivergedError.not_finite(
                what, expected="finite numbers", remedy="a lower train.lr, train.precision: 32-true"
            )
        texts = [plain_text(words) for words in texts]
        codes = {words: i for i, words in enumerate(dict.fromkeys(texts))}
        code = torch.tensor([codes[texts[i]] for i in keep], device=image.device)
        same_text = code[:, None] == code[None]
        measures = retrieval(image, text, same_text)
        loss = info_nce(image, text, sigma=self.config.pretrain.sigma, same=same_text)
        recalls = [value for name, value in measures.items() if not name.startswith("chance")]
        measures["mean_recall"] = sum(recalls) / len(recalls)
        measures["alignment_loss"] = float(loss["loss"])
        measures["num_pairs"], measures["num_texts"] = float(len(keep)), float(len(codes))
        if "mask_sum" in totals:
            num_valid, num_masks = int(totals["valid_sum"]), int(totals["mask_sum"])
            measures["valid_masks"] = num_valid / max(1, num_masks)
            if num_valid:
                measures["decoder_loss"] = float(totals["decoder_loss_sum"]) / num_valid
            else:
                warn(
                    f"none of the {num_masks} pseudo masks of the validation pairs is a target: attention without "
                    "contrast, or too few cells (model.options.pool_stride); the decoder learns nothing"
                )
        elif "decoder_loss_sum" in totals:
            measures["decoder_loss"] = float(totals["decoder_loss_sum"]) / max(1.0, float(totals["num"]))
        return measures

    def validation_panels(self) -> Mapping[str, Panel]:
        """One picture per pair: image, attention, body, raw and smoothed mask, the decoder's output; with the text."""
        panels, self._panels = self._panels, {}
        return panels

    def twin(self, module: nn.Module) -> PretrainLearner:
        """A learner to time steps with; of a batch in many parts, two stand for them."""
        parts = min(2, self.config.pretrain.accumulate)
        config = self.config.with_section("pretrain", replace(self.config.pretrain, accumulate=parts))
        twin = PretrainLearner(config, module, replace(self.text))  # type: ignore[arg-type]  # of the same class
        twin.least_images = 2 * parts
        return twin

    def phases(self, num_steps: int) -> list[tuple[int, int]]:
        """Without the decoder, then with it."""
        warmup = min(num_steps, self.config.pretrain.warmup_steps)
        return [(first, num) for first, num in ((0, warmup), (warmup, num_steps - warmup)) if num]

    @torch.no_grad()
    def mask_of(self, output: ImageOutput, vectors: Tensor | None, batch: Batch) -> PseudoMask:
        """The pseudo masks of a batch, without graph; texts' `vectors` (B, d) for some of `MASK_SOURCES` only."""
        assert output.attention is not None
        config, pool = self.config.pretrain.mask, self.module.network.attention_pool
        weights = find_mask_source(config.source)(pool, output.projected, output.attention, vectors)
        cells = weights[:, :, 1:].reshape(*weights.shape[:2], *output.grid)  # (B, heads, h, w)
        size = (batch.image.shape[2], batch.image.shape[3])
        covers = self.module.network.unet.padded_size(*size)
        return pseudo_mask(cells, size, batch.body, config, covers=covers)

    def forward(self, batch: Batch, module: nn.Module | None = None, decode: bool = True) -> tuple[ImageOutput, Tensor]:
        """What the network says of the images, and the texts' vectors (B, d), not normalised."""
        tokens, mask = self.text(batch.texts, batch.image.device, batch.context)
        context = self.text.context_values(len(batch.texts), batch.context, batch.image.device)
        output, vectors = (module or self.module)(batch.image, tokens, mask, decode, context)
        return output, vectors

    def _align(self, image: Tensor, text: Tensor, batch: Batch) -> dict[str, Tensor]:
        pretrain = self.config.pretrain
        same = None
        if pretrain.same_is_no_negative:
            same = same_pairs(batch.texts, batch.patients, batch.image.device, equal_rows=True)
        return gathered_info_nce(
            image, text, sigma=pretrain.sigma, same=same, reduction=pretrain.vla, equal_rows=True
        )  # of equal length on every rank: LengthSampler

    def _total(self, vla: dict[str, Tensor], output: ImageOutput, vectors: Tensor, batch: Batch) -> dict[str, Tensor]:
        decoder = self._decoder_loss(output, vectors, batch)
        loss = vla["loss"]
        if decoder:
            loss = loss + self.config.pretrain.decoder_weight * decoder["loss"]
        parts = {f"decoder_{name}": value.detach() for name, value in decoder.items()}
        return {"loss": loss, "vla_loss": vla["loss"].detach(), **parts}

    def _decoder_loss(self, output: ImageOutput, vectors: Tensor, batch: Batch) -> dict[str, Tensor]:
        """{} where the decoder was not run."""
        pretrain = self.config.pretrain
        if output.mask_logits is None:
            return {}
        if pretrain.decoder == "reconstruction":
            return reconstruction_loss(output.mask_logits, batch.image)
        target = self.mask_of(output, vectors, batch)
        mask, valid = target.mask, target.valid
        if pretrain.shuffle_masks:
            mask, valid = self._shuffled(mask, valid)
        return self._pixel_loss(output.mask_logits, mask, valid)

    def _pixel_loss(
        self, mask_logits: Tensor, mask: Tensor, valid: Tensor, num_valid: Tensor | None = None
    ) -> dict[str, Tensor]:
        paper = self.config.pretrain.decoder_loss == "paper"
        loss = pixel_alignment_loss if paper else released_pixel_alignment_loss
        return loss(mask_logits, mask, valid, num_valid=num_valid)

    def _shuffled(self, mask: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The masks of other images: rotated by 1 to B - 1 places, so that no image keeps its own.

        A pure function of (seed, step).
        """
        num = len(mask)
        if num < 2:
            raise InputError.ambiguous(
                "masks of one image cannot be shuffled", remedy="a batch (or part) of at least 2 images"
            )
        shift = int(np.random.default_rng([self.config.train.seed, self.step]).integers(1, num))
        return mask.roll(shift, dims=0), valid.roll(shift, dims=0)

    def _draw(self, batch: Batch, output: ImageOutput, vectors: Tensor) -> None:
        wanted = self.config.pretrain.num_panels - len(self._panels)
        if wanted <= 0:
            return
        target = self.mask_of(output, vectors, batch) if output.attention is not None else None
        for i in range(min(wanted, len(batch.ids))):
            self._panels[batch.ids[i]] = draw_panel(batch, output, target, i, self.config.pretrain)


def _split(batch: Batch, num_parts: int) -> list[Batch]:
    """A batch of pairs, cut into parts of sizes as equal as can be."""
    parts = []
    for indices in np.array_split(np.arange(len(batch.ids)), num_parts):
        if not len(indices):
            continue
        a, b = int(indices[0]), int(indices[-1]) + 1
        parts.append(
            replace(
                batch,
                image=batch.image[a:b],
                image_index=batch.image_index[a:b] - a,
                texts=batch.texts[a:b],
                source_texts=batch.source_texts[a:b],
                affines=batch.affines[a:b],
                target=batch.target[a:b],
                annotated=batch.annotated[a:b],
                ids=batch.ids[a:b],
                patients=batch.patients[a:b],
                body=None if batch.body is None else batch.body[a:b],
                context=batch.context[a:b],
            )
        )
    return parts
