"""Own images: read from every source and format, decoded once, and split, augmented and refused as documented."""

import io
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from helpers import train_undisturbed
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits

from ban.data import cache
from ban.data.augmentation import Augmentation, ResizedCrop
from ban.data.cache import Request, cached
from ban.data.images import Images, Options, Resident, Streamed, statistics
from ban.data.labelled import Labelled
from ban.data.pictures import decode
from ban.errors import UserError
from ban.plan.lineage import lineage
from ban.settings.compose import compose_settings
from ban.training import build

DIGITS = load_digits()
PIXELS = (DIGITS.images[:120] * 15).astype(np.uint8)
LABELS = DIGITS.target[:120]
COLOURED = np.stack([PIXELS, 255 - PIXELS, PIXELS // 2], -1)


def write_folder(folder: Path, splits: Mapping[str, slice], suffix: str = "png", seed: int = 0) -> Path:
    """The images as files of arbitrary names."""
    names = np.random.default_rng(seed).permutation(len(COLOURED))
    for split, part in splits.items():
        for image, label, name in zip(COLOURED[part], LABELS[part], names[part], strict=True):
            place = folder / split / f"{label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{name}.{suffix}")
    return folder


def write_arrays(folder: Path, splits: Mapping[str, slice]) -> Path:
    keys = {"train": "train", "val": "val", "test": "test"}
    content: dict[str, Any] = {}
    for split, part in splits.items():
        content |= {f"{keys[split]}_images": COLOURED[part], f"{keys[split]}_labels": LABELS[part][:, None]}
    folder.mkdir(exist_ok=True)
    np.savez(folder / "own.npz", **content)
    return folder / "own.npz"


def write_parquet(folder: Path, splits: Mapping[str, slice]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, part in splits.items():
        encoded = [{"bytes": png(image), "path": None} for image in COLOURED[part]]
        table = pyarrow.table({"image": encoded, "label": LABELS[part].tolist(), "size": [8] * len(encoded)})
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder / "*.parquet"


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


PARTS = {"train": slice(0, 80), "val": slice(80, 100), "test": slice(100, 120)}
SOURCES = {"folder": write_folder, "arrays": write_arrays, "parquet": write_parquet}


def words(source: str, path: Path, *more: str) -> list[str]:
    own = [f"dataset={source}", f"dataset.path='{path}'", "model=small_conv", "recipe=digits", "method=labels"]
    return [*own, "machine=single_threaded", f"machine.data_dir={path.parent / 'data'}", "recipe.batch_size=16", *more]


def data_of(given: Sequence[str]) -> Images:
    settings = compose_settings(given)
    return build.data(lineage(settings)[0], settings.machine, torch.device("cpu"))  # pyright: ignore[reportReturnType]


CROP = ("augmentation@dataset.augmentation=crop", "dataset.augmentation.pad=1")


def test_unequal_classes_are_in_every_split(tmp_path: Path) -> None:
    """Of 60 + 12 images of two classes, a fifth of each is for testing."""
    for name, count in (("many", 60), ("few", 12)):
        (tmp_path / "a" / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(COLOURED[number] // (1 + (name == "few"))).save(tmp_path / "a" / name / f"{number}.png")
    splits = data_of(words("folder", tmp_path / "a")).splits
    assert [np.bincount(split.labels).tolist() for split in (splits.train, splits.test)] == [[10, 48], [2, 12]]


def test_all_sources_of_the_same_images_are_one_experiment(tmp_path: Path) -> None:
    found = {}
    for source, write in SOURCES.items():
        given = words(
            source, write(tmp_path / source, PARTS), *CROP, *(["dataset.label=label"] if source == "parquet" else [])
        )
        data = data_of(given)
        batch = next(iter(data.epoch((0, 0, 0), 0)))
        found[source] = (lineage(compose_settings(given))[0].signature, batch.views[0], batch.targets)
        assert [len(split.labels) for split in data.splits] == [80, 20, 20]
    signature, views, targets = found.pop("folder")
    for other in found.values():
        assert other[0] == signature
        assert torch.equal(other[1], views) and torch.equal(other[2], targets)


def test_names_and_formats_of_files_do_not_matter_but_pixels_do(tmp_path: Path) -> None:
    def signature(folder: Path) -> str:
        return lineage(compose_settings(words("folder", folder)))[0].signature

    first = signature(write_folder(tmp_path / "a", PARTS))
    assert signature(write_folder(tmp_path / "b", PARTS, "bmp", seed=1)) == first
    changed = write_folder(tmp_path / "c", PARTS)
    Image.fromarray(COLOURED[5] ^ 1).save(next((changed / "train" / f"{LABELS[5]}").iterdir()))
    assert signature(changed) != first


def test_bundled_images_in_order_of_their_content_are_the_same_training(tmp_path: Path) -> None:
    """The data set whose files are read, and the one that comes with a program, differ in nothing else."""
    digits = load_digits()
    np.savez(tmp_path / "digits.npz", x_train=digits.images.astype(np.uint8), y_train=digits.target)
    sizes = ("dataset.train_size=100", "dataset.test_size=1697", "dataset.split_seed=0", "recipe.batch_size=32")
    same = ("model=small_conv", "recipe=digits", "method=labels")
    own = data_of([*words("arrays", tmp_path / "digits.npz"), *CROP, "dataset.augmentation.flip=false", *sizes])
    bundled = data_of(["dataset=digits", "+dataset.order=content", *same, *sizes])
    assert np.array_equal(np.asarray(own.splits.train.inputs), bundled.splits.train.inputs)
    assert np.array_equal(own.splits.test.labels, bundled.splits.test.labels)


def test_without_splits_a_fifth_is_tested_class_by_class(tmp_path: Path) -> None:
    data = data_of(words("folder", write_folder(tmp_path / "own", {"": slice(0, 120)})))
    assert [len(split.labels) for split in data.splits] == [96, 0, 24]
    counts = np.bincount(data.splits.test.labels, minlength=10)
    assert np.abs(counts - 0.2 * np.bincount(LABELS)).max() <= 1


@pytest.mark.parametrize("source", SOURCES)
def test_validation_images_are_tested_on_where_there_are_no_others(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", f"{tmp_path}")
    path = SOURCES[source](tmp_path / "own", {"train": slice(0, 80), "val": slice(80, 120)})
    more = ["dataset.label=label"] if source == "parquet" else []
    given = [*words(source, path, *more), f"dataset.path='~/{path.relative_to(tmp_path)}'"]
    dataset = compose_settings(given).dataset
    assert (dataset.train_size, dataset.validation_size, dataset.test_size) == (80, 0, 40)


def test_a_streamed_epoch_is_the_resident_one(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "own", PARTS)
    about = cached(Request("folder", f"{path}"), tmp_path / "data")
    for augmentation in (Augmentation(2, "reflect", True), ResizedCrop()):
        made = [options(about, augmentation, streamed) for streamed in (False, True)]
        for resident, streamed in zip(*(data.epoch((0, 0, 0), 1, first_step=2) for data in made), strict=True):
            assert all(map(torch.equal, resident.views, streamed.views))
            assert torch.equal(resident.indices, streamed.indices) and torch.equal(resident.targets, streamed.targets)


@pytest.mark.parametrize("source", SOURCES)
def test_a_machine_may_stream_images_and_trains_the_same_weights(source: str, tmp_path: Path) -> None:
    path = SOURCES[source](tmp_path / "own", PARTS)
    more = ["dataset.label=label"] if source == "parquet" else []
    found = {}
    for streamed in (True, False):
        given = words(source, path, *more, "recipe.epochs=2", f"machine.stream_images={streamed}".lower())
        assert isinstance(data_of(given).training_images, Streamed if streamed else Resident)
        found[streamed] = train_undisturbed(tmp_path / f"{streamed}", *given)
    assert found[True] == found[False] and len(found[True]) == 1


def options(found: cache.Cached, augmentation: Any, streamed: bool) -> Images:
    sizes = {"train_size": 80, "validation_size": 20, "test_size": 20, "batch_size": 16, "steps_per_epoch": None}
    own = Options(
        **sizes, classes=10, split_seed=0, label_noise=0.0, device=torch.device("cpu"), shape=[3, 8, 8], views=2,
        augmentation=augmentation, streamed=streamed,
    )  # fmt: skip
    splits = found.splits()
    return Images(splits["train"], splits["test"], own, splits["validation"])


# Pictures


def test_images_arrive_as_a_person_sees_them(tmp_path: Path) -> None:
    colours = np.zeros((8, 12, 3), dtype=np.uint8)
    colours[:4, :6], colours[:4, 6:], colours[4:, :6], colours[4:, 6:] = (250, 0, 0), (0, 240, 0), (0, 0, 230), 255
    image = Image.fromarray(colours)
    grey = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12))
    deep = Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 257)
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(colours[..., 0] == 250, 0, 255).astype(np.uint8)))
    palette = image.quantize(4, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    rotated = image.transpose(Image.Transpose.ROTATE_90)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be rotated by 270 degrees, counterclockwise
    saved: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "plain.png": (image, {}),
        "palette.png": (palette, {}),
        "palette.gif": (palette, {"save_all": True, "append_images": [palette.transpose(Image.Transpose.ROTATE_180)]}),
        "exif.png": (rotated, {"exif": turned}),
        "plain.bmp": (image, {}),
        "plain.tiff": (image, {}),
        "plain.webp": (image, {"lossless": True}),
    }
    for name, (each, how) in saved.items():
        each.save(tmp_path / name, **how)
        assert np.array_equal(decode(tmp_path / name, None, 3), colours), name
    for name, each in {"grey.png": grey, "deep.png": deep, "deep.tif": deep, "alpha.png": grey.convert("LA")}.items():
        each.save(tmp_path / name)
        assert np.array_equal(decode(tmp_path / name, None, 1)[..., 0], np.asarray(grey)), name
    clear.save(tmp_path / "clear.png")
    on_white = np.where((colours == (250, 0, 0)).all(-1, keepdims=True), 255, colours)
    assert np.array_equal(decode(tmp_path / "clear.png", None, 3), on_white)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    assert np.abs(decode(tmp_path / "cmyk.jpg", None, 3).astype(int) - colours).mean() < 12
    Image.fromarray(colours[..., 0] > 0).save(tmp_path / "bits.png")
    assert {*np.unique(decode(tmp_path / "bits.png", None, 1))} == {0, 255}


