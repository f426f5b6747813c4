"""Run the open cells of a sweep: train or resume, score, write one result file per cell."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medvl.config import Config, config_dict, load_config, make_config
from medvl.config.differences import MACHINE_KEYS, PATH_KEYS, differences, differences_text
from medvl.core.errors import InputError, nearest
from medvl.core.files import alone, write_json
from medvl.evaluation.model_inputs import parse_overrides
from medvl.experiments.sweep import Cell, Sweep, load_sweep
from medvl.experiments.sweep_score import score_zero_shot, scorer_of
from medvl.experiments.sweep_table import read_result, write_table

FEATURES = ".features"  # in the folder of a sweep: features of frozen encoders, which its cells share
POLL_S = 3.0  # between two looks at what another process is at


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a cell stands: `done` (its result file exists) or `open`; with what is left to do, or what went wrong."""

    cell: Cell
    state: str
    note: str = ""
    error: str = ""
    waits: bool = False  # for a run that another process is at


def run_sweep(
    path: Path,
    out: Path,
    *,
    data: Path | None = None,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    dry_run: bool = False,
) -> list[Outcome]:
    """Run every open cell of a sweep file and say of each where it stands at the end.

    A cell that has its run and its result file (`out`/results) is not run again. When every cell is done, `out` gets
    NAME.json and NAME.md (of the sweep), see `sweep_table`. An unfinished run continues, a finished one is only scored.
    A cell that fails on its input (`Outcome.error`) does not keep the others from running. Several processes may work
    at the same sweep: a cell that another one is at is left to it, and one that needs its run waits for it.

    Args:
        out: one run folder per cell.
        data: the folder that `$DATA` in the sweep or its recipes stands for.
        only: names of variants; the others are left out.
        overrides: `key=value` for every cell. What changes more than how and where a run is computed is another
            experiment, and needs another `out`.
        dry_run: nothing is run or written.
    """
    sweep = load_sweep(path)
    unknown = [name for name in only if name not in sweep.variants]
    if unknown:
        like = nearest(unknown[0], sweep.variants)
        remedy = f"did you mean {like}?" if like else None
        raise InputError.unknown(
            f"no variant {unknown[0]}", file=path, expected=", ".join(sweep.variants), remedy=remedy
        )
    if data is not None and not data.is_dir():
        raise InputError.missing_file(
            "no such folder", file=data, expected="the folder that holds the data sets (--data)"
        )
    results = out / "results"
    work = _Work(sweep, out, results, data, tuple(overrides))
    cells = [cell for cell in sweep.cells() if not only or cell.variant in only]
    if dry_run:
        return [work.standing(cell) for cell in cells]
    for cell in cells:  # a fault of the sweep or of an override is found before the first run
        if not work.result(cell).exists():
            work.config(cell)
            sweep.query(cell, data)
            sweep.scoring_manifest(data)
    results.mkdir(parents=True, exist_ok=True)
    was_done = all(work.is_done(cell) for cell in sweep.cells())
    outcomes: dict[str, Outcome] = {}
    while True:
        for number, cell in enumerate(cells, 1):
            if cell.name not in outcomes or outcomes[cell.name].waits:
                outcomes[cell.name] = work.run(cell, f"[{number}/{len(cells)}] {cell.name}")
        if not any(outcome.waits for outcome in outcomes.values()):
            break
        time.sleep(POLL_S)
    has_table = was_done and (out / f"{sweep.path.stem}.json").exists()
    if not has_table and all(work.is_done(cell) for cell in sweep.cells()):
        try:
            write_table(sweep, out, data)
            _say(f"{out / sweep.path.stem}.md written")
        except InputError as error:
            _say(f"no table: {error}")
    return [outcomes[cell.name] for cell in cells]


def as_table(outcomes: Sequence[Outcome]) -> str:
    """A line per cell: state, name, what is left to do."""
    width = max(len(outcome.cell.name) for outcome in outcomes)
    lines = []
    for outcome in outcomes:
        note = f"FAILED: {outcome.error}" if outcome.error else outcome.note
        lines.append(f"{outcome.state}  {outcome.cell.name:<{width}}  {note}".rstrip())
    num_done = sum(outcome.state == "done" for outcome in outcomes)
    return "\n".join([*lines, f"{num_done} of {len(outcomes)} cells done"])


