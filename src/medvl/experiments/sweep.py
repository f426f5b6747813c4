"""A sweep file: the cells (runs) that an experiment is made of. Reading and planning; `sweep_run` does the work.

    recipe: lvit_regions.yaml                       # relative to the sweep file
    grid: {data.label_fraction: [0.05, 0.25]}       # every combination; the last key turns fastest
    variants: {text: {}, no text: {text.encoder: none}, from text: {init: "@text"}, g2d: {once: true, recipe: g2d.yaml}}
    seeds: 3                                        # train.seed = 0, 1, 2

`@NAME` (in `init: "g2d:@NAME"` too) stands for the run folder of that variant at the same grid point and seed, `$DATA`
for the folder of `--data`. A variant with `once: true` is run once a seed, without the grid. A run is scored by its
task: a pre-training by its last validation, the others on `evaluate.split`. A variant with `zero_shot: classify` or
`ground` trains nothing and asks another one's run, see `zero_shot_cells`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from medvl.config import ASSET_PREFIX, G2D_PREFIX, Config, find_recipe, load_config, split_init
from medvl.config.differences import PATH_KEYS
from medvl.config.protocols import protocol_values
from medvl.core.errors import Fault, InputError, nearest
from medvl.core.plain_yaml import parse_yaml, read_yaml, validation_faults
from medvl.core.task import find_task, other_sections
from medvl.evaluation.model_inputs import parse_overrides
from medvl.experiments.zero_shot_cells import KEY as ZERO_SHOT
from medvl.experiments.zero_shot_cells import PATHS as QUERY_PATHS
from medvl.experiments.zero_shot_cells import ClassQuery, PhraseQuery, Query, read_query

_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
DATA = "$DATA"
SEED = "train.seed"
ONCE = "once"


@dataclass(config=_STRICT)
class Scoring:
    """How a finished run is scored."""

    split: str = "val"
    manifest: str | None = None  # None = the one it was trained on
    overrides: dict[str, Any] = field(default_factory=dict)  # how to read the manifest, as in `medvl evaluate`
    rows_by: list[str] = field(default_factory=list)  # a table row per combination of values of these columns
    probe: bool | Annotated[int, Ge(1)] = False  # ask with untrue texts too: all rows, or a seeded choice of so many


@dataclass(config=_STRICT)
class Sweep:
    """A sweep file, checked. `planned` is the number of seeds of each variant."""

    path: Path
    recipe: str
    variants: Annotated[dict[str, dict[str, Any]], MinLen(1)]
    title: str = ""  # for docs/results.md
    text: str = ""  # what it is, on real data or phantoms
    overrides: dict[str, Any] = field(default_factory=dict)  # of every cell
    grid: dict[str, Annotated[list[Any], MinLen(1)]] = field(default_factory=dict)
    seeds: Annotated[int, Ge(1)] | dict[str, Annotated[int, Ge(1)]] = 1
    evaluate: Scoring = field(default_factory=Scoring)
    reference: str | None = None  # the variant that the others are compared with; None = the first that is scored

    @property
    def planned(self) -> dict[str, int]:
        """Planned seeds per variant, in the order of the file."""
        return {name: self.seeds if isinstance(self.seeds, int) else self.seeds[name] for name in self.variants}

    @property
    def command(self) -> str:
        """How to run it: the file's first line, where that is a `# medvl x sweep ...`."""
        first = self.path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").rstrip()
        return first if first.startswith(("medvl x sweep ", "medvl sweep ")) else f"medvl x sweep {self.path.name}"

    def grid_points(self) -> list[dict[str, Any]]:
        """Every combination of grid values; one empty point without a grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def once(self, variant: str) -> bool:
        """Whether the grid does not touch a variant: one with `once: true`, or one that asks such a variant's run."""
        keys = self.variants[variant]
        if ZERO_SHOT in keys and ONCE not in keys:
            return self.once(_split_reference(str(keys.get("run", "")))[1])
        return bool(keys.get(ONCE, False))

    def cells(self) -> Iterator[Cell]:
        """Seeds outermost, then grid points, then variants, so that the table fills evenly."""
        for seed in range(max(self.planned.values())):
            for i, point in enumerate(self.grid_points()):
                for variant, num_seeds in self.planned.items():
                    if seed < num_seeds and (i == 0 or not self.once(variant)):
                        yield self.cell(variant, point, seed)

    def cell(self, variant: str, point: Mapping[str, Any], seed: int) -> Cell:
        """One run."""
        keys = dict(self.variants[variant])
        recipe = str(keys.pop("recipe", self.recipe))
        point = {} if self.once(variant) else dict(point)
        keys.pop(ONCE, None)
        names = [f"{key.rpartition('.')[2]} {_text(value)}" for key, value in point.items()]
        name = "-".join([slug(variant), *(slug(part) for part in names), f"seed{seed}"])
        if ZERO_SHOT in keys:
            query = read_query(variant, keys, self.path)
            return Cell(name, variant, point, seed, recipe, {**keys, SEED: seed}, query)
        settings = {**self.overrides, **point, **keys, SEED: seed}
        return Cell(name, variant, point, seed, recipe, settings)

    def config(self, cell: Cell, out: Path, data: Path | None, extra: Sequence[str] = ()) -> Config:
        """The configuration of a cell whose sweep runs in `out`; `extra` are `key=value` of the command line.

        Of a cell that trains nothing it is that of the run which it asks.
        """
        if cell.query is not None:
            return self.config(self.needs(cell)[0], out, data, extra)
        recipe = self.path.parent / cell.recipe
        settings = {**_recipe_paths(recipe, with_data=True), **cell.settings}
        # What the sweep sets for every cell may be of a task that a cell with a recipe of its own has not.
        unused = other_sections(find_task(str(settings.get("task", _recipe_task(recipe)))))
        settings = {k: v for k, v in settings.items() if k.partition(".")[0] not in unused or k not in self.overrides}
        words = [f"{key}={_text(self._resolved(key, value, cell, out, data))}" for key, value in settings.items()]
        return load_config(recipe, [*words, *extra])

    def written_paths(self, cell: Cell) -> dict[str, Any]:
        """The path-valued keys as recipe and sweep write them: what a result file may say."""
        if cell.query is not None:
            return self.written_paths(self.needs(cell)[0])
        paths = _recipe_paths(self.path.parent / cell.recipe) | cell.settings
        return {key: paths[key] for key in PATH_KEYS if key in paths}

    def needs(self, cell: Cell) -> list[Cell]:
        """The cells whose run folders this one refers to by `@NAME`."""
        names = [_split_reference(value)[1] for value in cell.settings.values() if _is_reference(value)]
        return [self.cell(name, cell.grid, cell.seed) for name in dict.fromkeys(names)]

    def query(self, cell: Cell, data: Path | None) -> Query | None:
        """What a cell that trains nothing asks, with paths that can be opened; None for any other cell."""
        if cell.query is None:
            return None
        paths = {key: getattr(cell.query, key, None) for key in QUERY_PATHS}
        resolved: dict[str, Any] = {key: self._path(value, data) for key, value in paths.items() if value}
        return replace(cell.query, **resolved)

    @property
    def scoring_words(self) -> list[str]:
        """`evaluate.overrides` as `key=value`."""
        return [f"{key}={_text(value)}" for key, value in self.evaluate.overrides.items()]

    def scoring_manifest(self, data: Path | None) -> Path | None:
        """The manifest that runs are scored on; None = their own."""
        name = self.evaluate.manifest
        return None if name is None else Path(self._path(name, data))

    def _resolved(self, key: str, value: Any, cell: Cell, out: Path, data: Path | None) -> Any:
        if _is_reference(value):
            prefix, name = _split_reference(value)
            return prefix + str((out / self.cell(name, cell.grid, cell.seed).name).resolve())
        if isinstance(value, str) and (key in PATH_KEYS or DATA in value):
            prefix, path = split_init(value) if key == "init" else ("", value)
            return prefix + self._path(path, data)
        return value

    def _path(self, name: str, data: Path | None) -> str:
        if DATA in name:
            if data is None:
                raise InputError.missing(
                    f"{name} needs the folder of the data sets",
                    file=self.path,
                    remedy="add --data DIR, which holds them",
                )
            return name.replace(DATA, str(data.resolve()))
        if not name or name.startswith(ASSET_PREFIX) or Path(name).is_absolute():
            return name
        return str((self.path.parent / name).resolve())


