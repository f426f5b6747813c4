"""The plan of `medvl fit` for reports without masks: G2D."""

from __future__ import annotations

import importlib.util
from typing import Any

from medvl.data.table_facts import TableFacts
from medvl.tasks.fit import FitPlan, finished, image_encoder, laterality
from medvl.text.huggingface import MINILM_PACKAGE


def plan(facts: TableFacts, on_gpu: bool) -> FitPlan:
    """Pairs of image and report."""
    lines = [
        f"no masks, {facts.num_distinct_texts} different texts of {facts.num_images} training images: G2D pre-training "
        "on pairs of image and report"
    ]
    batch = min(64 if on_gpu else 32, max(2, facts.num_images))
    # Few pairs are too few to learn a language from.
    has_minilm = importlib.util.find_spec(MINILM_PACKAGE) is not None
    text: dict[str, Any] = {"encoder": "minilm"} if has_minilm else {"encoder": "builtin", "dim": 64}
    model: dict[str, Any] = {"encoder": image_encoder(on_gpu)}
    if not on_gpu:
        model["options"] = {"pool_stride": 8, "pool_deeper": False}  # enough cells for attention at this image size
    settings: dict[str, Any] = {"data": {**laterality(facts, lines), "augment": {"max_rotate_deg": 5}}}
    settings |= {"text": text, "model": model, "train": {"lr": 2e-4 if on_gpu else 1e-3}}
    plan = finished("pretrain", facts, on_gpu, batch, lines, settings)
    num_steps = plan.settings["train"]["epochs"] * -(-facts.num_images // batch)
    plan.settings["pretrain"] = {"warmup_steps": num_steps // 5}  # the decoder joins once the pairs are known a little
    return plan