def test_the_centre_of_the_shorter_side_is_kept() -> None:
    wide = np.repeat(np.arange(40, dtype=np.uint8) * 6, 20).reshape(40, 20).T
    found = decode(png(wide), 10, 1)[..., 0].astype(float)
    assert found.shape == (10, 10)
    assert found[0] == pytest.approx(6 * (10 + 2 * np.arange(10) + 0.5), abs=6)


# Views


def test_a_resized_crop_of_a_plane_is_that_plane_at_its_positions() -> None:
    """Bilinear interpolation is exact for linear images."""
    crop, size = ResizedCrop(crops=50), 16
    rows, columns = crop.tables(size, size)
    y, x = np.mgrid[:size, :size]
    plane = torch.from_numpy((3 * y + 5 * x).astype(np.uint8))[None, :, :, None]
    found = crop.view(plane, torch.zeros(100, dtype=torch.long), rows, columns)[..., 0]

    def place(values: torch.Tensor) -> torch.Tensor:
        return ((values + 1) * size / 2 - 0.5).clamp(0, size - 1)

    expected = 3 * place(rows)[:, :, None] + 5 * place(columns)[:, None, :]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert torch.equal(found[1::2], found[::2].flip(2))


def test_resized_crops_have_the_stated_areas_and_ratios() -> None:
    parts = ResizedCrop()._parts()
    area, ratio = parts[:, 2] * parts[:, 3], parts[:, 3] / parts[:, 2]
    assert len(parts) == 1000 and (parts >= 0).all() and (parts[:, :2] + parts[:, 2:] <= 1 + 1e-12).all()
    assert 0.35 <= area.min() < 0.36 and 0.96 < area.max() <= 1
    assert 3 / 4 - 1e-9 <= ratio.min() < 0.77 and 1.3 < ratio.max() <= 4 / 3 + 1e-9


