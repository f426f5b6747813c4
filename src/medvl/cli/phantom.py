"""medvl phantom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def phantom(
    out: Annotated[Path, typer.Option(help="new folder for images, masks, boxes.csv and manifest.csv")],
    num: Annotated[int, typer.Option(help="how many films")] = 200,
    size: Annotated[int, typer.Option(help="side in pixels")] = 96,
    seed: Annotated[int, typer.Option(help="another seed gives other films")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print what was made as JSON")] = False,
) -> None:
    """Draw synthetic chest films with reports, masks and boxes: phantoms, nobody's films, to test mechanisms on."""
    import json
    from collections.abc import Iterable

    from rich.console import Console
    from rich.progress import track

    from medvl.data.phantom import make_phantoms

    def progress(indices: Iterable[int], total: int) -> Iterable[int]:
        return track(indices, "phantoms", total=total, console=Console(stderr=True), transient=True)

    manifest = make_phantoms(out, num=num, size=size, seed=seed, progress=progress)
    if as_json:
        print(json.dumps({"manifest": str(manifest), "num": num, "size": size, "seed": seed, "phantoms": True}))
    else:
        print(f"{manifest}: {num} phantoms of {size} px (seed {seed}); synthetic, for tests of mechanisms only")
