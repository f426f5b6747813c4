"""medvl data pack, medvl data unpack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.options import split_overrides


def pack(
    manifests: Annotated[
        list[str],
        typer.Argument(
            help="manifest; also more of the same folder, of which the first stands for all; data.columns={image: Path}"
        ),
    ],
    out: Annotated[Path, typer.Option(help="the pack, a new file FILE.tar")],
    as_json: Annotated[bool, typer.Option("--json", help="print what was packed as JSON")] = False,
) -> None:
    """Write a manifest and all its images and masks as one file, which is read wherever a manifest is.

    `medvl train recipe.yaml data.manifest=FILE.tar` gives the same numbers as the folder. Another table in it is
    FILE.tar/NAME.
    """
    import json
    from dataclasses import asdict

    from medvl.data.columns import table_columns
    from medvl.data.packing import pack_manifests

    paths, overrides = split_overrides(manifests)
    packed = pack_manifests(paths, out, columns=table_columns(overrides), show_progress=not as_json)
    if as_json:
        print(json.dumps({**asdict(packed), "path": str(packed.path)}))
        return
    print(f"{packed.path}: {packed.num_files} files, {packed.num_bytes / 1e6:.1f} MB")
    if packed.num_renamed:
        print(f"{packed.num_renamed} files from outside the folder of the manifest are in outside/")
    print(f"content {packed.content_hash}\nsplit   {packed.split_hash}")


def unpack(
    pack: Annotated[str, typer.Argument(help="a pack, or medvl:cxr_regions")],
    out: Annotated[Path, typer.Option(help="new folder")],
) -> None:
    """Write the files of a pack into a folder. Each is compared with its SHA-256."""
    from medvl.data.packing import unpack as unpack_files

    print(f"{out}: {unpack_files(pack, out, show_progress=True)} files")