def test_statistics_are_those_of_numpy() -> None:
    mean, std = statistics(COLOURED)
    assert mean == pytest.approx(COLOURED.mean((0, 1, 2))) and std == pytest.approx(COLOURED.std((0, 1, 2)))


# The cache


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request("folder", f"{write_folder(tmp_path / 'own', PARTS)}")
    first = cached(request, tmp_path / "data")
    monkeypatch.setattr(cache, "_make", None)
    assert cached(request, tmp_path / "data") == first
    moved = shutil.move(tmp_path / "own", tmp_path / "elsewhere")
    assert cached(request._replace(path=f"{moved}"), tmp_path / "data") == first  # the place does not matter
    assert [each.name for each in (tmp_path / "data/cache").iterdir() if each.is_dir()] == [first.folder.name]


def test_nothing_is_left_of_a_cache_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request("folder", f"{write_folder(tmp_path / 'own', PARTS)}")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(UserError, match="No space left on device"):
            cached(request, tmp_path / "data")
    assert not [each for each in (tmp_path / "data/cache").iterdir() if each.is_dir()]
    assert cached(request, tmp_path / "data").about.total("train") == 80


def closed(monkeypatch: pytest.MonkeyPatch, name: str, refused: Path, number: int = 13) -> None:
    """Makes a function of `os` refuse a path, as the system does to others than root."""
    real = getattr(os, name)

    def refuse(path: Any, *more: Any, **options: Any) -> Any:
        if f"{path}".startswith(f"{refused}"):
            raise OSError(number, os.strerror(number), f"{path}")
        return real(path, *more, **options)

    monkeypatch.setattr(os, name, refuse)


