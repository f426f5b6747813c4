"""What stops a run and what it leaves: kills at chosen points, lost data, broken numbers, damaged states."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from faults import refused
from lightning_fabric import Fabric
from PIL import Image as PILImage
from runs import assert_same, logged
from safetensors.torch import load_file, save_file
from torch import nn

from medvl.cli import main
from medvl.config import load_config
from medvl.core import errors
from medvl.core.errors import DivergedError
from medvl.data import hashes
from medvl.data.hashes import file_hash
from medvl.data.packing import pack_manifests
from medvl.data.records import load_manifest
from medvl.inference.model_folder import load_model, save_model
from medvl.tasks.segment.learner import SegmentLearner
from medvl.train import loop
from medvl.train import run as run_module
from medvl.train.checkpoint import load_state
from medvl.train.finite import FiniteWatch
from medvl.train.run import open_manifest, train
from medvl.train.run_data import check_data, describe_data
from medvl.train.run_folder import alone_in, open_run
from medvl.train.stopping import Stopped, stop_after_step, stop_at_once

FEW = ["train.epochs=2", "train.max_steps=3", "train.choose_by=loss"]  # two steps an epoch: it ends in mid-epoch
KILL = "import os, signal; from medvl.train import loop, run as run_module\n"


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program catches it."""


def model_bytes(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def data(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny set with its recipe; nobody else changes it."""
    folder = tmp_path_factory.mktemp("own") / "data"
    shutil.copytree(tiny_recipe.parent, folder)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    run = train(load_config(data / "recipe.yaml", FEW), tmp_path_factory.mktemp("runs") / "whole")
    assert json.loads((run / "model/card.json").read_text())["epoch"] == 2  # the last validation chose the model
    return run


def keep_plan(patch: pytest.MonkeyPatch, run: Path) -> None:
    """The plan of another run, so that no steps are timed: that takes most of a tiny run."""
    plan = json.loads((run / "plan.json").read_text())
    patch.setattr(run_module, "make_plan", lambda *args: plan)


def interrupt(patch: pytest.MonkeyPatch, step: int, number: int, *, num_timed: int = 3) -> None:
    """The process gets a signal within a training step; `num_timed` run on a copy first, for the plan."""
    original, calls = SegmentLearner.training_step, [0]

    def interrupted(self: SegmentLearner, *args: object) -> dict[str, torch.Tensor]:
        calls[0] += 1
        if calls[0] == num_timed + step:
            os.kill(os.getpid(), number)
        return original(self, *args)  # type: ignore[arg-type]

    patch.setattr(SegmentLearner, "training_step", interrupted)


def killed(*args: object, **more: object) -> object:
    raise Killed


def test_one_run_stopped_at_each_point_ends_as_the_undisturbed_one(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Killed with the first best model and before its epoch's save, Ctrl-C in the last step, killed in the last
    validation and before the model is published."""
    config, run = load_config(data / "recipe.yaml", FEW), tmp_path / "a run"
    state = run / "checkpoints/last/state.pt"
    keep_plan(monkeypatch, whole)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Monitor, "validation", killed)
        with pytest.raises(Killed):
            train(config, run)
    assert (run / "checkpoints/best").is_dir()
    progress, _, _ = load_state(state)
    assert (progress.step, progress.epoch, progress.batch) == (2, 0, 2)

    with monkeypatch.context() as patch:
        for name in ("_holder", "_printed"):  # of `hold_warnings`, for the whole process
            patch.setattr(errors, name, getattr(errors, name))
        patch.setattr(sys, "argv", ["medvl", "train", "--resume", "--out", str(run)])
        interrupt(patch, 1, signal.SIGINT, num_timed=0)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        lines = capfd.readouterr().err
    assert ended.value.code == 128 + signal.SIGINT
    assert f"medvl train --resume --out '{run}'" in lines and "Traceback" not in lines
    progress, _, _ = load_state(state)
    assert (progress.step, progress.epoch, progress.batch) == (3, 1, 1)

    validate = loop.validate

    def killed_after_validation(*args: object) -> object:
        validate(*args)  # type: ignore[arg-type]
        raise Killed

    for place, name, stop in ((loop, "validate", killed_after_validation), (run_module.shutil, "copytree", killed)):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, stop)
            with pytest.raises(Killed):
                train(None, run, resume=True)
    assert not (run / "model").exists()
    train(None, run, resume=True)
    assert model_bytes(run) == model_bytes(whole)
    assert logged(run) == logged(whole)
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]
    assert_same(run, whole)  # trained weights, and their average


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_for_the_end_of_the_step(number: int, request: pytest.FixtureRequest) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup, which ignores SIGHUP
    request.addfinalizer(lambda: signal.signal(number, before))
    with stop_after_step() as stopped:
        assert stopped() == 0
        os.kill(os.getpid(), number)
        assert stopped() == number
    assert Stopped(number).exit_code == 128 + number
    if number != signal.SIGINT:
        with pytest.raises(Stopped), stop_at_once():
            os.kill(os.getpid(), number)


