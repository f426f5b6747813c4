"""medvl convert: round trip, grey to colour, exit codes, what it refuses. Run as a function through typer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import typer
from faults import refused
from typer.testing import CliRunner

from medvl.cli.convert import convert
from medvl.core.errors import InputError
from medvl.models.encoder_unet import EncoderUNet
from medvl.models.encoders.registry import build_image_encoder
from medvl.weights.external import load_encoder, read_tensors, write_tensors

app = typer.Typer()
app.command("convert")(convert)


@pytest.fixture()
def model(tmp_path: Path) -> tuple[EncoderUNet, Path]:
    """A MODEL folder with a U-Net on a grey ResNet, trained for one batch's statistics."""
    torch.manual_seed(0)
    network = EncoderUNet("resnet18_nano", in_channels=1)
    with torch.no_grad():
        network(torch.randn(2, 1, 64, 64))
    folder = tmp_path / "model"
    folder.mkdir()
    write_tensors(folder / "model.safetensors", network.state_dict())
    (folder / "format_version").write_text("medvl-model/1\n")
    return network, folder


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(("to", "prefix"), [("torchvision", ""), ("segmentation_models_pytorch", "encoder.")])
def test_round_trip(model: tuple[EncoderUNet, Path], tmp_path: Path, suffix: str, to: str, prefix: str) -> None:
    """Out of a model and back into an encoder: the same maps, for grey and, fed three times, for colour."""
    network, folder = model
    out = tmp_path / f"encoder{suffix}"
    done = CliRunner().invoke(app, [str(folder), "--out", str(out), "--to", to, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["layout"] == "medvl" and found["network"].startswith("resnet18 of base width 16")
    assert found["matched"] == list(network.encoder.state_dict())
    assert found["fed"] is None  # the folder has no configuration
    assert found["missing"] == found["unexpected"] == [] and found["reshaped"] == ["conv1.weight"]
    written = read_tensors(out)
    assert set(written) == {prefix + name for name in network.encoder.state_dict()}
    assert written[f"{prefix}conv1.weight"].shape == (16, 3, 7, 7)
    grey, colour = (build_image_encoder("resnet18_nano", in_channels=channels).eval() for channels in (1, 3))
    load_encoder(grey, out)
    load_encoder(colour, out)
    image = torch.randn(1, 1, 64, 32)
    with torch.no_grad():
        expected = network.encoder.eval()(image)
        for maps in (grey(image), colour(image.expand(-1, 3, -1, -1))):
            for a, b in zip(maps, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_model_that_ships_with_the_package(
    model: tuple[EncoderUNet, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of today's has a ResNet: one is put where they are."""
    network, folder = model
    (tmp_path / "assets").mkdir()
    (folder / "config.yaml").write_text(
        "task: segment\ndata: {manifest: m.csv, image_size: [96, 64], normalize: none, in_channels: 1}\n"
        "text: {encoder: none}\nmodel: {name: encoder_unet, size: nano}\n"
    )
    folder.rename(tmp_path / "assets" / "own")
    monkeypatch.setattr("medvl.inference.model_folder.__file__", str(tmp_path / "inference" / "model_folder.py"))
    done = CliRunner().invoke(app, ["medvl:own", "--out", str(tmp_path / "encoder.pth"), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["matched"] == list(network.encoder.state_dict()) and found["fed"].startswith("96 x 64 px")


def test_text_report_and_exit_code_of_a_part(tmp_path: Path) -> None:
    weights = build_image_encoder("resnet18_nano", in_channels=3).state_dict()
    part = {k: v for k, v in weights.items() if not k.startswith("layer4.1.bn2.")}
    torch.save({**part, "fc.weight": torch.zeros(2, 128)}, tmp_path / "part.pth")
    done = CliRunner().invoke(app, [str(tmp_path / "part.pth"), "--out", str(tmp_path / "out.pth")])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    names = " ".join(f"layer4.1.bn2.{name}" for name in ("weight", "bias", "running_mean", "running_var"))
    assert f"missing (4): {names}" in lines and "not converted (1): fc.weight" in lines and "reshaped (0): -" in lines
    assert read_tensors(tmp_path / "out.pth").keys() == part.keys()


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("w.pth", "--out", "w.onnx"), "unsupported"), (("w.pth", "--out", "no/such/w.pth"), "missing_file"),
        (("w.pth", "--out", "w.pth"), "exists"), (("w.pth", "--out", "folder.pth"), "exists"),
        (("w.pth", "--out", "folder.safetensors"), "exists"),
        (("w.pth", "--out", "x.pth", "--to", "timm"), "unknown"), (("e.pth", "--out", "x.pth"), "unsupported"),
        (("absent.pth", "--out", "x.pth"), "missing_file"), (("medvl:lvit_regions", "--out", "x.pth"), "unsupported"),
        (("medvl:nothing", "--out", "x.pth"), "missing_file"),
    ],
)  # fmt: skip
def test_what_it_refuses(words: tuple[str, ...], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tensors(Path("w.pth"), build_image_encoder("resnet18_nano").state_dict())
    Path("folder.pth").mkdir()
    Path("folder.safetensors").mkdir()
    write_tensors(Path("e.pth"), build_image_encoder("ucnn_nano").state_dict())
    done = CliRunner().invoke(app, list(words))
    assert isinstance(done.exception, InputError)
    with refused(kind):
        raise done.exception
    assert not Path("x.pth").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("given", ["run", "run/model", "run/model/model.safetensors"])
def test_no_file_of_the_run_is_written_over(model: tuple[EncoderUNet, Path], tmp_path: Path, given: str) -> None:
    run = tmp_path / "run"
    for place in ("model", "checkpoints/best"):
        shutil.copytree(model[1], run / place)
    (run / "config.yaml").write_text("")
    before = (run / "model" / "model.safetensors").read_bytes()
    (run / "other.pth").touch()
    (tmp_path / "other.pth").touch()
    for name in ("model/model.safetensors", "checkpoints/best/model.safetensors", "other.pth"):
        done = CliRunner().invoke(app, [str(tmp_path / given), "--out", str(run / name)])
        assert isinstance(done.exception, InputError) and "--out is" in str(done.exception), name
    assert (run / "model" / "model.safetensors").read_bytes() == before
    for out in (run / "new.pth", tmp_path / "other.pth"):  # a new file in it, an old one outside
        assert CliRunner().invoke(app, [str(tmp_path / given), "--out", str(out)]).exit_code == 0
        assert out.stat().st_size > 0


def test_a_file_of_another_program_may_have_old_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    write_tensors(tmp_path / "w.pth", build_image_encoder("resnet18_nano").state_dict())
    for _ in range(2):
        assert CliRunner().invoke(app, [str(tmp_path / "w.pth"), "--out", str(tmp_path / "x.pth")]).exit_code == 0


@pytest.mark.parametrize(
    ("network", "options", "own"),
    [
        ("lvit", "{}", False), ("lvit", "{cnn: nano}", True), ("lvit", "{cnn: nano, input_norm: none}", False),
        ("lvit", "{cnn: ucnn}", False), ("encoder_unet", "{}", True), ("encoder_unet", "{input_norm: none}", False),
    ],
)  # fmt: skip
def test_what_the_encoder_was_fed(model: tuple[EncoderUNet, Path], network: str, options: str, own: bool) -> None:
    """LViT standardises for another encoder only."""
    _, folder = model
    (folder / "config.yaml").write_text(
        "task: segment\ndata: {manifest: m.csv, image_size: [96, 64], normalize: none, in_channels: 1}\n"
        f"model: {{name: {network}, size: nano, options: {options}}}\n"
        + ("text: {encoder: none}\n" if network == "encoder_unet" else "")
    )
    done = CliRunner().invoke(app, [str(folder), "--out", str(folder / "encoder.pth")])
    assert done.exit_code == 0, done.output
    assert "fed with: 96 x 64 px, 1 channel(s), values from 0 to 1" in done.stdout
    assert ("mean 0 and standard deviation 1" in done.stdout) == own
