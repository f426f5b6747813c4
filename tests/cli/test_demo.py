"""The demo in its quick form: every verb of it runs, once, on the shipped data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from medvl.data.masks import read_mask


def test_quick_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "medvl", "demo", "--quick", "--out", str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "no leak between splits" in done.stdout + done.stderr
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "not a medical device" in page and "side" in page and "http://" not in page.replace("http://www.w3.org", "")
    (mask,) = (out / "prediction").glob("*__right-upper-zone.png")
    assert 0.005 < read_mask(mask).mean() < 0.15
    assert (out / "evaluation_shipped" / "summary.json").is_file() and (out / "run" / "model" / "card.md").is_file()
