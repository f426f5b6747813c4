"""A trained model is a folder: model.safetensors, config.yaml, text/, context/, card.json, card.md, format_version.

A RUN folder (which holds its model under model/) is accepted wherever a MODEL is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvl.config import Config, load_config, save_config
from medvl.core.errors import InputError
from medvl.core.files import read_json, whole_folder, write_json, write_text
from medvl.core.task import find_task
from medvl.data.hashes import Stage, file_hash, write_stages

if TYPE_CHECKING:
    from torch import Tensor

    from medvl.data.context import ContextRules
    from medvl.models.module import NetworkModule
    from medvl.text.base import TextEncoder

FORMAT_VERSION = "medvl-model/1"
NOT_A_DEVICE = "medvl is research software, not a medical device; do not use it for diagnosis or treatment."


def find_model(folder: str | Path) -> Path:
    """The MODEL folder of a MODEL or a RUN; `medvl:NAME` is a model that ships with the package."""
    name = str(folder)
    if name.startswith("medvl:"):
        folder = Path(__file__).parents[1] / "assets" / name.removeprefix("medvl:")
    folder = Path(folder)
    for candidate in (folder, folder / "model"):
        if (candidate / "format_version").is_file():
            return candidate
    expected = "a folder with model.safetensors, or a run folder with model/ in it"
    if not folder.exists():
        shipped = sorted(path.parent.name for path in (Path(__file__).parents[1] / "assets").glob("*/format_version"))
        if name.startswith("medvl:"):
            raise InputError.missing_file(
                f"no such model: {name}", expected=", ".join(f"medvl:{model}" for model in shipped)
            )
        raise InputError.missing_file("no such model folder", file=folder, expected=expected)
    remedy = None
    if (folder / "checkpoints").is_dir():
        remedy = f"the run is not finished: medvl train --resume --out {folder}"
    raise InputError.missing_file("not a model folder", file=folder, expected=expected, remedy=remedy)


def save_model(
    folder: Path,
    config: Config,
    classes: tuple[str, ...],
    module: NetworkModule,
    encoder: TextEncoder | None,
    card: dict[str, Any],
    stages: Sequence[Stage] | None = None,
) -> None:
    """Write a MODEL folder, in the place of an older one: all of it or nothing.

    The card holds hashes of the parts that must be of one run. `stages`: the images that it was trained on; None = not
    known.
    """
    from safetensors.torch import save_file

    with whole_folder(folder) as new:
        save_config(config, new / "config.yaml")
        encoder = module.text_encoder or encoder  # an averaged module has its own, averaged too
        if encoder is not None and module.uses_text:
            encoder.save(new / "text")
        _save_context(new / "context", module)
        if stages is not None:
            write_stages(new, stages)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.network.state_dict().items()}
        save_file(weights, str(new / "model.safetensors"))
        entries = {"format": FORMAT_VERSION, "classes": list(classes), **card, "files": _file_hashes(new)}
        write_json(new / "card.json", entries)
        write_card(new)
        write_text(new / "format_version", FORMAT_VERSION + "\n")


def load_model(
    folder: str | Path, *, uses_text: bool = True
) -> tuple[NetworkModule, TextEncoder | None, Config, dict[str, Any]]:
    """-> the module in eval mode, its text encoder, its configuration and its card.

    `uses_text` False, where only images are used: the text encoder is loaded without a progress bar.
    """
    from safetensors import SafetensorError

    from medvl.text.registry import load_text_encoder

    folder = find_model(folder)
    version = (folder / "format_version").read_text(encoding="utf-8", errors="replace").strip()
    if version != FORMAT_VERSION:
        raise InputError.unsupported(
            f"model format {version}", file=folder, expected=FORMAT_VERSION, remedy="update medvl"
        )
    config = load_config(folder / "config.yaml")
    card = _read_json(folder / "card.json", _A_CARD)
    if not isinstance(card.get("classes"), list) or not all(isinstance(name, str) for name in card["classes"]):
        raise InputError.damaged("no list of classes", file=folder / "card.json", expected=_A_CARD, remedy=_WHOLE)
    _check_files(folder, card)
    try:
        has_text = (folder / "text").is_dir()
        encoder = load_text_encoder(folder / "text", show_progress=uses_text) if has_text else None
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        what = f"the text encoder is damaged ({_first_line(error)})"
        raise InputError.damaged(
            what, file=folder / "text", expected="the folder as it was saved", remedy=_WHOLE
        ) from None
    if encoder is not None:
        for path in sorted((folder / "text").glob("*.safetensors")):
            _check_values(path, _read_weights(path), encoder.state_dict())
    context = load_context(folder)
    try:
        module = find_task(config.task).build(config, len(card["classes"]), encoder, context)
    except (TypeError, ValueError, LookupError, RuntimeError, AttributeError, AssertionError) as error:
        what = f"no network can be built from config.yaml, card.json and text/ ({_first_line(error)})"
        raise InputError.damaged(what, file=folder, expected="the folder as it was saved", remedy=_WHOLE) from None
    weights = _read_weights(folder / "model.safetensors")
    expected = module.network.state_dict()
    _check_values(folder / "model.safetensors", weights, expected)
    wrong = [name for name in sorted({*expected, *weights}) if name not in expected or name not in weights]
    wrong += [name for name in expected if name in weights and expected[name].shape != weights[name].shape]
    if wrong:
        raise InputError.mismatch(
            f"the weights do not fit the configuration: {', '.join(wrong[:5])}" + (" ..." if len(wrong) > 5 else ""),
            file=folder / "model.safetensors",
            remedy="config.yaml and model.safetensors must be of the same run",
        )
    module.network.load_state_dict(weights)
    if module.context_tokens is not None:
        tokens = folder / "context" / "tokens.safetensors"
        values = _read_weights(tokens)
        _check_values(tokens, values, module.context_tokens.state_dict())
        try:
            module.context_tokens.load_state_dict(values)
        except RuntimeError as error:
            raise InputError.mismatch(
                f"the weights do not fit the context ({error})", file=tokens, remedy=_WHOLE
            ) from None
    return module.eval(), encoder, config, card


def load_context(folder: str | Path) -> ContextRules | None:
    """How a model reads the clinical variables beside the text; None where it takes none."""
    from medvl.data.context import ContextRules

    path = find_model(folder) / "context" / "rules.json"
    expected = "the rules of the context"
    try:
        return ContextRules.from_dict(_read_json(path, expected)) if path.is_file() else None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"damaged ({_first_line(error)})"
        raise InputError.damaged(what, file=path, expected=expected, remedy=_WHOLE) from None


def weights_hash(folder: str | Path) -> str:
    """The hash by which results know a model, its weights' SHA-256 in hex."""
    return file_hash(find_model(folder) / "model.safetensors")


