"""The section `model`: what stands where a recipe names no size or image encoder, and what older recipes wrote.

`model.size` is a width, `model.encoder` an image encoder. Older recipes wrote the image encoder as `model.size` of the
networks that have no width of their own, and as `model.options.cnn` of LViT; nano and mini then meant ResNet-18 of a
quarter and of half its width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from medvl.core.errors import InputError

KEY = "model.encoder"
OLD_MODEL_KEYS = ("model.size", "model.options.cnn")
_SIZE, _ENCODER = {"size": "mini"}, {"encoder": "resnet18_mini"}
# A network that is not here has its constructor's defaults.
_DEFAULTS: dict[str, dict[str, str]] = {
    "lvit": {"size": "mini", "encoder": "ucnn"},
    **dict.fromkeys(("unet", "text_unet", "unet_plus_plus", "attention_unet", "dynunet", "swin_unetr"), _SIZE),
    **dict.fromkeys(("encoder_unet", "g2d", "classifier", "yolo"), _ENCODER),
}
_OLD_ENCODERS = {"nano": "resnet18_nano", "mini": "resnet18_mini"}


def read_old_model(model: dict[str, Any], source: str, overridden: Collection[str] = ()) -> list[str]:
    """Bring the older spelling of a section `model` that has its name to the new one, in place.

    Args:
        overridden: keys of the command line, which count more than the recipe's, however either is spelled.

    Returns:
        What was read as what, one line each.

    Raises:
        InputError: both spellings, which do not agree.
    """
    name, options = model.get("name"), model.get("options")
    if not isinstance(name, str):
        return []
    defaults = _DEFAULTS.get(name, {})
    if name == "clipseg" and model.get("size") == "folder":
        model["size"] = None  # it was the only one
    if name == "lvit" and isinstance(options, dict) and isinstance(options.get("cnn"), str):
        section, old_key = options, "model.options.cnn"
    elif "encoder" in defaults and "size" not in defaults and isinstance(model.get("size"), str):
        section, old_key = model, "model.size"
    else:
        return []
    old = section.pop(old_key.rpartition(".")[2])
    encoder = _OLD_ENCODERS.get(old, old)
    if KEY in overridden and old_key not in overridden:
        return []
    if old_key in overridden and KEY not in overridden:
        model.pop("encoder", None)
    if model.get("encoder") not in (None, encoder):
        raise InputError.conflict(
            f"{old_key}: {old} beside {KEY}: {model['encoder']}",
            file=source,
            expected=f"{KEY} alone: {old_key} is its older spelling",
        )
    model["encoder"] = encoder
    return [f"{old_key}: {old} is read as {KEY}: {encoder}"]


def fill_model(model: dict[str, Any]) -> None:
    """Set `size` and `encoder` where they are not; None = the network has none, or its constructor's default."""
    defaults = _DEFAULTS.get(str(model.get("name")), {})
    for key in ("size", "encoder"):
        model.setdefault(key, defaults.get(key))


def model_now(model: Mapping[str, Any]) -> dict[str, Any]:
    """The section `model` of a stored configuration, which may be an older one, by today's keys."""
    copy = {key: dict(value) if isinstance(value, Mapping) else value for key, value in model.items()}
    read_old_model(copy, "stored configuration")
    fill_model(copy)
    return copy


def model_title(model: Mapping[str, Any]) -> str:
    """The section `model` in words: `lvit mini`, `g2d resnet50`, `lvit mini resnet50`."""
    now = model_now(model)
    parts = (now.get("name"), now["size"], None if now["encoder"] == "ucnn" else now["encoder"])
    return " ".join(str(part) for part in parts if part is not None)