def test_a_signal_that_the_caller_ignores_stays_ignored(request: pytest.FixtureRequest) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, before))
    with stop_after_step() as stopped:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stopped() == 0


@pytest.mark.parametrize("kind", ["loss", "gradients", "weights", "average"])
def test_what_is_not_finite_is_named(kind: str) -> None:
    module, average = nn.Linear(2, 2), nn.Linear(2, 2)
    watch = FiniteWatch(Fabric(accelerator="cpu"), module, average)
    one, inf = torch.tensor(1.0), torch.tensor(float("inf"))
    watch.add(4, one, one, ("a", "b"))
    watch.check()
    watch.add(5, one, one, ("c", "d"))
    watch.add(6, inf if kind == "loss" else one, inf if kind == "gradients" else None, ("e", "f"))
    watch.add(7, one, None, ("g",))
    if kind != "loss":  # gradients that are not finite are a fault where they reach the weights
        with torch.no_grad():
            (average if kind == "average" else module).bias[0] = float("nan")
    with pytest.raises(DivergedError) as caught:
        watch.check()
    ids = "c, d, e, f, g" if kind in ("weights", "average") else "e, f;"
    assert ids in str(caught.value) and "a, b" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_loss_that_is_not_finite_stops_the_run(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = SegmentLearner.backward, []

    def broken(self: SegmentLearner, batch: object, module: object, backward: object) -> dict[str, torch.Tensor]:
        losses = original(self, batch, module, backward)  # type: ignore[arg-type]
        seen.append(batch.ids)  # type: ignore[attr-defined]
        return {**losses, "loss": losses["loss"] * float("nan")} if len(seen) == 2 else losses

    keep_plan(monkeypatch, whole)
    monkeypatch.setattr(SegmentLearner, "backward", broken)
    with pytest.raises(DivergedError) as caught:
        train(load_config(data / "recipe.yaml", ["train.epochs=2", "train.ema_decay=0"]), tmp_path / "run")
    assert all(ident in str(caught.value) for ident in seen[1]) and "loss of step 2" in str(caught.value)
    assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run/checkpoints/best").exists()
    assert not (tmp_path / "run/checkpoints/last/state.pt").exists()


def test_a_run_is_not_resumed_on_other_data_unseen(whole: Path, data: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    config, manifest = load_config(copy / "recipe.yaml", FEW), copy / "manifest.csv"

    def check(*, accept: bool = False) -> None:
        check_data(open_manifest(config), config, run, accept=accept)

    check()  # moved, and the same
    rows, kept = manifest.read_text(), (copy / "i3.png").stat()
    pixels = np.asarray(PILImage.open(copy / "i3.png")).copy()
    pixels[0, 0] ^= 1
    PILImage.fromarray(pixels).save(copy / "i3.png")
    os.utime(copy / "i3.png", ns=(kept.st_atime_ns, kept.st_mtime_ns))  # times decide nothing
    with refused("mismatch", naming="i3.png"):
        check()
    shutil.copy(data / "i3.png", copy / "i3.png")
    check()
    shutil.copy(copy / "m4.png", copy / "m3.png")
    with refused("mismatch", naming="m3.png"):
        check()
    shutil.copy(data / "m3.png", copy / "m3.png")
    manifest.write_text(rows.replace("i0.png,the left lung", "i0.png,a left lung"))
    with refused("mismatch"):
        check()
    head, *lines = rows.splitlines(keepends=True)
    manifest.write_text("".join([head, *reversed(lines)]))
    with refused("mismatch"):
        check()
    manifest.write_text(rows.replace(",p15,test,", ",p15,train,"))
    with refused("mismatch"):
        check()
    check(accept=True)
    check()  # what was accepted is now the run's own
    assert len(json.loads((run / "data.json").read_text())["changes"]) == 1


def test_a_table_in_a_pack_is_part_of_the_data(data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (data / "more.csv").write_text(f"image,patient,{name}\ni0.png,p1,x\n")
        pack_manifests([data / "manifest.csv", data / "more.csv"], tmp_path / f"{name}.tar")
    found = []
    for name in ("a", "b", "gone"):
        words = [f"data.manifest={tmp_path / 'a.tar'}", f"data.also_labelled={tmp_path / name}.tar/more.csv"]
        config = load_config(data / "recipe.yaml", [*FEW, *words])
        found.append(describe_data(open_manifest(config), config, tmp_path)["also_labelled"])
    assert found[0] != found[1] == file_hash(data / "more.csv") and found[2] is None


def test_resume_compares_the_data_and_hashes_them_once(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_read, file_hash = [0], hashes.file_hash

    def counted(path: Path) -> str:
        num_read[0] += 1
        return file_hash(path)

    keep_plan(monkeypatch, whole)
    monkeypatch.setattr(hashes, "file_hash", counted)
    monkeypatch.setattr(hashes, "MARGIN_NS", 0)
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "hashes.jsonl").unlink()
    train(None, run, resume=True)
    assert num_read == [32]
    config = load_config(run / "config.yaml")
    check_data(open_manifest(config), config, run, accept=False)
    assert num_read == [32]
    kept = json.loads((run / "data.json").read_text())
    assert kept["manifest_hash"] == load_manifest(data / "manifest.csv").content_hash()
    (run / "data.json").write_text(json.dumps(kept | {"files": {}}))
    with refused("mismatch"):
        train(None, run, resume=True)


def test_a_saved_state_runs_no_code_and_has_a_checksum(whole: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "state.pt"
    state = torch.load(whole / "checkpoints/last/state.pt", weights_only=True)
    torch.save({**state, "evil": Evil()}, path)
    with refused("unsupported"):
        load_state(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with refused("unsupported"):
        load_state(path)
    assert not (tmp_path / "ran").exists()
    name = next(name for name, value in state["parts"]["module"].items() if value.is_floating_point())
    state["parts"]["module"][name].view(-1)[0] += 1
    torch.save(state, path)
    with refused("damaged"):
        load_state(path)
    torch.save({"format": "medvl-state/1", "progress": {}}, path)
    with refused("unsupported", naming="medvl-state/1"):
        load_state(path)
    content = (whole / "checkpoints/last/state.pt").read_bytes()
    for cut in (0, 100, 5000, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:cut])
        with refused("damaged"):
            load_state(path)


def test_a_full_disk_leaves_the_last_state(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    path = run / "checkpoints/last/state.pt"
    progress, parts, _ = load_state(path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            loop.save_state(path, progress, parts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["state.pt"]


def test_a_full_disk_says_how_to_go_on(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "state.pt")

    for name in ("_holder", "_printed"):  # of `hold_warnings`, for the whole process
        monkeypatch.setattr(errors, name, getattr(errors, name))
    monkeypatch.setattr(run_module, "_run", full)
    monkeypatch.setattr(sys, "argv", ["medvl", "train", "--resume", "--out", str(whole)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and f"medvl train --resume --out {whole}" in capfd.readouterr().err


def test_one_process_a_run(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    program = "import sys; from pathlib import Path; from medvl.core.files import alone\n"
    program += "with alone(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with refused("busy"):
            train(None, run, resume=True)
        other.kill()
    with alone_in(run, resume=True):  # the lock of a dead process holds nothing
        pass


def test_a_start_that_fails_leaves_nothing_in_the_way(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = load_config(data / "recipe.yaml", FEW), tmp_path / "run"

    def prepared(config: object, manifest: object, fabric: object, out: Path) -> object:
        (out / "cache").mkdir()  # where the features of texts are kept
        (out / "cache" / "x").touch()
        raise Killed

    monkeypatch.setattr(run_module, "prepare", prepared)
    with pytest.raises(Killed):
        train(config, run)
    assert not run.exists()


@pytest.mark.soak
def test_a_dry_run_and_a_failed_start_keep_no_features(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = load_config(data / "recipe.yaml", [*FEW, "text.encoder=minilm"]), tmp_path / "run"
    train(config, run, dry_run=True)
    assert not run.exists()
    monkeypatch.setattr(run_module, "describe_data", killed)
    with pytest.raises(Killed):
        train(config, run)
    assert not run.exists()


@pytest.mark.parametrize("names", ["cache/x", "cache/x config.yaml", "config.yaml data.json tb/x metrics.jsonl .lock"])
def test_what_a_killed_start_left_is_taken_over(data: Path, tmp_path: Path, names: str) -> None:
    config, run = load_config(data / "recipe.yaml", FEW), tmp_path / "run"
    for name in names.split():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("")
    if "config.yaml" in names:
        run_module.save_config(config, run / "config.yaml")
    assert open_run(config, run, False, False) == config
    with alone_in(run, resume=False):
        assert {path.name for path in run.iterdir()} <= {"cache", ".lock"}
    (run / "notes.txt").write_text("mine")
    with refused("exists"):
        open_run(config, run, False, False)
    assert (run / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["nan", "integer", "nan in text"])
def test_a_model_of_broken_weights_is_refused(whole: Path, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(whole / "model", tmp_path / "model"))
    card = json.loads((folder / "card.json").read_text())
    del card["files"]  # as older versions wrote it
    (folder / "card.json").write_text(json.dumps(card))
    path = folder / ("text/encoder.safetensors" if kind == "nan in text" else "model.safetensors")
    weights = load_file(path)
    name = next(name for name, value in weights.items() if value.is_floating_point() and value.ndim > 1)
    weights[name] = weights[name].int() if kind == "integer" else weights[name] * float("nan")
    save_file(weights, path)
    with refused("malformed" if kind == "integer" else "not_finite", file=path):
        load_model(folder)


def test_parts_of_two_models_are_refused(whole: Path, tmp_path: Path) -> None:
    module, encoder, config, card = load_model(whole)
    with torch.no_grad():
        for weights in module.parameters():
            weights += 1
    classes = tuple(card.pop("classes"))
    save_model(tmp_path / "other", config, classes, module, encoder, card)
    load_model(tmp_path / "other")
    for name in ("text", "model.safetensors"):
        folder = Path(shutil.copytree(whole / "model", tmp_path / name))
        if name == "text":
            shutil.rmtree(folder / name)
            shutil.copytree(tmp_path / "other" / name, folder / name)
        else:
            shutil.copy(tmp_path / "other" / name, folder / name)
        with refused("damaged", naming=name):
            load_model(folder)


@pytest.mark.soak
def test_twenty_kills_give_the_same_bits(whole: Path, data: Path, tmp_path: Path) -> None:
    """SIGKILL, at random moments and at chosen ones, the final window among them; each run is resumed to its end."""
    chosen = [
        "save = loop.save_state\ndef killed(path, progress, parts):\n    save(path, progress, parts)\n"
        f"    if progress.step == {step} and progress.num_saves == {number}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "loop.save_state = killed\n"
        for step, number in ((1, 1), (2, 2), (2, 3), (3, 4), (3, 5))
    ]
    chosen += [
        "validate = loop.validate\ndef killed(*args):\n    values = validate(*args)\n"
        "    if not hasattr(loop, 'seen'): loop.seen = True; return values\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\nloop.validate = killed\n",
        "def killed(*args, **more): os.kill(os.getpid(), signal.SIGKILL)\nrun_module.shutil.copytree = killed\n",
    ]
    chosen += [
        "from medvl.core import files\nreplace, count = os.replace, [0]\n"
        "def killed(a, b):\n"
        "    count[0] += str(b).endswith(('best', 'model', '.older'))\n"
        f"    if count[0] == {number}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(a, b)\nfiles.os.replace = killed\n"
        for number in (1, 2, 3)
    ]
    random, num_killed = Random(0), 0
    for number in range(20):
        run = tmp_path / str(number)
        patch = chosen[number] if number < len(chosen) else ""
        program = f"{KILL}{patch}from medvl.cli import main\nmain()\n"
        words = ["train", str(data / "recipe.yaml"), *FEW, "train.save_every_s=0.000001", "--out", str(run)]
        process = subprocess.Popen([sys.executable, "-c", program, *words], stderr=subprocess.DEVNULL)
        if not patch:  # at any moment from its first write to its end
            while not (run / "tb").exists() and process.poll() is None:
                time.sleep(0.002)
            time.sleep(random.uniform(0, 1.0))
            process.kill()
        num_killed += process.wait() == -signal.SIGKILL
        if (run / "checkpoints/last/state.pt").is_file():
            train(None, run, resume=True)
        else:
            train(load_config(data / "recipe.yaml", [*FEW, "train.save_every_s=0.000001"]), run)
        assert model_bytes(run) == model_bytes(whole), number
        assert logged(run) == logged(whole), number
        assert not [path for path in run.rglob(".*") if path.name != ".lock"], number
    print(f"{num_killed} of 20 were killed")
    assert num_killed >= len(chosen)
