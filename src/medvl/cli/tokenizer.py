"""medvl tokenizer, medvl pretrain-text: what can be learned from report texts alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tokenizer(
    manifest: Annotated[str, typer.Argument(help="manifest: CSV, JSONL, XLSX, Parquet; its images are not read")],
    out: Annotated[Path, typer.Option(help="new folder for the tokenizer")],
    vocab_size: Annotated[int, typer.Option(help="at most so many word pieces")] = 8000,
    text_column: Annotated[str, typer.Option(help="column that holds the reports")] = "text",
    split: Annotated[str, typer.Option(help="rows to learn from; all = every row")] = "train",
    as_json: Annotated[bool, typer.Option("--json", help="print what was made as JSON")] = False,
) -> None:
    """Learn word pieces from report texts, for text.tokenizer=FOLDER of the built-in text encoder.

    The folder derives from report text. It holds no number of more than two digits and only parts of words that stand
    in reports of at least 3 patients.
    """
    import json

    from medvl.data.corpus import read_corpus
    from medvl.experiments.masked_language import new_folder
    from medvl.text.tokenizer import WordPieces

    corpus = read_corpus(manifest, text_column)
    texts = corpus.texts(split)
    pieces = WordPieces.train(texts, vocab_size, corpus.patients(split))
    new_folder(out)
    lengths = [len(row) for row in pieces.encode(texts)]
    card: dict[str, object] = {
        "derives_from": "report texts",
        "texts": len(texts),
        "split": split if corpus.has_splits else "all (the manifest has no splits)",
        "rows_without_text": corpus.num_empty,
        "pieces": len(pieces),
        "mean_pieces_per_text": round(sum(lengths) / len(lengths), 2),
        "longest_text": max(lengths),
        "words_without_pieces": pieces.unknown_words(texts).total(),
    }
    pieces.save(out, card)
    if as_json:
        print(json.dumps({"folder": str(out), **card}))
        return
    print(
        f"{out}: {card['pieces']} word pieces from {card['texts']} texts (split {card['split']}), "
        f"{card['mean_pieces_per_text']} pieces a text, at most {card['longest_text']}; "
        f"{card['words_without_pieces']} words without pieces. It derives from report text."
    )


def pretrain_text(
    manifest: Annotated[str, typer.Argument(help="manifest: CSV, JSONL, XLSX, Parquet; its images are not read")],
    out: Annotated[Path, typer.Option(help="new folder for the text encoder")],
    steps: Annotated[int, typer.Option(help="optimizer steps")] = 2000,
    dim: Annotated[int, typer.Option(help="width, a multiple of 4; must equal text.dim later")] = 128,
    layers: Annotated[int, typer.Option(help="depth; must equal text.layers later")] = 2,
    tokenizer: Annotated[Path | None, typer.Option(help="folder of medvl tokenizer; else words")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="cut longer texts")] = None,
    batch_size: Annotated[int, typer.Option(help="texts per step")] = 32,
    lr: Annotated[float, typer.Option(help="peak learning rate")] = 2e-3,
    seed: Annotated[int, typer.Option(help="weights, order and masks")] = 0,
    text_column: Annotated[str, typer.Option(help="column that holds the reports")] = "text",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Masked language modelling on report texts alone; text.init=FOLDER then starts the built-in encoder from it.

    Judged on the split val (or, without one, on a tenth of the texts) before and after, beside a guess by word
    frequency. The folder derives from report text.
    """
    import json

    from medvl.core.errors import InputError
    from medvl.data.corpus import read_corpus
    from medvl.experiments.masked_language import pretrain_text as run

    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"--max-tokens is {max_tokens}", expected="at least 1")
    result = run(
        read_corpus(manifest, text_column),
        out,
        steps=steps,
        dim=dim,
        layers=layers,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        device=device,
    )
    if as_json:
        print(json.dumps({"folder": str(out), **result}))
        return
    print(
        f"{out}: {result['train_texts']} training and {result['val_texts']} validation texts "
        f"(told apart by {result['told_apart_by']}), vocabulary {result['vocabulary']}, {result['minutes']} min"
    )
    print("masked validation tokens  perplexity  accuracy")
    for name in ("unigram", "before", "after"):
        print(f"  {name:22}  {result[name]['perplexity']:10.2f}  {result[name]['accuracy']:8.3f}")