_A_CARD = "the model's card, with its classes"
_WHOLE = "copy the whole model folder again, or train anew"


def _read_json(path: Path, expected: str) -> dict[str, Any]:
    """A mapping of a model folder; InputError where it is missing or damaged."""
    if not path.is_file():
        raise InputError.missing_file("missing from the model folder", file=path, expected=expected, remedy=_WHOLE)
    try:
        read = read_json(path)
    except InputError as error:
        raise InputError.damaged(
            f"damaged ({error.faults[0].what})", file=path, expected=expected, remedy=_WHOLE
        ) from None
    if not isinstance(read, dict):
        raise InputError.damaged("damaged (no mapping)", file=path, expected=expected, remedy=_WHOLE)
    return read


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file; InputError where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    expected = "a whole safetensors file"
    if not path.is_file():
        raise InputError.missing_file("missing from the model folder", file=path, expected=expected, remedy=_WHOLE)
    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise InputError.damaged(f"damaged ({error})", file=path, expected=expected, remedy=_WHOLE) from None


def _check_values(path: Path, weights: Mapping[str, Tensor], module_weights: Mapping[str, Tensor]) -> None:
    """InputError for weights that are no numbers, or whole numbers in the place of weights."""
    whole = [name for name in weights if name in module_weights and module_weights[name].is_floating_point()]
    whole = [name for name in whole if not weights[name].is_floating_point()]
    broken = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    for names, error, what in (
        (whole, InputError.malformed, "are no floating-point numbers"),
        (broken, InputError.not_finite, "hold values that are not finite"),
    ):
        if names:
            raise error(
                f"{len(names)} tensors {what}, e.g. {names[0]}", file=path,
                expected="finite floating-point weights, as training saves them", remedy=_WHOLE,
            )  # fmt: skip


