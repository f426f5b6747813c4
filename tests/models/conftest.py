"""A tiny CLIPSeg in a folder, as its users have it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conformance import TEXT_DIM


@pytest.fixture(scope="session")
def clipseg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights and a word-piece tokenizer."""
    from transformers import BertTokenizerFast, CLIPSegConfig, CLIPSegForImageSegmentation

    path = tmp_path_factory.mktemp("clipseg")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] right left upper lower lung zone the ##s".split()
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(path)
    torch.manual_seed(0)
    small = {"hidden_size": TEXT_DIM, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    ends = {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    config = CLIPSegConfig(
        text_config={**small, **ends, "vocab_size": len(words), "max_position_embeddings": 12},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=8, extract_layers=[0, 1, 2], reduce_dim=8, decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )  # fmt: skip
    CLIPSegForImageSegmentation(config).save_pretrained(path)
    return path
