"""The configuration of a run: YAML in, YAML out, every key typed; an unknown key is an error naming the nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le, Lt
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from medvl.assets import shipped_table
from medvl.config.augment import AugmentConfig, Border
from medvl.config.checks import cross_faults, key_faults, validated
from medvl.config.differences import flat
from medvl.config.fidelity import Preset, preset_values
from medvl.config.from_init import fixed_by, has_network, init_config, say_taken
from medvl.config.model_keys import OLD_MODEL_KEYS, fill_model, model_title, read_old_model
from medvl.config.objective import ObjectiveConfig, check_one_way, read_old_keys
from medvl.config.overrides import apply_override
from medvl.config.protocols import protocol_values
from medvl.config.ranges import SECTION, AtLeastOne, Colour, Count, Fraction, Positive, Seed, Share, Weight
from medvl.config.sections import ClassifyConfig, DetectConfig, PretrainConfig, SemiConfig
from medvl.core.errors import Fault, InputError, nearest, warn
from medvl.core.files import write_text
from medvl.core.limits import allow_megapixels
from medvl.core.plain_yaml import read_yaml, shown, yaml_text
from medvl.core.task import Task, all_tasks, find_task, other_sections

ASSET_PREFIX = "medvl:"
G2D_PREFIX = "g2d:"
WEIGHTS_PREFIX = "weights:"
Side = Annotated[int, Ge(1), Le(8192)]  # pixels


@dataclass(config=SECTION)
class DataConfig:
    """What is read and how it is shown to the model."""

    manifest: str = ""  # path of the manifest, relative to the recipe; `medvl:cxr_regions` is the shipped set
    # medvl's name -> the table's, where they differ: {id: Filename, image: Path, patient: PatientID}
    columns: dict[str, str] = field(default_factory=dict)
    text_column: str = "text"  # column of the texts
    constant_text: str | None = None  # stands wherever a record has no text, e.g. "both lungs"
    text_shuffle: bool = False  # a control: every record gets the text of another patient of its split
    laterality: Literal["patient", "viewer", "image"] | None = None  # whose left; mandatory once a text names a side
    # mask_NAME columns, or {name: values of a label map} such as {lung: [1, 2]} or, of a mask in colours, ["#ff0000"]
    classes: list[str] | dict[str, list[AtLeastOne | Colour]] | None = None
    views: list[str] | None = None  # values of the column view that are trained on, e.g. [PA, AP]; None = all
    empty_means_absent: list[str] = field(default_factory=list)  # classes whose empty mask cell is an empty mask
    boxes_from: Literal["boxes", "masks"] = "boxes"  # task: detect; masks: round the components of the masks
    image_size: tuple[Side, Side] = (224, 224)  # (H, W) at the model
    resize: Literal["stretch", "letterbox"] = "stretch"  # letterbox keeps the proportions and pads
    border: Border = "edge"  # beyond the picture (letterbox, augmentation): its edges repeated, or zero (black)
    in_channels: Literal[1, 3] = 3  # of the image at the model: grey or colour
    channel_order: Literal["rgb", "bgr"] = "rgb"  # bgr: the order of OpenCV, as in the released LViT
    normalize: Literal["none", "zscore"] = "zscore"  # zscore: each image to mean 0, sd 1
    mask_rule: Literal["area", "any"] = "area"  # foreground at half the area, or (released) > 0 once resized
    window: tuple[float, Positive] | None = None  # DICOM / NIfTI: (centre, width)
    slice_index: Count | None = None  # NIfTI volumes and multi-frame DICOM
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    # how often a training row is given an empty prompt, whose target is an empty mask
    p_empty_text: Fraction = 0.0
    phrases_per_image: AtLeastOne = 1  # training rows drawn per image and epoch; they share the image encoder
    rows_per_image: AtLeastOne | None = None  # a fixed choice of an image's training rows; None = all
    draw_by: str | None = None  # column whose values are drawn equally often among an image's rows
    val_phrases_per_image: AtLeastOne | None = None  # validation rows per image, the same every time; None = all
    label_fraction: Share = 1.0  # of the training patients; the masks of the others are hidden
    label_seed: Seed | None = None  # which patients; None = train.seed
    label_by: Literal["patient", "image"] = "patient"  # what the fraction is of; published protocols draw images
    # siim: all training images with foreground, as many without, drawn by label_seed; before the fraction is taken
    balance: Literal["none", "siim"] = "none"
    also_labelled: str | None = None  # a table whose column patient names further labelled ones (medvl x suggest)
    # Clinical variables beside the text, e.g. [age, sex] or {grade: category}; see docs/howto/context.md. Tried on
    # the lungs of adults and on 122 pairs: no gain over another patient's variables is shown (docs/results.md).
    context_columns: list[str] | dict[str, Literal["auto", "number", "category"]] = field(default_factory=list)
    context_as: Literal["text", "tokens"] = "tokens"  # words before the text, or a token of its own per column
    context_missing: list[str] = field(default_factory=list)  # cells that mean missing beside the empty one, e.g. [n/a]
    context_shuffle: bool = False  # a control: every record gets the context of another patient of its split
    num_workers: Annotated[int, Ge(0), Le(256)] = 0  # processes that read images; 0 = the training process itself
    # per image, slice or frame; larger ones are refused before they are decoded (raises 100, never lowers it)
    max_megapixels: Annotated[float, Ge(100), Le(100_000)] = 100.0
    cache_mb: Count = 1024  # decoded images and masks kept in memory


@dataclass(config=SECTION)
class TextConfig:
    """How the sentence becomes token features."""

    encoder: str = "builtin"  # builtin | minilm | hf:ID-or-folder | none
    train_layers: Count = 0  # of a pretrained encoder, from the last one back; 0 = wholly frozen
    dim: Annotated[int, Ge(1), Le(8192)] = 128  # width of the built-in encoder
    layers: Annotated[int, Ge(1), Le(100)] = 2  # depth of the built-in encoder
    tokenizer: str | None = None  # folder of `medvl data tokenizer`: word pieces, for the built-in encoder
    init: str | None = None  # folder of `medvl x pretrain-text`, from which the built-in encoder starts
    max_tokens: AtLeastOne | None = None  # longer texts are cut, counted and reported
    cache_dir: str | None = None  # features of frozen encoders, once per distinct text; None = RUN/cache


@dataclass(config=SECTION)
class ModelConfig:
    """The network. Options that a network does not have are an error of that network."""

    name: str = "lvit"  # of the table of networks (docs/reference/models.md)
    size: str | None = "mini"  # width: nano | mini | T ... (docs/reference/models.md); None = the network has one only
    # image encoder: resnet18_nano, resnet18_mini, resnet18, resnet50, efficientnet_lite0, ucnn (LViT's own path), ...,
    # hf:FOLDER-or-ID, timm:NAME; None = the network has none to choose
    encoder: str | None = "ucnn"
    options: dict[str, Any] = field(default_factory=dict)  # e.g. {text_merge: attention, dropout: 0.1, plam: both}

    @property
    def keys(self) -> dict[str, str]:
        """`name`, and `size` and `encoder` where the network has them."""
        keys = {"name": self.name, "size": self.size, "encoder": self.encoder}
        return {key: value for key, value in keys.items() if value is not None}

    @property
    def title(self) -> str:
        """`lvit mini`, `g2d resnet50`, `lvit mini resnet50`."""
        return model_title(self.keys)


@dataclass(config=SECTION)
class TrainConfig:
    """The optimisation."""

    epochs: AtLeastOne = 100  # passes over the training images
    # None = one pass over the images; else so many batches, drawn over and over
    steps_per_epoch: AtLeastOne | None = None
    max_steps: AtLeastOne | None = None  # stop earlier; the schedule ends there
    batch_size: AtLeastOne = 8  # images; rows are phrases_per_image times as many
    optimizer: Literal["adam", "adamw"] = "adamw"  # adamw: weight decay apart from the gradient
    # of the two running means of the optimizer
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999)
    lr: Weight = 1e-3  # the highest learning rate
    lr_min: Weight = 0.0  # the lowest learning rate, at the end of the schedule or of a cycle
    weight_decay: Weight = 1e-4  # of weights of two or more dimensions, not of gains, biases and positions
    schedule: Literal["cosine", "warm_restarts", "constant"] = "cosine"  # of the learning rate after the warm-up
    restart_epochs: AtLeastOne = 10  # length of one cycle of warm_restarts, whose rate then changes from epoch to epoch
    restart_steps: AtLeastOne | None = None  # its length in steps instead; the rate changes with each
    warmup_steps: Count = 100  # in which the learning rate rises from 0
    clip_norm: Positive | None = 1.0  # longest gradient, as a norm over all weights; None = any
    freeze_encoder: bool = False  # the image encoder keeps its weights and its BatchNorm statistics
    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.0  # evaluate and keep an exponential average of the weights; 0 = off
    choose_by: Literal["metric", "loss"] = "metric"  # best checkpoint: highest validation metric, or lowest loss
    patience: AtLeastOne | None = None  # epochs without a better one before training stops
    first_best_epoch: AtLeastOne = 1  # no best checkpoint before this epoch
    val_every: AtLeastOne = 1  # epochs
    save_every_s: Weight = 60.0  # seconds between two saved states, from which --resume continues
    seed: Seed = 0  # of the weights, the order of the images and the augmentation
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"  # auto: a GPU where there is one
    devices: Annotated[int, Ge(1), Le(1024)] = 1  # how many
    # auto: mixed on a GPU (bf16 where it has it, else 16), 32-true elsewhere, where mixed is slower
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = "32-true"

    def num_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        steps = self.epochs * steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)


@dataclass(config=SECTION)
class Config:
    """A whole run."""

    task: str = "segment"  # segment | pretrain | classify | detect
    fidelity: Preset = "medvl"  # column of the table of paper, released program and medvl (docs/fidelity.md)
    protocol: str | None = None  # a published downstream protocol, NAME or NAME:SET; see medvl/config/protocols.py
    # A RUN or MODEL folder of the same network; one of another task, pretrain or classify, whose image encoder is taken
    # (g2d:RUN insists on that); weights:FILE, the image encoder of another program's checkpoint (`medvl convert`).
    init: str | None = None
    init_parts: Literal["encoder", "encoder_decoder"] = "encoder_decoder"  # what is taken over from a pre-trained run
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    # Those of the task (`Task.sections`) by name. In a recipe they stand beside the others, and so are they read:
    # config.semi is config.sections["semi"].
    sections: dict[str, Any] = field(default_factory=dict)

    if TYPE_CHECKING:
        objective: ObjectiveConfig = ObjectiveConfig()
        semi: SemiConfig = SemiConfig()
        pretrain: PretrainConfig = PretrainConfig()
        classify: ClassifyConfig = ClassifyConfig()
        detect: DetectConfig = DetectConfig()
    else:

        def __getattr__(self, name: str) -> Any:
            values = self.__dict__
            kind = find_task(values["task"]).sections.get(name) if "sections" in values and name[0] != "_" else None
            if kind is None:
                raise AttributeError(f"a run of task: {values.get('task')} has no section {name}")
            return values["sections"].setdefault(name, kind())

    def with_section(self, name: str, section: Any) -> Config:
        """A copy in which one of the task's sections is another one."""
        return replace(self, sections={**self.sections, name: section})