@dataclass(config=_STRICT, frozen=True)
class Cell:
    """One run of a sweep. `name` is that of its run folder and, with .json, of its result file."""

    name: str
    variant: str
    grid: dict[str, Any]
    seed: int
    recipe: str  # relative to the sweep file
    settings: dict[str, Any]  # overrides as the sweep writes them, train.seed last
    query: ClassQuery | PhraseQuery | None = None  # of a cell that trains nothing

    @property
    def overrides(self) -> list[str]:
        """`key=value` as on a command line, without the seed."""
        settings = {key: value for key, value in self.settings.items() if key != SEED}
        return [f"{key}={value if _is_reference(value) else _text(value)}" for key, value in settings.items()]


def is_sweep(path: Path) -> bool:
    """Whether a YAML file is a sweep and not a recipe."""
    raw = read_yaml(path)
    return isinstance(raw, dict) and "variants" in raw


def load_sweep(path: str | Path) -> Sweep:
    """Read and check a sweep file, the configuration of every cell included. All faults are one InputError."""
    path = find_recipe(path)
    raw = read_yaml(path)
    if not isinstance(raw, dict) or "variants" not in raw:
        raise InputError.malformed(
            "not a sweep", file=path, expected="recipe:, variants: ...", remedy="medvl train runs a recipe"
        )
    _refuse_unknown(raw, Sweep, "", path)
    if isinstance(raw.get("evaluate"), dict):
        _refuse_unknown(raw["evaluate"], Scoring, "evaluate.", path)
    if isinstance(raw["variants"], dict):
        raw["variants"] = {str(name): keys or {} for name, keys in raw["variants"].items()}  # `name:` changes nothing
    try:
        sweep = TypeAdapter(Sweep).validate_python({**raw, "path": path})
    except ValidationError as error:
        raise InputError(validation_faults(error, path)) from None
    _check(sweep)
    return sweep


