"""What all pages share: the request, the template, and the facts that every record has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from medvl.config import load_config
from medvl.core.errors import InputError
from medvl.core.files import write_text
from medvl.core.plain_yaml import yaml_text
from medvl.core.task import find_task
from medvl.evaluation.record import EvaluationRecord
from medvl.evaluation.seen_images import seen_fact
from medvl.inference.model_folder import find_model, times_test_opened

PROBE_ROWS = 600
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What `medvl report` is asked for; what a page does not know is refused by `refuse`.

    Args:
        target: RUN or MODEL.
        manifest: default the one that the model was trained on.
        out: the HTML file; default RUN/report/SPLIT/report.html.
        include_text: False leaves every text of the manifest out.
        group_by: columns to tabulate by; default every further column with 2 to 64 short values.
        probe_rows: at most so many rows in the text sensitivity (a seeded choice, and the page says so); None for all.
        overrides: how to read the manifest, as in `medvl evaluate`.
    """

    target: str | Path
    manifest: Path | None = None
    split: str = "val"
    out: Path | None = None
    include_text: bool = True
    group_by: Sequence[str] = ()
    probe_rows: int | None = PROBE_ROWS
    threshold: float = DEFAULT_THRESHOLD
    overrides: Sequence[str] = ()
    device: str = "cpu"

    def refuse(self, names: Sequence[str], what: str, remedy: str) -> None:
        """InputError if any of these options was set for a page that does not know it."""
        defaults = {f.name: f.default for f in fields(self)}
        given = [name for name in names if getattr(self, name) != defaults[name] and getattr(self, name) != []]
        if given:
            raise InputError.conflict(f"{', '.join(given)} {what}", file=self.target, remedy=remedy)

    def write(self, folder: Path, template: str, context: Mapping[str, Any]) -> Path:
        """Write the page and return its path; `folder` of the results where no `out` is given."""
        out = self.out or folder / "report.html"
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, fill_template(template, context))
        return out


def make_report(target: str | Path, manifest: Path | None = None, **options: Any) -> tuple[Path, dict[str, Any]]:
    """Write the page of a RUN or MODEL, by its task, and return its path and the summary that it shows.

    `options`: see `PageRequest`.
    """
    place = run_folder(target) / "config.yaml"
    task = load_config(place).task if place.is_file() else "segment"  # of which no config.yaml is said there
    return find_task(task).report(PageRequest(target, manifest, **options))


def run_folder(target: str | Path) -> Path:
    """The RUN of a run or of its model, finished or not; a MODEL without its run is returned as it is."""
    folder = find_model(target) if str(target).startswith("medvl:") else Path(target)
    run = folder.parent
    return run if folder.name == "model" and (run / "config.yaml").is_file() else folder


def fill_template(name: str, context: Mapping[str, Any]) -> str:
    """A page of templates/ as text. Values are escaped; one that the template misses is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medvl.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render({**_EMPTY, **context})


# What a page may leave out.
_EMPTY = {
    "split": "",
    "lead": "",
    "has_images": False,
    "contains_text": False,
    "provenance": (),
    "command": "",
    "versions": "",
    "plan": "",
    "config": "",
}


def closing(record: EvaluationRecord) -> dict[str, Any]:
    """What every page of an evaluation ends with."""
    return {
        "provenance": provenance(record),
        "versions": versions_text(record.versions),
        "config": yaml_text(record.config) if record.config else "",
    }


def image_facts(target: str | Path, record: EvaluationRecord) -> list[tuple[str, Any]]:
    """The facts of a page whose cases are images."""
    left_out = record.extras["num_left_out"].items()
    return [
        ("data", record.manifest),
        ("split", f"{record.split}, {record.num_cases} images of {record.num_patients} patients"),
        ("left out", ", ".join(f"{num} {name.replace('_', ' ')}" for name, num in left_out if num) or "nothing"),
        ("started from", (record.config or {}).get("init") or "scratch"),
        ("test split opened", f"{times_test_opened(find_model(target))} time(s)"),
    ]


def provenance(record: EvaluationRecord) -> list[tuple[str, Any]]:
    """By what an evaluation can be repeated."""
    bootstrap, machine = record.bootstrap, record.machine
    facts: list[tuple[str, Any]] = [
        ("manifest hash", (record.manifest_hash or "")[:16]),
        ("split hash", (record.split_hash or "")[:16]),
    ]
    if record.model_hash:
        facts.append(("weights hash", record.model_hash[:16]))
    facts.append(("images it was trained on", seen_fact(record.seen_images)))
    if record.seed is not None and record.evaluation == "segment":
        facts.append(("training seed", record.seed))
    facts.append(("bootstrap", f"{bootstrap['draws']} draws by {bootstrap['unit']}, seed {bootstrap['seed']}"))
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    return [*facts, ("machine", f"{machine['processor']}, {machine['cores']} cores{gpu}")]


def versions_text(versions: Mapping[str, Any]) -> str:
    """Names and versions of what computed a record, in a line."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())