def split_init(init: str) -> tuple[str, str]:
    """`g2d:RUN` -> ("g2d:", "RUN"), `weights:FILE` likewise; another one has an empty prefix."""
    for prefix in (G2D_PREFIX, WEIGHTS_PREFIX):
        if init.startswith(prefix):
            return prefix, init[len(prefix) :]
    return "", init


def manifest_path(config: Config) -> Path:
    """The manifest's path; `medvl:NAME` is a set that ships with the package."""
    name = config.data.manifest
    return shipped_table(name) if name.startswith(ASSET_PREFIX) else Path(name)


def as_read(config: Config) -> DataConfig:
    """`data` for reading samples: the side that a text names plays no part where no text is read."""
    unread = config.text.encoder == "none" and config.data.laterality is None
    return replace(config.data, laterality="image") if unread else config.data


def recipe_folder() -> Path:
    """The recipes that come with medvl: in the installed package, or in the checkout."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def recipe_names() -> list[str]:
    """The recipes to train with that come with medvl, without the sweeps: `medvl train NAME`."""
    files = sorted(recipe_folder().glob("*.yaml"))
    return [file.stem for file in files if "\nrecipe:" not in file.read_text(encoding="utf-8")]


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that comes with medvl (`lvit_semi`, `lvit_semi.yaml`).

    Raises:
        InputError: no such file and no such name; the message lists the names.
    """
    path = Path(name)
    if path.is_file():
        return path
    folder = recipe_folder()
    if len(path.parts) == 1 and (folder / path.with_suffix(".yaml")).is_file():
        return folder / path.with_suffix(".yaml")
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    like = nearest(path.stem, names)
    raise InputError.missing_file(
        "no such recipe",
        file=path,
        expected=f"a YAML file, or one of the recipes that come with medvl: {', '.join(names)}",
        remedy=f"did you mean {like}?" if like else None,
    )


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe, apply `key=value` overrides and the preset it names. InputError on anything unknown or wrong.

    `path` is a file, or the name of a recipe that comes with medvl. Relative paths in `init`, `data.manifest`,
    `data.also_labelled`, `text.cache_dir`, `classify.cache_dir`, `text.tokenizer` and `text.init` are taken from the
    recipe's folder, those of overrides from the working directory.
    """
    path = find_recipe(path)
    raw = read_yaml(path)
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise InputError.malformed("a recipe is a mapping of sections", file=path, expected="data:, model:, train: ...")
    _absolute(raw, path.parent)
    keys = [apply_override(raw, override) for override in overrides]
    _absolute(raw, Path.cwd())  # what is relative now came by an override; the run folder's copy lies elsewhere
    stored = path.name == "config.yaml" and not set(keys) & set(OLD_MODEL_KEYS)
    return make_config(raw, source=str(path), overridden=None if stored else keys)


def make_config(
    raw: Mapping[str, Any], source: str = "configuration", *, overridden: Sequence[str] | None = None
) -> Config:
    """Build a Config from nested mappings: the protocol, the run of `init`, then the preset, fill what they leave open.

    `overridden`: keys that a command line set; None = a stored configuration, whose older spelling is no news.
    """
    tree = _deep_copy(raw)
    _move_border(tree, source)
    check_one_way(tree.get("objective"), source)
    protocol = protocol_values(tree, source) if tree.get("protocol") is not None else {}
    name = tree.get("task", protocol.get("task", "segment"))
    task = find_task(name if isinstance(name, str) else "segment")  # another kind is a fault, below
    preset = tree.get("fidelity", "medvl")
    model = tree.setdefault("model", {})
    place = init_config(tree)
    run = None if place is None else load_config(place)
    if isinstance(model, dict):
        if run is not None and has_network(run, task.name, model.get("name", protocol.get("model.name"))):
            model.setdefault("name", run.model.name)
        model.setdefault("name", protocol.get("model.name", task.model_name))
        for line in read_old_model(model, source, overridden or ()):
            if overridden is not None:
                warn(f"{source}: {line}")
    if isinstance(model, dict) and run is not None:  # before the protocol, whose encoder is that of the paper
        _take_from_init(tree, fixed_by(run, task.name, str(model["name"])))
    for key, value in protocol.items():
        _set_default(tree, key, value)
    if isinstance(model, dict):
        fill_model(model)
    for key, value in task.defaults.items():
        _set_default(tree, key, value)
    is_method = isinstance(model, dict) and model.get("name") == task.method
    others = other_sections(task)
    for key, value in preset_values(preset, source, task.method).items():
        if key.partition(".")[0] in others or (key.startswith("model.options.") and not is_method):
            continue  # of other tasks; switches of the method's own network
        _set_default(tree, key, value)
    read_old_keys(tree.get("objective"), source)
    config = _with_sections(tree, task, source)
    faults = cross_faults(config, source)
    if faults:
        raise InputError(faults)
    allow_megapixels(config.data.max_megapixels)
    return config


def _with_sections(tree: dict[str, Any], task: Task, source: str) -> Config:
    """The configuration of a filled tree. InputError with all faults of its keys and of sections of other tasks."""
    sections = {name: tree.pop(name) for name in task.sections if name in tree}
    faults = []
    for other in all_tasks():
        for name, kind in other.sections.items():
            if name in tree and name not in task.sections and not _is_whole(tree.pop(name), kind):
                used = ", ".join(task.sections) or "none of its own"
                what = f"task: {task.name} has no section {name}"
                remedy = f"leave it out, or task: {other.name}"
                faults.append(Fault.unknown_key(what, file=source, expected=f"its sections: {used}", remedy=remedy))
    faults += key_faults(tree, Config, source, more=tuple(task.sections))
    if "sections" in tree:
        faults.append(Fault.unknown_key("unknown key sections", file=source))
    built = {}
    for name, kind in task.sections.items():
        value = sections.get(name, {})
        if not isinstance(value, Mapping):
            faults.append(Fault.malformed(f"{name}: {shown(value)}", file=source, expected="a section of keys"))
            continue
        try:
            built[name] = validated(value, kind, source, f"{name}.")
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(faults)
    config: Config = validated(tree, Config, source)
    config.sections = built
    return config


def _is_whole(value: Any, kind: type) -> bool:
    """Whether a section holds every key, as in a configuration that an older version saved: with those of all tasks."""
    fields = set(kind.__pydantic_fields__)  # type: ignore[attr-defined]  # set by pydantic's dataclass
    return isinstance(value, Mapping) and len(fields & set(value)) >= max(2, len(fields) - 2)


def _move_border(tree: dict[str, Any], source: str) -> None:
    """`data.augment.border` of older configurations is `data.border`: training alone was padded by it."""
    data = tree.get("data")
    augment = data.get("augment") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(augment, dict) or "border" not in augment:
        return
    old = augment.pop("border")
    if data.setdefault("border", old) != old:
        raise InputError.conflict(
            f"data.border: {data['border']} and data.augment.border: {old}",
            file=source,
            expected="one rule for what stands beyond the picture",
            remedy="leave out data.augment.border",
        )
    if old != "edge" and data.get("resize") == "letterbox":
        warn(f"data.augment.border is read as data.border: {old}, which pads validation and prediction as training")


def _take_from_init(tree: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Set what is open, and say what is not the default."""
    taken = [key for key, value in values.items() if _set_default(tree, key, value)]
    usual = flat(config_dict(Config()))
    news = {key: values[key] for key in taken if values[key] != usual.get(key)}
    if news:
        say_taken(tree["init"], ", ".join(f"{key}={value}" for key, value in news.items()))