def slug(name: str) -> str:
    """A name as a part of a file name: what is neither letter nor digit becomes `_`."""
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def _check(sweep: Sweep) -> None:
    faults: list[Fault] = []

    def fault(what: str, remedy: str | None = None) -> None:
        faults.append(Fault.conflict(what, file=sweep.path, remedy=remedy))

    if not isinstance(sweep.seeds, int) and set(sweep.seeds) != set(sweep.variants):
        odd = sorted(set(sweep.seeds) ^ set(sweep.variants))
        raise InputError.mismatch(f"seeds and variants do not name the same: {', '.join(odd)}", file=sweep.path)
    order = list(sweep.variants)
    if sweep.reference is not None and sweep.reference not in order:
        like = nearest(sweep.reference, order)
        fault(f"reference: {sweep.reference} is no variant", f"did you mean {like}?" if like else None)
    for name, keys in sweep.variants.items():
        asks = ZERO_SHOT in keys
        if asks:
            read_query(name, {key: value for key, value in keys.items() if key != ONCE}, sweep.path)
        if not isinstance(keys.get(ONCE, False), bool):
            fault(f"variant {name}: once: {keys[ONCE]}", "true or false")
        for key in keys:
            if key in sweep.grid and not asks and not sweep.once(name):
                fault(f"{key} stands both in the grid and in variant {name}", "leave it to one of them")
        for value in (keys if asks else {**sweep.overrides, **keys}).values():
            if not _is_reference(value):
                continue
            other = _split_reference(value)[1]
            if other not in order[: order.index(name)]:
                fault(f"variant {name} needs {value}, which is no variant before it")
            elif sweep.once(name) and not sweep.once(other):
                fault(f"variant {name} is run once and needs {value}, which is run at every grid point")
            elif sweep.planned[other] < sweep.planned[name]:
                fault(f"variant {name} needs {value} at seeds that it is not run with", "give both as many seeds")
    for key in (*sweep.grid, *sweep.overrides, *(key for keys in sweep.variants.values() for key in keys)):
        if key == SEED:
            fault(f"{SEED} is set by the sweep", "use seeds:")
    if faults:
        raise InputError(faults)
    parse_overrides(sweep.scoring_words)
    _check_names(sweep)
    _check_configs(sweep)