def _file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a model folder that must be of one run: weights, text encoder, context."""
    files = [folder / "model.safetensors"]
    files += [file for part in ("text", "context") for file in sorted((folder / part).rglob("*")) if file.is_file()]
    return {file.relative_to(folder).as_posix(): file_hash(file) for file in files}


def _check_files(folder: Path, card: dict[str, Any]) -> None:
    """InputError where a part is not the one that was saved with the card (cards of older versions do not say)."""
    saved = card.get("files")
    if not isinstance(saved, dict):
        return
    for name, expected in saved.items():
        path = folder / name
        if not path.is_file():
            raise InputError.missing_file(
                "missing from the model folder", file=path, expected="a whole folder", remedy=_WHOLE
            )
        if file_hash(path) != expected:
            what = "damaged, or of another model than its card"
            raise InputError.damaged(what, file=path, expected="the file that was saved with card.json", remedy=_WHOLE)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _save_context(folder: Path, module: NetworkModule) -> None:
    from safetensors.torch import save_file

    if module.context is None:
        return
    folder.mkdir(exist_ok=True)
    write_json(folder / "rules.json", module.context.to_dict())
    if module.context_tokens is not None:
        state = module.context_tokens.state_dict()
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, str(folder / "tokens.safetensors"))


def update_card(folder: str | Path, **entries: Any) -> None:
    """Merge entries into card.json (mappings one level deep) and write card.md anew."""
    folder = find_model(folder)
    card = _read_json(folder / "card.json", _A_CARD)
    for key, value in entries.items():
        if isinstance(value, dict) and isinstance(card.get(key), dict):
            card[key] = {**card[key], **value}
        else:
            card[key] = value
    write_json(folder / "card.json", card)
    write_card(folder)


def times_test_opened(folder: Path) -> int:
    """How often the test split was evaluated: lines of test_log.jsonl beside the model or in its run."""
    for place in (folder, folder.parent):
        log = place / "test_log.jsonl"
        if log.is_file():
            return sum(1 for line in log.read_text(encoding="utf-8").splitlines() if line.strip())
    return 0


def write_card(folder: Path) -> None:
    """card.md from card.json: what the model is, what it was trained on, what was measured."""
    card = _read_json(folder / "card.json", _A_CARD)
    lines = [f"# {card.get('name', 'medvl model')}", "", NOT_A_DEVICE, ""]
    for key in ("summary", "data", "licence", "attribution", "command"):
        if card.get(key):
            lines.append(f"- **{key}**: {card[key]}")
    for key in _CARD_LINES:
        if card.get(key) is not None:
            lines.append(f"- {key}: {json.dumps(card[key]) if isinstance(card[key], (list, dict)) else card[key]}")
    lines.append(f"- test split opened: {times_test_opened(folder)} time(s)")
    listed = {split: row for split, row in card.get("metrics", {}).items() if not _OWN_LINE.isdisjoint(row)}
    for split, row in listed.items():
        values = [f"{name} {value:.4f}" for name, value in row.items() if isinstance(value, float)]
        lines += ["", f"{split}: {', '.join(values)}"]
    if card.get("metrics") and not listed:
        lines += ["", "| split | grid | cases | Dice per image | Dice pooled | IoU per image | IoU pooled |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for split, row in card["metrics"].items():
            cells = [f"{row[m]:.4f}" if isinstance(row.get(m), float) else "" for m in _CARD_METRICS]
            lines.append(f"| {split} | {row.get('grid', '')} | {row.get('num_cases', '')} | {' | '.join(cells)} |")
    if card.get("limits"):
        lines += ["", "## Limits", "", *[f"- {limit}" for limit in card["limits"]]]
    lines += ["", "The vocabulary of a built-in text encoder holds words seen at least 3 times in the training texts."]
    if card.get("context"):
        lines += ["", "Categories of clinical variables are kept where at least 3 training patients share them."]
    write_text(folder / "card.md", "\n".join(lines) + "\n")


_OWN_LINE = {"mean_recall", "macro_auc", "map"}  # metrics of tasks that have no masks to score
_CARD_LINES = (
    "model", "text_encoder", "context", "parameters", "classes", "laterality", "seed", "manifest_hash", "versions",
)  # fmt: skip
_CARD_METRICS = ("dice_per_image", "dice_pooled", "iou_per_image", "iou_pooled")
