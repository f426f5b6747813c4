"""`medvl report` of a pre-training: one self-contained HTML page of what the run has logged. Nothing is computed anew.

Retrieval is shown beside chance, panels with the reports they belong to. A run that is still going on, and a MODEL
folder without its run, get the page of what there is of them.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvl.config import Config, config_dict, load_config
from medvl.core.errors import InputError, warn
from medvl.core.plain_yaml import yaml_text
from medvl.evaluation.report.figures import FIRST, INK, SECOND, new_figure, to_svg
from medvl.evaluation.report.page import PageRequest, run_folder, versions_text
from medvl.losses.contrastive import RECALL_AT

DIRECTIONS = {"i2t": "image → text", "t2i": "text → image"}
DECODERS = {
    "pseudo_mask": "pseudo masks (G2D)",
    "reconstruction": "reconstruction of the image",
    "none": "none, alignment only",
}
MARK_UNDER = 40  # points of a curve; more of them are drawn as a line alone
Row = dict[str, Any]
Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Log:
    """What a run has logged: lines of metrics.jsonl of kind train and val, in order."""

    train: tuple[Row, ...]
    val: tuple[Row, ...]


def page(request: PageRequest) -> tuple[Path, dict[str, Any]]:
    """Write the page of a pre-training and return its path and the values that it shows.

    The target may be a RUN, finished or not, or a MODEL folder.

    Raises:
        InputError: an option that evaluates; the run has logged nothing yet; its panels or log cannot be read.
    """
    request.refuse(
        ("manifest", "split", "group_by", "probe_rows", "threshold", "overrides"),
        "of a pre-training, which is shown as its own validation left it: nothing is evaluated",
        "medvl x localise scores a pre-trained model on another manifest or split",
    )
    folder, include_text = run_folder(request.target), request.include_text
    config = load_config(folder / "config.yaml")
    log = read_log(folder / "metrics.jsonl")
    plan = _read(folder / "plan.json")
    card = next(filter(None, (_read(folder / name / "card.json") for name in ("", "model", "checkpoints/best"))), {})
    validations: Sequence[Row] = log.val
    if not validations and "val during training" in card.get("metrics", {}):  # a MODEL without its run
        last = card["metrics"]["val during training"]
        validations = [{**_finite(last), "step": card["step"], "epoch": card["epoch"]}]
    if not validations and not log.train:
        raise InputError.empty(
            "nothing has been logged yet",
            file=folder,
            expected="metrics.jsonl of a training, or card.json of a model",
            remedy="medvl train --resume continues a run",
        )
    shown, num_missing, panel_step = read_panels(folder, include_text)
    last = validations[-1] if validations else {}
    context = {
        "title": f"Pre-training: {config.model.title}",
        "lead": _lead(folder, log, plan, last),
        "facts": _facts(config, plan, card, last),
        "panels": shown,
        "has_images": bool(shown),
        "panel_step": panel_step,
        "num_missing": num_missing,
        "contains_text": any(panel["text"] for panel in shown),
        "panel_notes": _panel_notes(config, shown, panel_step, card),
        "last": last,
        "recalls": _recalls(last),
        "losses": _losses(config, last),
        "directions": DIRECTIONS,
        "recall_at": RECALL_AT,
        "result_notes": _result_notes(config, plan, card, last),
        "validations": validations,
        "model_step": card.get("step"),
        "loss_curves": loss_curves_svg(log, config),
        "recall_curves": recall_curves_svg(log),
        "curve_notes": _curve_notes(config, plan, log),
        "provenance": _provenance(config, card),
        "command": card.get("command") or "",
        "versions": versions_text(card.get("versions", {})),
        "config": yaml_text(config_dict(config)),
        "plan": json.dumps(plan, indent=1) if plan else "",
    }
    return request.write(report_folder(folder), "pretraining.html.j2", context), {
        "run": str(folder),
        "finished": is_finished(folder),
        "validation": last,
        "model_step": card.get("step"),
        "num_panels": len(shown),
        "contains_report_text": context["contains_text"],
    }


def report_folder(folder: Path) -> Path:
    """FOLDER/report/val; of a model that ships with the package a folder where you are."""
    assets = Path(__file__).parents[2] / "assets"
    return Path(f"report-{folder.name}") / "val" if folder.parent == assets else folder / "report" / "val"


def is_finished(folder: Path) -> bool:
    """Whether a RUN has its model, or the folder is a MODEL."""
    return any((place / "format_version").is_file() for place in (folder, folder / "model"))


def read_log(path: Path) -> Log:
    """metrics.jsonl -> its lines. The broken last line of a killed run passes; NaN and infinity become None."""
    rows: list[Row] = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({**_finite(row), "kind": row["kind"], "step": row["step"]})
        except (json.JSONDecodeError, TypeError, KeyError, AttributeError):
            if number < len(lines):
                raise InputError.damaged("not a line of a training log", file=path, line=number) from None
    train, val = ([row for row in rows if row["kind"] == kind] for kind in ("train", "val"))
    return Log(tuple(train), tuple(val))


def read_panels(folder: Path, include_text: bool) -> tuple[list[dict[str, Any]], int, int | None]:
    """-> (panels with embedded picture, tile names and text; how many pictures are missing; step of the weights)."""
    path = folder / "panels" / "panels.json"
    logged = _read(path)
    if not logged:
        return [], 0, None
    shown: list[dict[str, Any]] = []
    try:
        for row in logged["panels"]:
            picture = path.parent / f"{row['id']}.png"
            if not picture.is_file():
                warn(f"{picture} is missing and left out of the report")
                continue
            uri = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
            text = str(row["text"]) if include_text else ""
            shown.append({"id": str(row["id"]), "tiles": list(row["tiles"]), "picture": uri, "text": text})
        return shown, len(logged["panels"]) - len(shown), int(logged["step"])
    except (KeyError, TypeError) as error:
        raise InputError.damaged(
            f"panels without {error}",
            file=path,
            expected="step, panels: [{id, tiles, text}] as medvl train writes them",
        ) from None


def loss_curves_svg(log: Log, config: Config) -> str:
    """Training loss, and the losses of the validations, over steps; "" when there is nothing to draw."""
    train = _points(log.train, "loss")
    curves = {"alignment": _points(log.val, "alignment_loss"), "decoder": _points(log.val, "decoder_loss")}
    end = max((row["step"] for row in (*log.train, *log.val)), default=0)
    if not train and not any(curves.values()):
        return ""
    figure, (left, right) = new_figure(1, 2, (9.2, 2.9))
    _draw(left, train, end, FIRST)
    left.margins(y=0.16)  # room for the word at the line
    left.set_title("Training loss", loc="left", fontsize=10)
    start = config.pretrain.warmup_steps
    if config.pretrain.decoder != "none" and train and 0 < start <= train[-1][0]:
        left.axvline(start, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 8}
        left.annotate("with decoder", (start, 1.0), xytext=(4, -8), **place)
    for (name, points), colour in zip(curves.items(), (FIRST, SECOND), strict=True):
        _draw(right, points, end, colour, name)
    right.set_title("Validation losses", loc="left", fontsize=10)
    if any(curves.values()):
        right.legend(frameon=False, fontsize=9)
    return to_svg(figure, "Losses over steps")


def recall_curves_svg(log: Log) -> str:
    """Retrieval of the validations over steps, both ways, against chance; "" when there is nothing to draw."""
    if not any(_points(log.val, f"i2t_r{k}") for k in RECALL_AT):
        return ""
    figure, every = new_figure(1, len(RECALL_AT), (9.2, 2.7))
    end = log.val[-1]["step"]
    for axes, k in zip(every, RECALL_AT, strict=True):
        for key, colour in (("i2t", FIRST), ("t2i", SECOND)):
            _draw(axes, _points(log.val, f"{key}_r{k}"), end, colour, DIRECTIONS[key])
        chance = _points(log.val, f"chance_r{k}")
        if chance:
            x, y = zip((0.0, chance[0][1]), *chance, strict=True)  # known before the first validation
            axes.plot(x, y, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), label="chance")
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        axes.set_title(f"Recall at {k}", loc="left", fontsize=10)
    lines, names = every[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return to_svg(figure, "Retrieval over steps")


def _draw(axes: Any, points: Points, end: float, colour: str, label: str | None = None) -> None:
    """One curve on an axis of steps from 0 to `end`."""
    axes.set_xlim(0, max(end, 1) * 1.03)
    axes.set_xlabel("step", fontsize=9)
    if points:
        marker = "o" if len(points) < MARK_UNDER else None
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, marker=marker, markersize=2.6, label=label)


def _points(rows: Sequence[Row], key: str) -> Points:
    return [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]


def _finite(row: Mapping[str, Any]) -> Row:
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}


def _read(path: Path) -> dict[str, Any]:
    """{} without the file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError.damaged(f"not valid JSON: {error}", file=path) from None
    if not isinstance(value, dict):
        raise InputError.damaged("not a JSON object", file=path)
    return value