@pytest.mark.parametrize("name", ["stat", "scandir"])
def test_a_folder_that_may_not_be_entered_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write_folder(tmp_path / "own", PARTS)
    closed(monkeypatch, name, own / "train/3")
    with pytest.raises(UserError, match=r"own/train/3(/.*)? cannot be read: permission denied\.$"):
        compose_settings(words("folder", own))


def test_an_image_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write_folder(tmp_path / "own", PARTS)
    refused = file_in(own)
    real = io.open

    def refuse(path: Any, *more: Any, **options: Any) -> Any:
        if f"{path}" == f"{refused}":
            raise PermissionError(13, "Permission denied", f"{path}")
        return real(path, *more, **options)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=rf"{refused} cannot be decoded \(Permission denied\)$"):
        compose_settings(words("folder", own))


@pytest.mark.parametrize("source", ["arrays", "parquet"])
@pytest.mark.parametrize("when", ["opened", "read"])
def test_an_error_of_the_disk_that_holds_the_source_is_not_told_as_the_caches(
    source: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = SOURCES[source](tmp_path / "own", PARTS)
    broken = OSError(5, "Input/output error")

    def fail(*_: Any, **__: Any) -> None:
        raise broken

    places = {"arrays": (np, "load"), "parquet": (parquet, "ParquetFile")}
    if when == "read":
        places = {"arrays": (np.lib.npyio.NpzFile, "__getitem__"), "parquet": (parquet.ParquetFile, "iter_batches")}
    monkeypatch.setattr(*places[source], fail)
    with pytest.raises(UserError, match=r"own.* (cannot be read: i|is damaged behind row 0 \(.*I)nput/output error"):
        cached(Request(source, f"{path}", label="label" if source == "parquet" else None), tmp_path / "data")
    assert not [each for each in (tmp_path / "data/cache").iterdir() if each.is_dir()]


@pytest.mark.parametrize("name", ["images.npy", "order.npy"])
def test_a_damaged_cache_is_named(name: str, tmp_path: Path) -> None:
    given = words("folder", write_folder(tmp_path / "own", PARTS))
    data_of(given)
    file = next((tmp_path / "data/cache").glob(f"*/{name}"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{file.parent} is damaged .*: remove it, and it is made again"):
        data_of(given)


def test_changed_pixels_in_the_cache_are_noticed(tmp_path: Path) -> None:
    given = words("folder", write_folder(tmp_path / "own", PARTS))
    data_of(given)
    file = next((tmp_path / "data/cache").glob("*/images.npy"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        data_of(given)


# Plans


def test_a_plan_names_classes_what_was_passed_over_and_duplicates(tmp_path: Path) -> None:
    own = write_folder(tmp_path / "own", PARTS)
    (own / "train/3/.hidden.png").touch()
    (own / "train/3/notes.txt").touch()
    (own / "train/readme.txt").touch()
    Image.fromarray(COLOURED[0]).save(own / "test" / f"{LABELS[0]}" / "again.png")
    dataset = compose_settings(words("folder", own)).dataset
    assert dataset.notes[0].startswith("Classes, images for train + validation + test: 0 (11 + 0 + 2), 1 (")
    assert dataset.notes[1] == ("Files that were passed over: 1 hidden, 1 no image, 1 outside the folders of classes")
    (warning,) = dataset.warnings
    assert warning.startswith("1 test image is, pixel by pixel, among those that are trained on")


# Bad input


def broken(change: Callable[[Path], Any], *more: str) -> Callable[[Path], list[str]]:
    def make(tmp_path: Path) -> list[str]:
        own = write_folder(tmp_path / "own", {"train": slice(0, 60), "test": slice(60, 120)})
        change(own)
        return words("folder", own, *more)

    return make


def file_in(own: Path) -> Path:
    return sorted((own / "train/3").iterdir())[0]


def emptied(own: Path) -> None:
    shutil.rmtree(own)
    own.mkdir()


def one_class(own: Path) -> None:
    for each in own.glob("*/[!3]"):
        shutil.rmtree(each)


def of_npz(**content: Any) -> Callable[[Path], list[str]]:
    def make(tmp_path: Path) -> list[str]:
        np.savez(tmp_path / "own.npz", **content)
        return words("arrays", tmp_path / "own.npz")

    return make


def of_parquet(**content: Any) -> Callable[[Path], list[str]]:
    def make(tmp_path: Path) -> list[str]:
        parquet.write_table(pyarrow.table(content), tmp_path / "own.parquet")
        return words("parquet", tmp_path / "own.parquet")

    return make


BAD: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no path": (lambda _: words("folder", Path("x"))[:1], "dataset=folder needs dataset.path: name the folder of im"),
    "no such folder": (lambda path: words("folder", path / "nosuch"), "nosuch does not exist"),
    "a file as the folder": (broken(lambda own: (shutil.rmtree(own), own.touch())), "is a file: name the folder that"),
    "an empty folder": (broken(emptied), "has no images: .bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp are read"),
    "one class": (broken(one_class), r"has images of one class only \(3\): put two classes or more there"),
    "an empty class": (broken(lambda own: (own / "train/blank").mkdir()), "the class blank is empty: add images"),
    "a class that is only tested": (
        broken(lambda own: shutil.move(own / "train/3", own.parent)),
        "the class 3 is only in test, not in train: add images of it to train, or remove it",
    ),
    "no training folder": (broken(lambda own: shutil.rmtree(own / "train")), "has a folder test, but none for train"),
    "two test folders": (broken(lambda own: (own / "testing").mkdir()), "two folders for test: test and testing"),
    "an empty file": (broken(lambda own: file_in(own).write_bytes(b"")), "1 image cannot be used: repair or remove"),
    "a truncated file": (
        broken(lambda own: file_in(own).write_bytes(file_in(own).read_bytes()[:60])),
        r"dataset.skip_unreadable=true\.\n.*png cannot be decoded",
    ),
    "a placeholder": (
        broken(lambda own: Image.new("RGB", (1, 1)).save(file_in(own))),
        r"png has only 1×1 pixels",
    ),
    "a text": (broken(lambda own: file_in(own).write_text("hello")), "png is no image of a known format"),
    "too many pixels": (
        broken(lambda own: Image.new("1", (14_000, 14_000)).save(file_in(own))),
        "png has more than 178,956,970 pixels",
    ),
    "sizes that differ": (
        broken(lambda own: Image.new("RGB", (9, 8)).save(file_in(own))),
        "has .×8 pixels, but .* has .×8: set dataset.size, for example to 64, and all are made that size",
    ),
    "a link to a folder above": (
        broken(lambda own: (own / "train/3/loop").symlink_to(own / "train/3")),
        "loop is a link to a folder that contains it: remove the link",
    ),
    "a link to itself": (
        broken(lambda own: (own / "train/3/self").symlink_to(own / "train/3/self")),
        "self cannot be read: too many levels of symbolic links",
    ),
    "a broken link": (
        broken(lambda own: (own / "train/3/x.png").symlink_to("nowhere")),
        "x.png is a broken link, or no regular file: remove it",
    ),
    "a pipe": (broken(lambda own: os.mkfifo(own / "train/3/x.png")), "x.png is a broken link, or no regular file"),
    "no pixels": (broken(lambda _: None, "dataset.size=0"), "dataset.size is 0; it must be"),
    "training images that are not there": (
        broken(lambda _: None, "dataset.train_size=61"),
        "dataset.train_size=61, but there are 60 images for that",
    ),
    "pickled objects": (of_npz(x_train=np.array([{}]), y_train=[0]), "contains pickled objects, which can run code"),
    "other arrays": (of_npz(a=[1], b=[2]), "has the arrays a, b, but x_train and y_train or train_images and"),
    "no images": (of_npz(x_train=np.zeros((5, 2)), y_train=np.arange(5)), r"npz: the images have the shape \[5, 2\]"),
    "fewer labels": (of_npz(x_train=COLOURED, y_train=LABELS[1:]), "npz: there are 120 images, but the labels have"),
    "no column of images": (of_parquet(a=[1, 2], label=[0, 1]), "which column is the image.* one of a, label"),
    "several columns of labels": (
        of_parquet(image=[b"", b""], fine=[0, 1], coarse=[0, 1]),
        "which column is the label. Set dataset.label to one of fine, coarse",
    ),
    "a missing label": (of_parquet(image=[b"", b""], label=[0, None]), "some rows of .* have no label: every image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    given = make(tmp_path)
    with warnings.catch_warnings(), pytest.raises(UserError, match=message) as raised:
        warnings.simplefilter("error")
        compose_settings(given)
    assert "Traceback" not in f"{raised.value}"
    kept = [
        each for each in (tmp_path / "data/cache").glob("*") if each.is_dir() and not (each / "about.json").exists()
    ]
    assert not kept


def test_unreadable_images_may_be_left_out_and_are_counted(tmp_path: Path) -> None:
    own = write_folder(tmp_path / "own", PARTS)
    file_in(own).write_bytes(b"")
    data, settings = (
        make(words("folder", own, "dataset.skip_unreadable=true")) for make in (data_of, compose_settings)
    )
    assert len(data.splits.train.labels) == settings.dataset.train_size == 79
    assert "1 unreadable" in settings.dataset.notes[1]
    assert isinstance(data.splits.train, Labelled)
