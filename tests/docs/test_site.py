"""The site builds without a warning or a network; its reference is whole; the migration page names real keys."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import medvl
from medvl.config import config_dict, make_config
from medvl.config.differences import flat
from medvl.config.overrides import apply_override
from medvl.core.task import all_tasks
from medvl.models.g2d import G2D
from medvl.models.registry import option_names

ROOT = Path(__file__).resolve().parents[2]
# A file that a page loads by itself; an <a> is a link that a reader follows.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|link(?! rel=\"canonical\"))\b[^>]*?\b(?:src|href)=\"((?:https?:)?//[^\"]*)"
)
STYLE = re.compile(r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')]*)")
NAMED = re.compile(r"(?<![\w/.])((?:recipes|benchmarks|docs|tests|src)/[\w/.-]+\.(?:py|md|yaml|json))\b")
OVERRIDE = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*=[^`]+)`")
HIDDEN_VERBS = {"classify", "ground", "detect"}  # spellings of earlier releases


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """docs/reference_pages.py as a module."""
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "docs" / "reference_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    html = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    assert len(html) > 30 and {"index.html", "cli.html", "config.html", "python.html"} <= {path.name for path in html}
    loaded = {path.name: LOADED.findall(text) for path, text in html.items() if LOADED.search(text)}
    assert not loaded and not any('class="mermaid"' in text for text in html.values())
    assert not [style for style in (tmp_path / "site").rglob("*.css") if STYLE.search(style.read_text("utf-8"))]
    python = next(text for path, text in html.items() if path.name == "python.html")
    assert all(f'id="{module}.{name}"' in python for name, module in medvl._PUBLIC.items())


def test_a_file_that_a_page_names_is_there() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    names = [(page.name, name) for page in pages for name in NAMED.findall(page.read_text(encoding="utf-8"))]
    absent = {name for _, name in names if not (ROOT / name).exists()}
    assert len(names) > 20 and absent == {"docs/COVIDx.md"}, "that one is of the repository COVID-Net"


def test_what_a_page_loads_is_seen() -> None:
    assert LOADED.findall('<script src="https://a/b.js"></script><link rel="stylesheet" href="//a/b.css">') == [
        "https://a/b.js",
        "//a/b.css",
    ]
    assert not LOADED.search('<a href="https://a"><link rel="canonical" href="https://a"><img src="a.png">')
    assert STYLE.search('@import "https://a/b.css"') and STYLE.search("url(//a/b.woff)")


def test_every_verb_stands_in_the_reference(pages: ModuleType) -> None:
    import typer.main

    from medvl.cli import app

    page = pages.cli_page()
    titles = re.findall(r"^## medvl ?(.*)$", page, re.MULTILINE)
    command: Any = typer.main.get_command(app)
    assert set(command.commands) - HIDDEN_VERBS <= set(titles) and {"data audit", "x sweep"} <= set(titles)
    assert not HIDDEN_VERBS & set(titles) and page.count("Usage: medvl") == len(titles)


def test_every_key_has_a_meaning(pages: ModuleType) -> None:
    rows = re.findall(
        r"^\| `([a-z0-9_.]+)` \| (.*) \| (`.*`) \| (.*) \|$",
        pages.config_page().partition("## Top level")[2],
        re.MULTILINE,
    )
    assert len(rows) > 120 and {"train.lr", "data.augment.scale", "pretrain.mask.smooth"} <= {row[0] for row in rows}
    assert not [key for key, _, _, meaning in rows if not meaning.strip()]
    values = {key: (kind, default) for key, kind, default, _ in rows}
    for task in all_tasks():
        keys = flat(config_dict(make_config({"task": task.name})))
        assert not [key for key in keys if not any(key == row or key.startswith(f"{row}.") for row in values)]
    assert values["train.lr"] == ("number 0 or more", "`0.001`") and values["data.resize"][1] == "`stretch`"


def migrated() -> list[tuple[str, str]]:
    """(task, override) of each key that the migration page names."""
    text = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    parts = {"segment": text.partition("## LViT")[2].partition("## G2D")[0], "pretrain": text.partition("## G2D")[2]}
    rows = [(task, row.replace("\\|", "/")) for task, part in parts.items() for row in part.splitlines()]
    return [(task, key) for task, row in rows if row.startswith("|") for key in OVERRIDE.findall(row.split("|")[2])]


@pytest.mark.parametrize(("task", "override"), migrated())
def test_a_key_of_the_migration_page_is_one(task: str, override: str) -> None:
    key, _, value = override.partition("=")
    if key in ("init", "protocol"):  # of a folder and of a preset of the reader's choice
        assert value in ("NAME", "runs/unet", "weights:FILE")
        return
    raw: dict[str, Any] = {"task": task, "text": {"encoder": "hf:FOLDER"}}
    apply_override(raw, override)
    config = make_config(raw)
    if key.startswith("model.options."):
        names = option_names("lvit") if task == "segment" else inspect.signature(G2D).parameters
        assert key.removeprefix("model.options.") in names
    section, _, name = key.partition(".")
    assert hasattr(getattr(config, section), name.partition(".")[0])


def test_the_migration_page_names_what_is_released() -> None:
    """The options of Config.py and of config.yaml that steer a training."""
    text = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    assert len(migrated()) > 50
    lvit = "seed cosineLR n_channels n_labels epochs img_size early_stopping_patience learning_rate batch_size"
    g2d = "img_model att_pool_head free_layers projection_size quantil num_pseudo_map batch_size max_epochs lr"
    assert all(re.search(rf"`[^`]*\b{name}\b", text) for name in (lvit + " " + g2d).split())