def _check_names(sweep: Sweep) -> None:
    names: dict[str, Cell] = {}
    for cell in sweep.cells():
        other = names.setdefault(cell.name, cell)
        if other is not cell:
            raise InputError.duplicate(
                f"two cells would be called {cell.name}: {other.variant} {other.grid} and {cell.variant} {cell.grid}",
                file=sweep.path,
                remedy="give them names and values that differ in letters and digits",
            )


def _check_configs(sweep: Sweep) -> None:
    faults: list[Fault] = []
    for cell in sweep.cells():
        if cell.seed == 0:
            try:
                config = sweep.config(cell, Path("OUT"), Path("DATA"))
                kind = find_task(config.task)
                if cell.query is not None and not (kind.gives_encoder and kind.takes_text):
                    what = f"variant {cell.variant} asks {cell.query.run}, which is of task: {config.task}"
                    faults.append(Fault.unsupported(what, file=sweep.path, expected="a variant of task: pretrain"))
            except InputError as error:
                faults += [
                    Fault(f"{cell.variant} {cell.grid or ''}: {fault}", kind=fault.kind, file=sweep.path)
                    for fault in error.faults
                ]
    if faults:
        raise InputError(faults)


def _recipe_task(recipe: Path) -> str:
    """The task that a recipe names, or its protocol."""
    raw = read_yaml(find_recipe(recipe))
    raw = raw if isinstance(raw, dict) else {}
    named = raw.get("task")
    if named is None and raw.get("protocol") is not None:
        named = protocol_values(raw, str(recipe)).get("task")
    return str(named or "segment")


def _recipe_paths(recipe: Path, *, with_data: bool = False) -> dict[str, str]:
    """The paths that a recipe names, as it writes them; `with_data`: only those with $DATA, which are the sweep's."""
    raw = read_yaml(recipe) if recipe.is_file() else None
    paths: dict[str, str] = {}
    for key in PATH_KEYS:
        node: Any = raw
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, str) and (DATA in node or not with_data):
            paths[key] = node
    return paths


def _refuse_unknown(raw: Mapping[str, Any], cls: type, prefix: str, path: Path) -> None:
    known = [item.name for item in fields(cls) if item.name != "path"]
    faults = []
    for key in raw:
        if key not in known:
            like = nearest(str(key), known)
            remedy = f"did you mean {prefix}{like}?" if like else f"known keys: {', '.join(known)}"
            faults.append(Fault.unknown_key(f"unknown key {prefix}{key}", file=path, remedy=remedy))
    if faults:
        raise InputError(faults)


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and value.removeprefix(G2D_PREFIX).startswith("@")


def _split_reference(value: str) -> tuple[str, str]:
    """`@NAME` -> ("", NAME), `g2d:@NAME` -> ("g2d:", NAME)."""
    before, _, name = value.partition("@")
    return before, name


def _text(value: Any) -> str:
    """A value as `key=value` writes it, so that reading it gives the same value."""
    if isinstance(value, str):
        try:
            if parse_yaml(value) == value:
                return value
        except InputError:
            pass
    return json.dumps(value)
