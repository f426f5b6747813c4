"""What a run shows and keeps while it trains: progress bar, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from medvl.core.files import append_line, naming, whole_file, write_json, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from medvl.tasks.pretrain.panels import Panel
    from medvl.train.checkpoint import Progress as RunProgress

QUIET_EVERY_S = 30.0  # without a terminal a line is printed that often


class Monitor:
    """The log of one run folder. `enabled` is false on all ranks but the first."""

    def __init__(self, run: Path, *, enabled: bool = True) -> None:
        self.run, self.enabled = run, enabled
        self.state_path = run / "checkpoints" / "last" / "state.pt"
        self.console = Console(file=sys.stderr)
        self._start, self._before = time.monotonic(), 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = time.monotonic()
        self._first_step, self._num_steps, self._status = 0, 0, ""
        self._writer: SummaryWriter | None = None

    def elapsed_s(self) -> float:
        """Seconds of training, interrupted parts included."""
        return self._before + time.monotonic() - self._start

    @contextmanager
    def progress_bar(self, num_steps: int, progress: RunProgress) -> Iterator[None]:
        """A bar with the time left on a terminal; a line every half minute elsewhere."""
        self._before, self._start = progress.elapsed_s, time.monotonic()
        self._first_step, self._num_steps = progress.step, num_steps
        if not self.enabled:
            yield
            return
        from torch.utils.tensorboard import SummaryWriter

        kept = self._drop_lines_after(progress)
        purge_step = (progress.step if progress.batch else progress.step + 1) if progress.step else None
        self._writer = SummaryWriter(str(self.run / "tb"), purge_step=purge_step)
        for row in kept:
            if row["step"] == purge_step:
                self._add_scalars(row)
        columns = (
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        try:
            with bar:
                self._bar = bar
                self._task = bar.add_task("", total=num_steps, completed=progress.step)
                yield
        finally:
            self._bar = None
            with naming(self.run / "tb"):
                self._writer.close()

    def advance(self, progress: RunProgress) -> None:
        """One step is done."""
        if self._bar is None or self._task is None:
            return
        self._bar.update(self._task, completed=progress.step, description=self._status)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._last_line > QUIET_EVERY_S:
            done = progress.step - self._first_step
            left = (now - self._start) / max(done, 1) * (self._num_steps - progress.step)
            self.say(f"step {progress.step}/{self._num_steps} {self._status} time left {left / 60:.1f} min")
            self._last_line = now

    def train(
        self, progress: RunProgress, loss: float, parts: dict[str, float], lr: float, steps_per_epoch: int
    ) -> None:
        """Log the means of the training loss and of its parts since the last line."""
        self._status = f"loss {loss:.4f}" + (f" best val {progress.best:.4f}" if progress.best >= 0 else "")
        epoch = progress.epoch + progress.batch / steps_per_epoch
        self._log({"step": progress.step, "epoch": round(epoch, 4), "kind": "train", "loss": loss, "lr": lr, **parts})

    def validation(self, progress: RunProgress, values: dict[str, float], better: bool) -> None:
        """Log one validation."""
        row = {"step": progress.step, "epoch": progress.epoch, "kind": "val", **values, "best": better}
        self._log({**row, "elapsed_s": round(self.elapsed_s(), 1)})
        text = " ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.say(f"epoch {progress.epoch} step {progress.step}: val {text}{' *' if better else ''}")

    def panels(self, progress: RunProgress, panels: Mapping[str, Panel]) -> None:
        """Pictures of a validation: TensorBoard; of the last one also RUN/panels/NAME.png and panels.json (texts)."""
        if not self.enabled or not panels:
            return
        from PIL import Image

        folder = self.run / "panels"
        folder.mkdir(parents=True, exist_ok=True)
        for name, panel in panels.items():
            if self._writer is not None:
                self._writer.add_image(f"panels/{name}", panel.picture, progress.step, dataformats="HWC")
                self._writer.add_text(f"panels/{name}", panel.text, progress.step)
            with whole_file(folder / f"{name}.png", ".png") as temporary:
                Image.fromarray(panel.picture).save(temporary)
        rows = [{"id": name, "tiles": panel.tiles, "text": panel.text} for name, panel in panels.items()]
        write_json(folder / "panels.json", {"step": progress.step, "contains_report_text": True, "panels": rows})

    def log_task(self, progress: RunProgress, values: dict[str, float]) -> None:
        """Log what the task says of itself at an epoch's end (parts of its loss, quality of its pseudo labels)."""
        if values:
            self._log({"step": progress.step, "epoch": progress.epoch, "kind": "task", **values})

    def say(self, message: str) -> None:
        """A line for the person who watches."""
        if self.enabled:
            self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def _log(self, row: dict[str, Any]) -> None:
        if not self.enabled:
            return
        append_line(self.run / "metrics.jsonl", json.dumps(row))
        self._add_scalars(row)

    def _add_scalars(self, row: dict[str, Any]) -> None:
        if self._writer is not None:
            with naming(self.run / "tb"):
                for name, value in row.items():
                    if isinstance(value, float):
                        self._writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])

    def _drop_lines_after(self, progress: RunProgress) -> list[dict[str, Any]]:
        """A killed run may have logged past its last saved state, which is then done again. -> the rows that stay."""
        path = self.run / "metrics.jsonl"
        if not path.is_file():
            return []
        rows = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):  # of a killed process, or a full disk, half a line
                rows.append(json.loads(line))
        # Saved within an epoch: what ends the epoch is still to come, if only after the same step.
        last = {kind: progress.step - (kind != "train" and progress.batch > 0) for kind in ("train", "val", "task")}
        rows = [row for row in rows if isinstance(row, dict) and row["step"] <= last[row["kind"]]]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        return rows
