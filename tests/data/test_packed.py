"""A pack is read as the folder that it was made of: every format, every hash; damage and foreign paths are refused."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from faults import refused
from imported import write_dicom
from PIL import Image

from medvl.core.errors import InputError
from medvl.data import packed as packed_module
from medvl.data.audit.audit import audit_manifest
from medvl.data.hashes import file_hash
from medvl.data.images import image_orientation, image_size, num_slices, read_image
from medvl.data.masks import read_meaning
from medvl.data.packed import BLOCK, open_file, read_pack
from medvl.data.packing import pack_manifests, unpack
from medvl.data.record import Manifest, Record
from medvl.data.records import load_manifest, read_manifest, write_manifest
from medvl.data.splits import split_manifest
from medvl.data.volumes import companions

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(0, 900, (4, 20, 18)).astype(np.int16)  # z, y, x
MASK = (VOXELS > 500).astype(np.uint8)
VOLUMES = ("a.nii", "a.nii.gz", "a.img.hdr", "a.nrrd", "a.nhdr", "a.mha", "a.mhd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with every kind of file and cell."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    grey = RNG.integers(0, 256, (20, 18)).astype(np.uint8)
    deep = RNG.integers(0, 65536, (20, 18)).astype(np.uint16)
    rows = []

    def row(name: str, **cells: str) -> None:
        number = len(rows)
        rows.append({"id": f"r.{number} é", "image": f"images/{name}", "patient": f"p{number // 2}", **cells})

    for name, pixels in (("a.png", grey), ("b.png", deep), ("a.tif", deep), ("a.jpg", grey), ("a.bmp", grey)):
        Image.fromarray(pixels).save(folder / "images" / name)
        Image.fromarray((pixels > pixels.mean()).astype(np.uint8)).save(folder / "masks" / f"{name}.png")
        row(name, mask=f"masks/{name}.png", mask_values="1", text="a finding, on the left", labels="a|b", split="train")
        row(name, mask=f"masks/{name}.png", text="another text of this image", split="val", boxes="x 1 2 5 6")
    np.save(folder / "images" / "a.npy", grey)
    np.savez(folder / "images" / "a.npz", image=deep)
    row("a.npy", mask="none", labels="none", age="64", split="test")
    row("a.npz", split="holdout", licence="CC0", view="PA", study="s1")
    tags = {"PatientOrientation": ["P", "F"], "PixelSpacing": [0.2, 0.3]}
    write_dicom(folder / "images" / "no_suffix", deep, bits=16, **tags)
    row("no_suffix", text="DICOM", split="train")
    image = SimpleITK.GetImageFromArray(VOXELS)
    image.SetSpacing((0.5, 0.7, 3.0))
    mask = SimpleITK.GetImageFromArray(MASK)
    mask.CopyInformation(image)
    for name in VOLUMES:
        if name == "a.img.hdr":
            nibabel.save(nibabel.Nifti1Pair(VOXELS.T, np.diag([0.5, 0.7, 3, 1])), folder / "images" / "pair.img")
            row("pair.hdr", text="a pair")
            continue
        SimpleITK.WriteImage(image, str(folder / "images" / name))
        SimpleITK.WriteImage(mask, str(folder / "masks" / name))
        row(name, mask=f"masks/{name}", text="a volume")
    write_manifest(folder / "manifest.csv", rows)
    (folder / "boxes.csv").write_text(f"id,cls,x0,y0,x1,y1\n{rows[2]['id']},y,0,0,4,4\n", encoding="utf-8")
    write_manifest(folder / "labels.csv", [{"id": "r.2 é", "image": "images/a.png", "patient": "p", "labels": "c"}])
    return folder


@pytest.fixture
def pack(folder: Path, tmp_path: Path) -> Path:
    pack_manifests([folder / "manifest.csv", folder / "labels.csv"], tmp_path / "set.tar")
    return tmp_path / "set.tar"


def same_record(mine: Record, other: Record) -> None:
    for name in Record.__slots__:
        if name not in ("image", "masks"):
            assert getattr(mine, name) == getattr(other, name), name
    assert image_size(mine.image) == image_size(other.image)
    assert image_orientation(mine.image) == image_orientation(other.image)
    num = num_slices(mine.image)
    assert num == num_slices(other.image)
    for index in range(num) if num > 1 else (None,):
        images = [read_image(path, slice_index=index) for path in (mine.image, other.image)]
        np.testing.assert_array_equal(images[0].pixels, images[1].pixels)
        for name in ("spacing_mm", "bits", "format", "orientation"):
            assert getattr(images[0], name) == getattr(images[1], name)
        masks = [record.masks["mask"] for record in (mine, other)]
        assert (masks[0] is None) == (masks[1] is None)
        for left, right in [masks] if masks[0] and masks[1] and masks[0].path and masks[1].path else []:
            found = [read_meaning(m.path, m.values, slice_index=index) for m in (left, right)]
            np.testing.assert_array_equal(found[0].mask, found[1].mask)


def test_it_is_read_as_the_folder(folder: Path, pack: Path) -> None:
    source, packed = load_manifest(folder / "manifest.csv"), load_manifest(pack)
    assert packed.path == pack / "manifest.csv" and packed.classes == source.classes
    assert packed.content_hash() == source.content_hash() and packed.split_hash() == source.split_hash()
    for mine, other in zip(packed.records, source.records, strict=True):
        same_record(mine, other)
        assert file_hash(mine.image) == file_hash(other.image)
    assert packed.records[2].boxes and packed.records[2].labels == ("a", "b")
    assert load_manifest(pack / "labels.csv").records[0].labels == ("c",)
    audits = [audit_manifest(path) for path in (pack, folder / "manifest.csv")]
    assert audits[0].counts == audits[1].counts and audits[0].leak == audits[1].leak
    assert [f.kind for f in audits[0].findings] == [f.kind for f in audits[1].findings]


def test_the_members_are_the_files(folder: Path, pack: Path) -> None:
    """By tarfile alone: the bytes, once each, named <key>.<column>.<ext>; two packs are the same file."""
    index = read_pack(pack)
    with tarfile.open(pack) as tar:
        for name, member in index.members.items():
            info = tar.getmember(member.member)
            assert (info.offset_data, info.size) == (member.offset, member.size)
            assert tar.extractfile(info).read() == (folder / name).read_bytes()
        names = tar.getnames()
    assert len(set(names)) == len(names) == len(index.members) + 2
    assert {"r_0_é.image.png", "r_0_é.mask.png"} <= set(names)
    again = pack.with_name("again.tar")
    pack_manifests([folder / "manifest.csv", folder / "labels.csv"], again)
    assert again.read_bytes() == pack.read_bytes()


def test_out_again_and_packed_from_a_pack(folder: Path, pack: Path, tmp_path: Path) -> None:
    assert unpack(pack, tmp_path / "out") == len(read_pack(pack).members)
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()} == files
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    pack_manifests([pack, pack / "labels.csv"], tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == pack.read_bytes()
    for out in (tmp_path / "out", folder):
        with pytest.raises(InputError):
            unpack(pack, out)


@pytest.mark.parametrize("suffix", [".jsonl", ".xlsx", ".parquet", ".csv"])
def test_files_elsewhere_and_other_tables(folder: Path, tmp_path: Path, suffix: str) -> None:
    """Paths out of the folder get names in the pack; it is then the folder that unpack makes."""
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / f"manifest{suffix}"
    shutil.copytree(folder / "images", tmp_path / "images")
    images = ["../images/a.png", str(folder / "images" / "a.nhdr"), "../images/b.png", "../images/a.png"]
    write_manifest(table, [{"id": str(i), "image": name, "patient": "p"} for i, name in enumerate(images)])
    result = pack_manifests([table], tmp_path / "set.tar")
    assert result.num_renamed == 3
    source, packed = load_manifest(table), load_manifest(tmp_path / "set.tar")
    for mine, other in zip(packed.records, source.records, strict=True):
        assert file_hash(mine.image) == file_hash(other.image) and image_size(mine.image) == image_size(other.image)
    assert packed.split_hash() == source.split_hash() == result.split_hash
    unpack(tmp_path / "set.tar", tmp_path / "out")
    assert load_manifest(tmp_path / "out" / table.name).content_hash() == packed.content_hash() == result.content_hash


def test_columns_of_other_names(folder: Path, tmp_path: Path) -> None:
    columns = {"image": "Path", "mask_lung": "Lung", "patient": "Who"}
    for name in ("images", "masks"):
        shutil.copytree(folder / name, tmp_path / name)
    rows = [{"Path": f"images/{x}.png", "Lung": str(tmp_path / "masks" / f"{x}.png.png"), "Who": x} for x in "ab"]
    write_manifest(tmp_path / "other.csv", rows)
    pack_manifests([tmp_path / "other.csv"], tmp_path / "set.tar", columns=columns)
    manifests = [load_manifest(path, columns=columns) for path in (tmp_path / "set.tar", tmp_path / "other.csv")]
    assert manifests[0].content_hash() == manifests[1].content_hash() and manifests[0].classes == ("lung",)
    assert {m.member for m in read_pack(tmp_path / "set.tar").members.values()} >= {"a.image.png", "a.mask_lung.png"}


def test_a_table_beside_a_pack_leads_into_it(pack: Path, tmp_path: Path) -> None:
    file = split_manifest(pack, tmp_path / "tables" / "split.csv", fractions=[0.5, 0.5])[0]
    records, source = load_manifest(file.path).records, load_manifest(pack).records
    assert [file_hash(r.image) for r in records] == [file_hash(r.image) for r in source]


def decoded(path: Path, queue: multiprocessing.SimpleQueue) -> None:
    queue.put(read_image(path).pixels.sum())


def test_processes_share_no_position(pack: Path) -> None:
    """Forked after the pack was opened, and all at once."""
    images = [record.image for record in load_manifest(pack, check_files=False).records[:10]]
    handle = open_file(images[0])
    expected = sorted(float(read_image(path).pixels.sum()) for path in images)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    workers = [context.Process(target=decoded, args=(path, queue)) for path in images]
    for worker in workers:
        worker.start()
    sums = sorted(float(queue.get()) for _ in workers)
    for worker in workers:
        worker.join()
    handle.close()
    assert sums == expected


def rewrite_index(pack: Path, change: Callable[[dict], None]) -> None:
    """As an attacker would: another index, with its right hash."""
    content = pack.read_bytes()
    head = json.loads(content[BLOCK : 2 * BLOCK])
    index = json.loads(content[head["offset"] : head["offset"] + head["size"]])
    change(index)
    text = json.dumps(index).encode()
    head |= {"offset": len(content), "size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    content = content[:BLOCK] + json.dumps(head).encode().ljust(BLOCK) + content[2 * BLOCK :] + text
    pack.write_bytes(content)


def test_damage_names_the_member(pack: Path, tmp_path: Path) -> None:
    records = load_manifest(pack, check_files=False).records
    member = read_pack(pack).members["images/a.jpg"]
    content = bytearray(pack.read_bytes())
    content[member.offset + member.size // 2] ^= 1
    pack.write_bytes(content)
    image = next(record.image for record in records if record.image.name == "a.jpg")
    for read in (read_image, file_hash, lambda path: unpack(pack, tmp_path / "out")):
        with refused("damaged", naming="images/a.jpg"):
            read(image)
    assert not (tmp_path / "out").exists()
    _, faults = read_manifest(pack, check_files="full", slices="all")
    assert faults and all("images/a.jpg" in str(fault) for fault in faults)
    audit = audit_manifest(pack)
    assert any("images/a.jpg" in finding.message for finding in audit.findings if finding.severity == "error")
    read_image(records[0].image)  # the others are whole


def test_a_large_file_is_read_in_parts(pack: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """It is compared with its hash where the whole of it is read."""
    monkeypatch.setattr(packed_module, "CHECKED_AT_ONCE", 100)
    for mine, other in zip(load_manifest(pack).records, load_manifest(folder / "manifest.csv").records, strict=True):
        same_record(mine, other)


def test_what_is_no_pack(pack: Path, tmp_path: Path) -> None:
    content = pack.read_bytes()
    index = json.loads(content[BLOCK : 2 * BLOCK])
    (tmp_path / "other.tar").write_bytes(b"")
    with tarfile.open(tmp_path / "foreign.tar", "w") as tar:
        tar.add(__file__, "manifest.csv")
    cases = {"cut.tar": content[: len(content) // 2], "short.tar": content[:700], "text.tar": b"id,image\n"}
    cases["index.tar"] = content[: index["offset"]] + b"x" + content[index["offset"] + 1 :]
    for name, damaged in cases.items():
        (tmp_path / name).write_bytes(damaged)
    for name in (*cases, "other.tar", "foreign.tar", "missing.tar"):
        with pytest.raises(InputError) as error:
            load_manifest(tmp_path / name)
        assert len(error.value.faults) == 1
    with pytest.raises(InputError):
        unpack(tmp_path / "missing.tar", tmp_path / "out")


def test_nothing_outside_is_read_or_written(folder: Path, pack: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    shutil.copy(folder / "images" / "a.png", secret)
    for name in ("../secret.png", "/secret.png", "a/../../secret.png", "c:/secret.png", "a\\..\\..\\b", "a//b", ""):
        other = tmp_path / "other.tar"
        shutil.copy(pack, other)
        rewrite_index(other, lambda index, name=name: index["files"][-1].update(name=name))
        with pytest.raises(InputError):
            unpack(other, tmp_path / "out")
    rewrite_index(other, lambda index: index["files"][-1].update(offset=10**9))
    with pytest.raises(InputError):
        load_manifest(other)
    # a table in a pack that leads out of it
    (tmp_path / "x").mkdir()
    for name in (str(secret), "../secret.png"):
        table = pack_with_table(tmp_path / "x" / "set.tar", name)
        _, faults = read_manifest(table, check_files=False)
        assert faults
    assert not (pack / ".." / "secret.png").exists() and not packed_module.is_file(pack / ".." / "secret.png")


def pack_with_table(out: Path, image: str) -> Path:
    """A pack whose table names an image outside: its cell is written over with one of the same length."""
    folder, name = out.parent / "folder", "a" * (len(image) - 4) + ".png"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(folder / name)
    (folder / "m.csv").write_text(f"id,image,patient\n1,{name},p\n")
    out.unlink(missing_ok=True)
    pack_manifests([folder / "m.csv"], out)
    member = read_pack(out).members["m.csv"]
    content = out.read_bytes().replace(name.encode(), image.encode(), 3)
    out.write_bytes(content)
    digest = hashlib.sha256(content[member.offset : member.offset + member.size]).hexdigest()

    def right_hash(index: dict) -> None:
        for row in index["files"]:
            row.update({"sha256": digest} if row["name"] == "m.csv" else {"name": "b.png"})

    rewrite_index(out, right_hash)
    return out


def test_headers_with_their_voxels_elsewhere(tmp_path: Path) -> None:
    """A header must not make the reader of a pack open another file of the machine."""
    nrrd = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n"
    mhd = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\n"
    nrrds = ("data file: /etc/passwd", "DATAFILE: ../a.raw", "data file: a%03d.raw 1 2 1")
    mhds = ("ElementDataFile = ../../a.raw\n", "ElementDataFile = LIST\na.raw\n", "")
    for text in (*(f"{nrrd}{end}\n\n" for end in nrrds), *(f"{mhd}{end}" for end in mhds)):
        (tmp_path / "a.nhdr").write_text(text)
        with pytest.raises(InputError):
            companions(tmp_path / "a.nhdr")


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "set.tar").write_bytes(b"kept")
    other = tmp_path / "m.csv"
    write_manifest(other, [{"id": "1", "image": "missing.png", "patient": "p"}])
    good = folder / "manifest.csv"
    for manifests, out in (([good], "set.tar"), ([good], "set.zip"), ([good, other], "new.tar"), ([other], "new.tar")):
        with pytest.raises(InputError):
            pack_manifests(manifests, tmp_path / out)
    assert (tmp_path / "set.tar").read_bytes() == b"kept"
    assert {path.name for path in tmp_path.iterdir()} == {"set.tar", "m.csv"}


def test_a_new_pack_of_the_same_name_is_read_anew(tiny_manifest: Path, tmp_path: Path) -> None:
    def manifest(num: int) -> Manifest:
        (tmp_path / "set.tar").unlink(missing_ok=True)
        rows = [{"id": str(i), "image": str(tiny_manifest.parent / f"i{i}.png"), "patient": "p"} for i in range(num)]
        write_manifest(tmp_path / "m.csv", rows)
        pack_manifests([tmp_path / "m.csv"], tmp_path / "set.tar")
        return load_manifest(tmp_path / "set.tar")

    assert len(manifest(2).records) == 2 and len(manifest(3).records) == 3
