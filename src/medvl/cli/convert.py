"""medvl convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.options import AsJson


def convert(
    source: Annotated[
        Path, typer.Argument(help="checkpoint (.pth, .pt, .ckpt, .bin, .safetensors), model or run folder, medvl:NAME")
    ],
    out: Annotated[Path, typer.Option(help="file to write: .pth or .safetensors")],
    to: Annotated[str, typer.Option(help="names to write: torchvision or segmentation_models_pytorch")] = "torchvision",
    as_json: AsJson = False,
) -> None:
    """Write the ResNet image encoder of a checkpoint as a file that other programs load.

    Reads the layouts of torchvision, segmentation_models_pytorch, G2D, MGCA, GLoRIA, MedKLIP and medvl. Exit code 1
    when the encoder in the checkpoint is not whole; what is there is written, and what is missing is listed. Of a
    model of medvl it says what the encoder was fed, which another program has to do too.
    """
    import json

    from medvl.core.errors import InputError
    from medvl.weights.external import convert_encoder, write_tensors

    if out.resolve() == source.resolve():
        raise InputError.exists("--out is the source itself", file=out, remedy="choose another file")
    source_folder = _folder_of(source)
    if source_folder is not None and out.exists() and source_folder in out.resolve().parents:
        raise InputError.exists(
            f"--out is a file of the source's own folder {source_folder}", file=out, remedy="choose another file"
        )
    network, tensors, report = convert_encoder(source, to)
    write_tensors(out, tensors)
    fed = _fed(source)
    made = {"out": str(out), "network": network, "to": to, "fed": fed, **report.as_dict()}
    if as_json:
        print(json.dumps(made))
    else:
        print(f"{out}: {network}, {len(tensors)} tensors by the names of {to}; found as {report.layout}")
        if fed:
            print(f"fed with: {fed}")
        for what, names in (
            ("matched", report.matched),
            ("reshaped", report.reshaped),
            ("missing", report.missing),
            ("not converted", report.unexpected),
        ):
            print(f"{what} ({len(names)}): {' '.join(names) or '-'}")
    if report.missing:
        raise typer.Exit(code=1)


def _folder_of(source: Path) -> Path | None:
    """The RUN folder that the source lies in, or else its MODEL folder; None for a file of another program."""
    from medvl.inference.model_folder import find_model

    folder = (find_model(source) if _is_model(source) else source.parent).resolve()
    for run in (folder, *folder.parents[:2]):  # RUN, RUN/model, RUN/checkpoints/best
        if (run / "checkpoints").is_dir() and (run / "config.yaml").is_file():
            return run
    return folder if (folder / "format_version").is_file() else None


def _is_model(source: Path) -> bool:
    from medvl.config import ASSET_PREFIX

    return source.is_dir() or str(source).startswith(ASSET_PREFIX)


def _fed(source: Path) -> str | None:
    """What the images of a model's encoder were like, in words; None for a file of another program."""
    from medvl.config import load_config
    from medvl.inference.model_folder import find_model

    if not _is_model(source) or not (path := find_model(source) / "config.yaml").is_file():
        return None
    config = load_config(path)
    height, width = config.data.image_size
    words = f"{height} x {width} px, {config.data.in_channels} channel(s), values from 0 to 1"
    takes_as_is = config.model.name == "lvit" and str(config.model.encoder).startswith("ucnn")  # its own path
    inside = not takes_as_is and config.model.options.get("input_norm", "image") == "image"
    if inside or config.data.normalize == "zscore":
        words += ", each image brought to mean 0 and standard deviation 1 (not ImageNet's mean and deviation)"
    return words
