"""medvl phantom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from medvl.cli.excel import ExcelSafe

if TYPE_CHECKING:
    from medvl.phantom.report import Kind


def phantom(
    out: Annotated[Path, typer.Option(help="new folder for images, masks, boxes.csv and manifest.csv")],
    num: Annotated[int, typer.Option(help="how many films")] = 200,
    size: Annotated[int, typer.Option(help="side in pixels")] = 96,
    seed: Annotated[int, typer.Option(help="another seed gives other films")] = 0,
    kinds: Annotated[str, typer.Option(help="of lesions, with commas between, e.g. consolidation,nodule")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print what was made as JSON")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Draw synthetic chest films with reports, masks and boxes: phantoms, nobody's films, to test mechanisms on."""
    import json
    from collections.abc import Iterable

    from rich.console import Console
    from rich.progress import track

    from medvl.phantom.dataset import make_phantoms
    from medvl.phantom.report import KINDS

    def progress(indices: Iterable[int], total: int) -> Iterable[int]:
        return track(indices, "phantoms", total=total, console=Console(stderr=True), transient=True)

    chosen = tuple(cast("Kind", kind.strip()) for kind in kinds.split(",")) if kinds.strip() else KINDS
    manifest = make_phantoms(out, num=num, size=size, seed=seed, kinds=chosen, progress=progress)
    if as_json:
        made = {"manifest": str(manifest), "num": num, "size": size, "seed": seed, "kinds": chosen, "phantoms": True}
        print(json.dumps(made))
    else:
        print(f"{manifest}: {num} phantoms of {size} px (seed {seed}); synthetic, for tests of mechanisms only")
