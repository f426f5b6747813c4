"""The plan of `medvl fit` for masks: LViT where there are texts, else a U-Net; all images where few have a mask."""

from __future__ import annotations

from typing import Any

from medvl.data.table_facts import TableFacts
from medvl.tasks.fit import FitPlan, finished, image_encoder, laterality


def plan(facts: TableFacts, on_gpu: bool) -> FitPlan:
    """Masks, with texts or without."""
    lines = [f"masks of {facts.num_annotated} of {facts.num_images} training images: segmentation"]
    batch = 16 if on_gpu else 4
    data: dict[str, Any] = {"augment": {"max_rotate_deg": 5}}
    train: dict[str, Any] = {"lr": 1e-3 if on_gpu else 2e-3, "ema_decay": 0.99}
    if facts.have_texts:
        lines.append(f"{facts.num_distinct_texts} different texts: LViT, which is guided by them")
        several = facts.rows_per_image > 1
        data |= laterality(facts, lines)
        data |= {"phrases_per_image": min(4, facts.rows_per_image), "p_empty_text": 0.03 if several else 0.0}
        data |= {"val_phrases_per_image": 4} if facts.rows_per_image > 4 else {}
        network = {"name": "lvit", "size": "T" if on_gpu else "nano", "options": {"text_merge": "attention"}}
        text = {"encoder": "builtin", "dim": 128 if on_gpu else 64}
    else:
        lines.append("no texts, or one for all: a U-Net on a ResNet, which is not guided by text")
        network = {"name": "encoder_unet", "encoder": image_encoder(on_gpu)}
        text = {"encoder": "none"}
        data |= {"normalize": "none"}  # the encoder brings each image to mean 0, deviation 1
    settings = {"data": data, "text": text, "model": network, "train": train}
    if len(facts.classes) > 1:
        lines.append(f"several classes ({', '.join(facts.classes)}), each with a mask of its own")
        settings["objective"] = {"mode": "multilabel"}
    plan = finished("segment", facts, on_gpu, batch, lines, settings)
    return _with_unlabelled(plan, facts) if facts.few_masks else plan


def _with_unlabelled(plan: FitPlan, facts: TableFacts) -> FitPlan:
    """The same in two stages: the labelled images alone, then all of them with pseudo labels."""
    train = plan.settings["train"]
    epochs, batch = 4, 2 * train["batch_size"]  # half of a batch is unlabelled
    num_steps = max(1, train["epochs"] * -(-facts.num_images // train["batch_size"]) // (2 * epochs))
    train = {**train, "epochs": epochs, "steps_per_epoch": num_steps, "batch_size": batch, "val_every": 2}
    semi: dict[str, Any] = {"epi": "labels"}
    if facts.have_texts:
        semi |= {"lv_bank": "labelled", "lv_similarity": "findings"}
    line = (
        f"few masks: semi-supervised in two stages of {epochs} epochs of {num_steps} steps, the labelled images alone, "
        f"then also the {facts.num_images - facts.num_annotated} without a mask"
    )
    settings = {**plan.settings, "semi": semi, "train": train}
    return FitPlan("segment", (*plan.lines, line), settings, {"semi": {"epi": "none", "lv_bank": "none"}})
