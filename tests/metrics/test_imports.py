"""What is measured needs numpy and scipy alone."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import medvl.metrics


def test_metrics_import_no_torch() -> None:
    names = [f"medvl.metrics.{module.name}" for module in pkgutil.iter_modules(medvl.metrics.__path__)]
    program = (
        f"import sys, {', '.join(names)}; sys.exit(' '.join({{'torch', 'pandas', 'monai'}} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
