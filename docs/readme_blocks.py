"""Fill the generated blocks of README.md: `python docs/readme_blocks.py` (with `--check`: exit 1 if one is stale).

A block stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`. The model and its example are those of
docs/pictures/shipped.py, the numbers those of its card and of docs/tables/.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "pictures"))

import shipped

ROOT = Path(__file__).resolve().parent.parent
README, TABLES = ROOT / "README.md", ROOT / "docs" / "tables"
METRIC = "dice_per_image"
# what of the card's groups is shown, in words; a group that a card lacks is left out
GROUPS = {
    "lung": "one lung",
    "both": "both lungs",
    "zone": "one third of a lung",
    "mixed": "different thirds of the two lungs",
    "heldout": "unions that never stood in training",
    "probe: shuffled": "another patient's text, scored against the true mask",
    "probe: side_swapped": "left and right exchanged, scored against the true mask",
    "probe: negated": "the text denied, scored against the true mask (0 is right)",
}


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: a row of docs/tables/NAME.json against another one, of which one is the reference."""

    question: str
    table: str
    method: str
    baseline: str
    grid_point: tuple[Any, ...] = ()  # values of the grid, in order


AS_IS, G2D_AS_IS = "LViT as it is", "G2D as it is"
# In order of interest; of those whose table is there the first MOST are shown. Of two shares of masks the one with the
# narrower interval comes first.
RESULTS = (
    Result("the image's own text, not another patient's", "sweep_lvit", AS_IS, "text of another patient"),
    Result("EPI and LV loss beside 25 % of the masks", "sweep_semi", "EPI and LV", "masks only", (0.25,)),
    Result("pseudo masks beside alignment", "sweep_g2d", G2D_AS_IS, "no decoder (alignment only)"),
    Result("LViT, not a U-Net, which reads no text", "sweep_networks", "LViT", "U-Net"),
    Result("frozen encoder: pseudo masks, not labels", "sweep_encoders", "pseudo masks", "label-supervised", (True,)),
    Result("PLAM, not plain skip connections", "sweep_lvit", AS_IS, "PLAM off"),
    Result("LViT, not a U-Net that reads the text", "sweep_networks", "LViT", "text U-Net"),
    Result("a text, not none", "sweep_lvit", AS_IS, "no text (LViT-TW)"),
    Result("EPI and LV loss beside 5 % of the masks", "sweep_semi", "EPI and LV", "masks only", (0.05,)),
    Result("pseudo masks of the image, not of another", "sweep_g2d", G2D_AS_IS, "shuffled masks"),
)
MOST = 5


def main() -> int:
    """Fill the blocks, or with `--check` compare them; the exit status."""
    text = README.read_text(encoding="utf-8")
    filled = text
    for name, lines in (("first", first_mask()), ("model", model()), ("results", results())):
        pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        if len(pattern.findall(filled)) != 1:
            sys.exit(f"README.md has no block {name}, or more than one")
        body = "\n".join(lines)
        filled = pattern.sub(lambda found, body=body: f"{found[1]}{body}\n{found[2]}", filled)
    if "--check" in sys.argv[1:]:
        print("README.md is up to date" if filled == text else "README.md is stale: run docs/readme_blocks.py")
        return int(filled != text)
    README.write_text(filled, encoding="utf-8")
    return 0


def first_mask() -> list[str]:
    """The first mask on the command line and in Python."""
    folder = shipped.DATA.removeprefix("medvl:").removeprefix("cxr_")
    image, prompts = f"{folder}/images/{shipped.IMAGE}.jpg", shipped.PROMPTS
    return [
        "```sh",
        f"medvl data unpack {shipped.DATA} --out {folder}      # real radiographs to try it on",
        f'medvl predict {shipped.MODEL} {image} --text "{prompts[0]}" --text "{prompts[-1]}" --out masks',
        "```",
        "",
        "```python",
        "import medvl",
        "",
        f'predictor = medvl.load("{shipped.MODEL}").set_image("{image}")  # or your own image',
        f'answer = predictor.segment("{prompts[1]}")  # as many prompts as you like',
        "answer.mask, answer.probs, answer.warnings  # (H, W) bool, (H, W) in [0, 1], what you must know",
        "```",
    ]


def model() -> list[str]:
    """What the shipped model is good for and what not, from its card."""
    card = shipped.card()
    metrics, groups, opened = card["metrics"], card["groups"], card_opened()
    lines = [
        f"`{shipped.MODEL}`: {card['summary']}",
        "",
        f"| Dice per image | validation, {metrics['val']['num_cases']:,} prompts "
        f"| test, {metrics['test']['num_cases']:,} prompts, opened {'once' if opened == 1 else f'{opened} times'} |",
        "| --- | --- | --- |",
        f"| all (all pixels together: Dice pooled) | {_both(metrics['val'])} | {_both(metrics['test'])} |",
    ]
    for name, words in GROUPS.items():
        values = [groups[split].get(name) for split in ("val", "test")]
        if any(values):
            cells = [f"{one[METRIC]:.3f}" if one else "–" for one in values]
            lines.append(f"| {words} | {' | '.join(cells)} |")
    return [*lines, "", "Limits, as its card says:", "", *(f"- {limit}" for limit in card["limits"])]


def card_opened() -> int:
    """How often the model's test split was opened."""
    from medvl.inference.model_folder import find_model, times_test_opened

    return times_test_opened(find_model(shipped.MODEL))


def results() -> list[str]:
    """The table of comparisons, or that there is none yet."""
    shown = [row for row in RESULTS if _path(row).is_file()][:MOST]
    if not shown:
        return ["No experiment of three seeds is complete yet; what smaller ones showed stands in the results."]
    lines = ["| what | data | Dice with | without | difference [95 %] | command |", "| --- " * 6 + "|"]
    return [*lines, *map(_line, shown)]


def _path(row: Result) -> Path:
    return TABLES / f"{row.table}.json"


def _line(row: Result) -> str:
    table = json.loads(_path(row).read_text(encoding="utf-8"))
    group = next(one for one in table["groups"] if tuple(one["grid_point"].values()) == row.grid_point)
    rows = {one["name"]: one["metrics"][METRIC] for one in group["rows"]}
    first, second = rows[row.method], rows[row.baseline]
    sign = 1 if group["reference"] == row.baseline else -1
    gap = (first if sign == 1 else second)["difference"]
    low, high = sorted((sign * gap["lo"], sign * gap["hi"]))
    noise = ", within noise" if low <= 0 <= high else ""
    difference = f"{sign * gap['mean']:+.3f} [{low:+.3f}, {high:+.3f}]{noise}"
    data = table["title"].rpartition("(")[2].rstrip(")")  # REAL or PHANTOMS, network and size
    command = table["command"].partition(" --")[0]
    values = [row.question, data, f"{first['mean']:.3f}", f"{second['mean']:.3f}", difference, f"`{command}`"]
    return f"| {' | '.join(values)} |"


def _both(metrics: dict[str, Any]) -> str:
    return f"{metrics[METRIC]:.3f} ({metrics['dice_pooled']:.3f})"


if __name__ == "__main__":
    sys.exit(main())