def _set_default(tree: dict[str, Any], key: str, value: Any) -> bool:
    """Set `a.b.c` unless it is set, and say whether; what is no section there is left to the check of types."""
    *parents, leaf = key.split(".")
    node: Any = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            return False
    is_open = leaf not in node
    node.setdefault(leaf, value)
    return is_open


def config_dict(config: Config) -> dict[str, Any]:
    """The whole configuration as plain JSON types."""
    dumped: dict[str, Any] = TypeAdapter(Config).dump_python(config, mode="json")
    del dumped["sections"]
    for name, kind in find_task(config.task).sections.items():
        dumped[name] = TypeAdapter(kind).dump_python(getattr(config, name), mode="json")
    return dumped


def save_config(config: Config, path: Path) -> None:
    """Write the whole configuration, defaults included, as YAML (atomically)."""
    write_text(path, yaml_text(config_dict(config)))


_PATHS = (
    ("data", "manifest"),
    ("data", "also_labelled"),
    ("text", "cache_dir"),
    ("classify", "cache_dir"),
    ("text", "tokenizer"),
    ("text", "init"),
)


def _absolute(raw: dict[str, Any], folder: Path) -> None:
    if isinstance(raw.get("init"), str):
        prefix, path = split_init(raw["init"])
        if not path.startswith(ASSET_PREFIX):
            raw["init"] = prefix + str((folder / path).resolve())  # an absolute one stays as it is
    for section, key in _PATHS:
        value = (raw.get(section) or {}).get(key) if isinstance(raw.get(section), dict) else None
        if isinstance(value, str) and value and not value.startswith(ASSET_PREFIX) and not Path(value).is_absolute():
            raw[section][key] = str((folder / value).resolve())


def _deep_copy(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in raw.items()}