def _lead(folder: Path, log: Log, plan: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    steps = max((row["step"] for row in (*log.train, *log.val)), default=None)
    start = "G2D pre-training on pairs of image and report text."
    if steps is None:
        return f"{start} Only the model is here, after {last['step']} steps, without the log of its run."
    state = "finished" if is_finished(folder) else "NOT finished"
    of = f" of {plan['steps']} planned" if plan else ""
    return f"{start} The run is {state}: {steps}{of} steps are logged."


def _facts(
    config: Config, plan: Mapping[str, Any], card: Mapping[str, Any], last: Mapping[str, Any]
) -> list[tuple[str, Any]]:
    height, width = config.data.image_size
    facts: list[tuple[str, Any]] = [("data", config.data.manifest)]
    if plan:
        pairs = plan["pairs"]
        for title, counts in (
            ("records with a text", plan["records"]),
            ("images", plan["images"]),
            ("patients", plan["patients"]),
            ("distinct texts", pairs["distinct_texts"]),
        ):
            facts.append((title, f"{counts['train']:,} train, {counts['val']:,} validation"))
        facts.append(("records without text, left out", sum(pairs["without_text"].values())))
        if "other_views" in plan:
            facts.append(("records of other views, left out", plan["other_views"]))
        facts.append(("negatives", pairs["negatives"]))
    facts += [
        ("image encoder", f"{config.model.encoder}, {height} × {width} px, {config.data.in_channels} channel(s)"),
        ("text encoder", config.text.encoder),
        ("decoder learns", DECODERS[config.pretrain.decoder]),
        ("fidelity", config.fidelity),
    ]
    if config.pretrain.decoder == "pseudo_mask":
        facts.append(("pseudo masks of", config.pretrain.mask.source))
    if config.pretrain.shuffle_masks:
        facts.append(("control", "every image is given another one's pseudo mask"))
    if config.data.laterality:
        facts.append(("left means the left of", f"the {config.data.laterality}"))
    if config.init:
        facts.append(("started from", config.init))
    if plan:
        facts.append(("trained parameters", f"{plan['parameters']:,}"))
        facts.append(("device", plan["device"]))
    if last.get("elapsed_s") is not None:
        facts.append(("training time to this validation", f"{last['elapsed_s'] / 60:.1f} min"))
    if card.get("licence"):
        facts.append(("licence of the data", card["licence"]))
    return facts


def _recalls(last: Mapping[str, Any]) -> list[tuple[str, Any, Any, Any]]:
    """(name, image to text, text to image, chance) of each k of the last validation."""
    return [
        (f"Recall at {k}", last.get(f"i2t_r{k}"), last.get(f"t2i_r{k}"), last.get(f"chance_r{k}"))
        for k in (RECALL_AT if last else ())
    ]


def _losses(config: Config, last: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    if not last:
        return []
    chances = [value for k in RECALL_AT if (value := last.get(f"chance_r{k}")) is not None]
    chance = f"chance {sum(chances) / len(chances):.4f}" if chances else ""
    losses = [
        ("mean of the six recalls", last.get("mean_recall"), chance),
        ("alignment loss", last.get("alignment_loss"), "of all validation pairs as one batch"),
    ]
    if config.pretrain.decoder != "none":
        rebuilt = config.pretrain.decoder == "reconstruction"
        kind = "mean squared error against the image" if rebuilt else "against each image's own pseudo mask"
        losses.append(("decoder loss", last.get("decoder_loss"), kind))
    return losses


def _result_notes(
    config: Config, plan: Mapping[str, Any], card: Mapping[str, Any], last: Mapping[str, Any]
) -> list[str]:
    if not last:
        return ["There has been no validation yet."]
    notes = [
        "A hit is anything that has the query's own text, so texts that repeat raise chance, which is computed exactly "
        "for these pairs. These are values of one run without intervals; seeds differ."
    ]
    if config.pretrain.select == "mean_recall":
        notes.append("The checkpoint was chosen by the mean recall on these same pairs, which makes it look better.")
    step = card.get("step")
    if step is not None and step != last["step"]:
        notes.append(f"The model of this run is that of step {step}; the table is of the last validation.")
    return notes


def _curve_notes(config: Config, plan: Mapping[str, Any], log: Log) -> list[str]:
    notes = []
    if not log.train and log.val:
        notes.append("No training loss is logged yet: it is every few steps, and after the last one.")
    if log.train:
        among = f" (negatives {plan['pairs']['negatives']})" if plan else ""
        decoder = "" if config.pretrain.decoder == "none" else " plus the weighted loss of the decoder"
        notes.append(
            f"The training loss is that of a batch{among}{decoder}; the alignment loss of a validation is among all of "
            "its pairs. Compare neither with the other, nor between sets of different size."
        )
    num = sum(row.get("loss") is None for row in log.train)
    if num:
        notes.append(f"The training loss was not a number in {num} of {len(log.train)} logged lines.")
    return notes


def _panel_notes(
    config: Config, shown: Sequence[Mapping[str, Any]], panel_step: int | None, card: Mapping[str, Any]
) -> list[str]:
    """How the tiles are to be read."""
    tiles = {name for panel in shown for name in panel["tiles"]}
    notes = ["The first pairs of the validation split, not chosen by how they look."]
    if looked := tiles & {"attention", "evidence"}:
        notes[0] += (
            f" {looked.pop().capitalize()} is the mean over heads, stretched from its lowest to its highest value in "
            "each image: colours do not compare between images."
        )
    if "decoder" in tiles:
        notes.append("The decoder's output runs from 0 (dark) to 1 (yellow); the mask is what it is taught.")
    if config.pretrain.shuffle_masks:
        notes.append("Masks are each image's own; in this run the decoder was taught those of other images.")
    step = card.get("step")
    if step is not None and panel_step is not None and step != panel_step:
        notes.append(f"They are of the weights at step {panel_step}; the model of this run is that of step {step}.")
    return notes


def _provenance(config: Config, card: Mapping[str, Any]) -> list[tuple[str, Any]]:
    facts: list[tuple[str, Any]] = [("seed", config.train.seed)]
    facts += [(key.replace("_", " "), card[key][:16]) for key in ("manifest_hash", "split_hash") if card.get(key)]
    if card.get("machine"):
        machine = card["machine"]
        gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
        facts.append(("machine", f"{machine['processor']}, {machine['cores']} cores{gpu}"))
    return facts
