"""The folder of a run: may it be used, who is in it, what a start that failed leaves."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medvl.config import Config, config_dict, load_config
from medvl.core.errors import InputError
from medvl.core.files import alone, remove_temporaries, restore_folder
from medvl.train.checkpoint import NOTHING_SAVED
from medvl.train.run_data import DATA, HASHES

LOCK = ".lock"
FIT = "fit"  # what `medvl fit` decided before the run: it stays, whatever is started
_STATE = Path("checkpoints") / "last" / "state.pt"
_KEPT = {"cache", HASHES, LOCK}  # of a start that failed: true whatever is started next
_OF_A_START = {"config.yaml", DATA, "plan.json", "metrics.jsonl", "tb", "panels", "semi", "checkpoints"}


def is_first_rank() -> bool:
    """Whether this process is the one that writes; the other ranks of a run on several devices are its children."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def open_run(config: Config | None, out: Path, resume: bool, dry_run: bool) -> Config:
    """The configuration to train with, once it is certain that `out` may be used. Nothing is written.

    Raises:
        InputError: no run to resume, another recipe, nothing saved; or (a new run) a folder that holds something.
    """
    stored = out / "config.yaml"
    if resume:
        if not stored.is_file():
            raise InputError.missing_file(
                "no run to resume",
                file=out,
                expected="a run folder with config.yaml",
                remedy="train anew with the recipe; a folder without config.yaml needs another --out",
            )
        stored_config = load_config(stored)
        if config is not None and config_dict(config) != config_dict(stored_config):
            raise InputError.conflict(
                "the recipe differs from the run's configuration", file=stored, remedy="resume without a recipe"
            )
        if not can_resume(out):
            done = f"the run is finished, its model is in {out / 'model'}" if (out / "model").is_dir() else None
            raise InputError.missing_file(
                "nothing to resume: no step is saved here", file=out / _STATE, remedy=done or NOTHING_SAVED
            )
        return stored_config
    if config is None:
        raise InputError.missing("no recipe", expected="medvl train RECIPE.yaml, or --resume --out RUN")
    if out.exists() and not out.is_dir():
        raise InputError.exists("a file, not a folder", file=out, remedy="choose another --out")
    if not dry_run and is_first_rank() and not _is_free(out):
        remedy = "choose another --out: it holds no run that could be resumed"
        if stored.is_file():
            remedy = "choose another --out, or --resume to continue that run"
        raise InputError.exists("the run folder exists", file=out, remedy=remedy)
    return config


def can_resume(out: Path) -> bool:
    """Whether a step is saved in the run folder."""
    return (out / _STATE).is_file()


def how_to_go_on(out: Path) -> str:
    """What to do after a run was interrupted, for the person who did it."""
    if can_resume(out):
        return f"to go on: medvl train --resume --out {shlex.quote(str(out))}"
    return "no step was saved: the same command starts again"


@contextmanager
def alone_in(out: Path, *, resume: bool) -> Iterator[None]:
    """Hold the run folder: no other process may train into it. Mends what a killed process left half done.

    Raises:
        InputError: another process holds it.
    """
    if not is_first_rank():
        yield
        return
    try:
        with alone(out / LOCK) as mine:
            if not mine:
                raise InputError.busy(
                    "another process is at this run", file=out, expected="one process a run folder",
                    remedy="wait for it, or stop it; then --resume",
                )  # fmt: skip
            if not resume and not _is_free(out):
                raise InputError.exists("the run folder exists", file=out, remedy="choose another --out")
            remove_temporaries(out)
            if resume:
                for folder in (out / "model", out / "checkpoints" / "best"):
                    restore_folder(folder)
            else:
                _clear(out, _OF_A_START)
            try:
                yield
            except BaseException:
                if not resume and not (out / "tb").exists():  # it ended before the first step
                    _clear(out, _OF_A_START | _KEPT)
                raise
    finally:
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _is_free(out: Path) -> bool:
    """Whether `out` is empty, missing, or holds no more than a start left that ended before a state was saved."""
    if not out.exists():
        return True
    names = {path.name for path in out.iterdir() if not path.name.endswith(".tmp")} - {FIT}
    if not names - _KEPT:
        return True
    if names - _KEPT - _OF_A_START or not (out / "config.yaml").is_file():
        return False
    if (out / _STATE).exists() or (out / "checkpoints" / "best").exists():
        return False
    try:
        load_config(out / "config.yaml")
    except InputError:
        return False
    return True


def _clear(out: Path, names: set[str]) -> None:
    for name in sorted(names):
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
