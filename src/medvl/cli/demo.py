"""medvl demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="folder to make; an old demo there is replaced")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="a few steps and images only: seconds, not minutes")] = False,
) -> None:
    """Audit, train, evaluate, predict and report on the shipped real radiographs. Minutes on two cores, no network."""
    from medvl.cli.demo_steps import run_demo

    run_demo(out, quick=quick)