@dataclass(frozen=True, slots=True)
class _Work:
    """A sweep, its folders and the words of the command line."""

    sweep: Sweep
    out: Path
    results: Path
    data: Path | None
    words: tuple[str, ...]

    def result(self, cell: Cell) -> Path:
        return self.results / f"{cell.name}.json"

    def is_done(self, cell: Cell) -> bool:
        """Whether its result is here, and the run that it is of."""
        return self.result(cell).exists() and (cell.query is not None or _finished(self.out / cell.name))

    def config(self, cell: Cell) -> Config:
        config = self.sweep.config(cell, self.out, self.data, self.words)
        if not scorer_of(config).keeps_features or config.classify.cache_dir is not None:
            return config
        folder = str((self.out / FEATURES).resolve())
        return config.with_section("classify", replace(config.classify, cache_dir=folder))

    def standing(self, cell: Cell) -> Outcome:
        """Where a cell stands, without doing anything."""
        run = self.out / cell.name
        if self.is_done(cell):
            try:
                stored = read_result(self.result(cell))
            except InputError as error:
                return Outcome(cell, "open", error=str(error))
            return Outcome(cell, "done", self._made_otherwise(cell, stored))
        if cell.query is not None:
            return Outcome(cell, "open", f"to ask @{self.sweep.needs(cell)[0].variant}")
        if _finished(run):
            return Outcome(cell, "open", "to score")
        return Outcome(cell, "open", "to resume" if _state(run).exists() else "")

    def run(self, cell: Cell, label: str) -> Outcome:
        """Do what is left to do."""
        standing = self.standing(cell)
        if standing.state == "done":
            if standing.note:
                _say(f"{label}: done, but {standing.note}")
            return standing
        if standing.error:
            _say(f"{label}: error: {standing.error}")
            return standing
        if (other := self._awaited(cell)) is not None:
            return Outcome(cell, "open", f"waits for @{other.variant}, which another process is at", waits=True)
        with alone(self.out / ".locks" / cell.name) as mine:
            if not mine or self.is_done(cell):
                return Outcome(cell, "open", "another process is at it") if not mine else self.standing(cell)
            _say(f"{label}: {standing.note or 'to run'}")
            try:
                self._train(cell)
                write_json(self.result(cell), self._score(cell))
            except InputError as error:
                _say(f"{label}: error: {error}")
                return Outcome(cell, "open", error=str(error))
        _say(f"{label}: {self.result(cell)} written")
        return Outcome(cell, "done")

    def _awaited(self, cell: Cell) -> Cell | None:
        """A run that another process is at and that this cell, or a run that it needs, starts from."""
        for other in self.sweep.needs(cell):
            if _finished(self.out / other.name):
                continue
            with alone(self.out / ".locks" / other.name) as mine:
                if not mine:
                    return other
            if (further := self._awaited(other)) is not None:
                return further
        return None

    def _train(self, cell: Cell) -> None:
        from medvl.train.run import train

        config, run = self.config(cell), self.out / cell.name
        for other in self.sweep.needs(cell):
            if not _finished(self.out / other.name):
                raise InputError.missing(
                    f"{cell.name} needs the run @{other.variant}, which is not finished",
                    file=self.out / other.name,
                    remedy="run that variant first",
                )
        if cell.query is not None:
            return
        if (run / "config.yaml").is_file():
            changed = differences(config_dict(load_config(run / "config.yaml")), config_dict(config))
            if changed:
                raise InputError.exists(
                    f"the run folder holds a run of other settings ({differences_text(changed)})",
                    file=run,
                    remedy="choose another --out, or remove that folder",
                )
        self._check_scoring(config)
        if _finished(run):
            return
        if _state(run).exists():
            train(None, run, resume=True, command=self.sweep.command)
            return
        if (run / "config.yaml").is_file():  # stopped before anything was saved: nothing is lost
            shutil.rmtree(run)
        train(config, run, command=self.sweep.command)

    def _check_scoring(self, config: Config) -> None:
        """That the split and the columns to score by are there is known before hours of training."""
        from medvl.evaluation.case_metrics import check_extra_columns
        from medvl.train.run import open_manifest

        scorer = scorer_of(config)
        if not scorer.evaluates:
            return
        plan, tree = self.sweep.evaluate, config_dict(config)
        read = make_config({**tree, "data": {**tree["data"], **parse_overrides(self.sweep.scoring_words)}})
        manifest = open_manifest(read, self.sweep.scoring_manifest(self.data))
        check_extra_columns(manifest, plan.split, plan.rows_by if scorer.groups_rows else ())

    def _score(self, cell: Cell) -> dict[str, Any]:
        """The content of a result file: the summary of the evaluation, which cell it is, and the rows of its table."""
        run = self.out / cell.name
        paths = self.sweep.written_paths(cell)
        query, scorer = self.sweep.query(cell, self.data), scorer_of(self.config(cell))
        manifest = self.sweep.evaluate.manifest if scorer.evaluates else None
        if query is not None:
            scored = score_zero_shot(query, self.out / self.sweep.needs(cell)[0].name, run)
            assert cell.query is not None
            manifest = cell.query.manifest  # as the sweep writes it
        else:
            scored = scorer.score(run, self.sweep, self.sweep.scoring_manifest(self.data))
        config: dict[str, Any] = scored["config"]
        for key in PATH_KEYS:
            section, _, leaf = key.rpartition(".")
            place = config.get(section, {}) if section else config
            if place.get(leaf) is not None:
                place[leaf] = paths.get(key, place[leaf])
        content = {
            **scored,
            "manifest": manifest or config["data"]["manifest"],
            "variant": cell.variant,
            "grid_point": cell.grid,  # `grid` is the summary's: the pixel grid that masks were scored on
            "seed": cell.seed,
            "recipe": cell.recipe,
            "overrides": [*cell.overrides, *self.words],
            "command": self.sweep.command,
        }
        if cell.query is not None:
            content["asked"] = asdict(cell.query)
        roots = {Path.home(): "~", Path.cwd(): ".", self.sweep.path.parent: ".", self.out: "$OUT"}
        if self.data is not None:
            roots[self.data] = "$DATA"
        cleaned = without_machine_paths(content, roots)
        assert isinstance(cleaned, dict)
        return cleaned

    def _made_otherwise(self, cell: Cell, stored: Mapping[str, Any]) -> str:
        """What differs between the settings of a result file and those that the sweep has now."""
        config = config_dict(self.sweep.config(cell, self.out, self.data or Path("DATA"), self.words))
        without_lv = config.get("semi", {}).get("lv_bank") == "none"
        idle = {"semi.lv_alpha", "semi.lv_similarity"} if without_lv else set()  # settings of what is switched off
        changed = differences(stored.get("config") or {}, config, {*MACHINE_KEYS, *PATH_KEYS, *idle})
        if cell.query is not None:
            changed |= differences(stored.get("asked") or {}, asdict(cell.query))
        return (
            f"made with other settings ({differences_text(changed)}): remove the file to run it again"
            if changed
            else ""
        )


def without_machine_paths(value: Any, roots: Mapping[Path, str]) -> Any:
    """The same JSON value, where the folders `roots` are replaced by their names and other absolute paths by their
    last part."""
    if isinstance(value, dict):
        return {key: without_machine_paths(item, roots) for key, item in value.items()}
    if isinstance(value, list):
        return [without_machine_paths(item, roots) for item in value]
    if not isinstance(value, str):
        return value
    for root in sorted(roots, key=lambda path: len(str(path.resolve())), reverse=True):
        value = re.sub(re.escape(str(root.resolve())) + r"(?![\w.-])", roots[root], value)
    before, mark, path = value.rpartition("=") if "=/" in value else value.rpartition("hf:")  # key=/a/b, hf:/a/b
    return f"{before}{mark}{Path(path).name}" if Path(path).is_absolute() else value





def _finished(run: Path) -> bool:
    return (run / "model" / "format_version").is_file()


def _state(run: Path) -> Path:
    return run / "checkpoints" / "last" / "state.pt"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
