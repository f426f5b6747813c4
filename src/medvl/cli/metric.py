"""medvl metric: what a number of a table means."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from medvl.cli.options import AsJson, show


def explain(
    dice: Annotated[str, typer.Argument(help="published Dice (or F1), as it is printed, e.g. 90.88")],
    iou: Annotated[str, typer.Argument(help="published IoU (or mIoU) beside it, e.g. 83.28")],
    as_json: AsJson = False,
) -> None:
    """Say which convention a published pair of Dice and IoU can be: pooled pixels, a mean over images, or impossible.

    Numbers of different conventions cannot be compared: on the same masks pooled values are often several points above
    means over images. Give the digits as printed; they say how the numbers were rounded.
    """
    from medvl.metrics.convention import explain as explained

    explanation = explained(dice, iou)
    show(asdict(explanation), f"{explanation.verdict}: {explanation.why}", as_json)
