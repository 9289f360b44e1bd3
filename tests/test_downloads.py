"""Downloads from mirrors that are slow, broken or wrong, and data sets in other forms and places. A few images each."""

import hashlib
import http.server
import io
import pickle
import resource
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import Say
from PIL import Image
from pyarrow import ipc, parquet
from torchvision.datasets import CIFAR10

from ban.data import cifar, downloads
from ban.data.cifar import Batch, Published, fetch
from ban.errors import UserError

ROWS = 4
"""Images in each file of CIFAR-10."""
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
PIXELS = np.random.default_rng(0).integers(0, 256, (len(NAMES), ROWS, 3072), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, (len(NAMES), ROWS), np.uint8)
PICKLED = {
    name: pickle.dumps({"data": pixels, "labels": labels.tolist()})
    for name, pixels, labels in zip(NAMES, PIXELS, LABELS, strict=True)
} | {"batches.meta": pickle.dumps({"label_names": ["a", "b"]})}
BINARY = {
    f"{name}.bin": np.concatenate([labels[:, None], pixels], 1).tobytes()
    for name, pixels, labels in zip(NAMES, PIXELS, LABELS, strict=True)
}


def archive(files: Mapping[str, bytes], folder: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def table(batches: list[int], changed: bool = False) -> pa.Table:
    """Images and labels as at Hugging Face."""
    encoded: list[dict[str, bytes | None]] = []
    for pixels in PIXELS[batches].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1):
        file = io.BytesIO()
        Image.fromarray(pixels ^ 1 if changed else pixels).save(file, "PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    return pa.table({"img": encoded, "label": LABELS[batches].ravel().astype(np.int64)})


def as_parquet(*arguments: object) -> bytes:
    file = io.BytesIO()
    parquet.write_table(table(*arguments), file)
    return file.getvalue()


TRAIN = [3, 2, 1, 4, 0]
"""Batches in the order in which Hugging Face has them: that of the archive, not that of their numbers."""
ARCHIVE = archive(PICKLED, "cifar-10-batches-py")
FILES = {
    "python.tar.gz": ARCHIVE,
    "cifar-10-binary.tar.gz": archive(BINARY, "anywhere"),
    "again.tar.gz": archive(dict(reversed(PICKLED.items())), "."),
    "wrong.tar.gz": archive({name: data + b"." for name, data in PICKLED.items()}, "cifar-10-batches-py"),
    "fewer.tar.gz": archive(dict([*PICKLED.items()][:3]), "cifar-10-batches-py"),
    "train.parquet": as_parquet(TRAIN),
    "test.parquet": as_parquet([5]),
    "changed-train.parquet": as_parquet(TRAIN, True),
    "changed-test.parquet": as_parquet([5]),
}


def md5(name: str) -> str:
    return hashlib.md5(PICKLED[name]).hexdigest()


class Tiny(CIFAR10):
    """CIFAR-10 with the checksums of the files above."""

    tgz_md5 = hashlib.md5(ARCHIVE).hexdigest()
    train_list = [[name, md5(name)] for name in NAMES[:-1]]
    test_list = [["test_batch", md5("test_batch")]]
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5("batches.meta")}


BATCHES = [Batch(name, hashlib.sha1(data).hexdigest(), ROWS) for name, data in BINARY.items()]
TINY = cifar.CIFAR_10._replace(pickled=Tiny, train=BATCHES[:-1], test=BATCHES[-1:])
SLOW = {"slow": 80_000, "slower": 20_000}
"""Bytes a second of mirrors."""


class Mirror(http.server.ThreadingHTTPServer):
    """Serves `/BEHAVIOUR/FILE` and notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, *paths: str) -> list[str]:
        return [f"http://127.0.0.1:{self.server_port}/{path}" for path in paths]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has left
            super().handle()

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        _, behaviour, name = self.path.split("/")
        content = FILES.get(name, b"")
        if behaviour == "redirect":
            self.send_response(302)
            self.send_header("Location", f"/whole/{name}")
            self.end_headers()
        elif not content:
            self.send_error(404)
        elif behaviour == "unsized":  # HTTP 1.0 without a length: half of a file looks whole
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
        else:
            self._send(content, behaviour)

    def _send(self, content: bytes, behaviour: str) -> None:
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if behaviour != "norange" else 0
        if start >= len(content):
            self.send_error(416)
            return
        rest = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if behaviour in ("cut", "norange") and len(rest) > 2000:
            self.wfile.write(rest[: len(rest) // 2])
        elif behaviour == "silent":
            self.wfile.write(rest[:1000])
            time.sleep(1)
        elif behaviour in SLOW:
            for place in range(0, len(rest), 1000):
                self.wfile.write(rest[place : place + 1000])
                time.sleep(1000 / SLOW[behaviour])
        else:
            self.wfile.write(rest)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(downloads, "WINDOW", 0.2)
    with Mirror() as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without data."""
    for name in ("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setenv("HOME", f"{tmp_path / 'home'}")
    return tmp_path / "home"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def check(parts: cifar.Parts) -> None:
    """Every image and label is the right one, in the right order."""
    train, test = parts
    images = PIXELS.reshape(len(NAMES), ROWS, 3, 32, 32).transpose(0, 1, 3, 4, 2)
    assert np.array_equal(train.inputs, np.concatenate(images[:-1])) and np.array_equal(test.inputs, images[-1])
    assert np.array_equal(train.labels, LABELS[:-1].ravel()) and np.array_equal(test.labels, LABELS[-1])


def leftovers(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.part"))


@pytest.mark.parametrize(
    "path",
    [
        "whole/python.tar.gz",
        "whole/again.tar.gz",
        "whole/cifar-10-binary.tar.gz",
        "whole/{split}.parquet",
        "redirect/python.tar.gz",
        "cut/python.tar.gz",
        "cut/{split}.parquet",
    ],
)
def test_every_form_gives_the_same_images(mirror: Mirror, data: Path, path: str) -> None:
    check(fetch(TINY, data, mirror(path)))
    asked = len(mirror.asked)
    check(fetch(TINY, data, mirror(path)))
    assert len(mirror.asked) == asked and not leftovers(data)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("whole/missing", "HTTP Error 404"),
        ("unsized/python.tar.gz", "it is damaged, or no archive"),
        ("whole/wrong.tar.gz", "data_batch_1 in it is not that of CIFAR-10"),
        ("whole/fewer.tar.gz", "it does not have all files of CIFAR-10"),
        ("whole/test.parquet", "it is damaged, or no archive"),
        ("norange/python.tar.gz", "ended after"),
        ("whole/changed-{split}.parquet", "images or labels for training are not those of CIFAR-10"),
        ("whole/missing-{split}.parquet", "HTTP Error 404"),
    ],
)
def test_a_mirror_that_cannot_be_used_is_left_for_the_next(
    mirror: Mirror, data: Path, path: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        UserError, match=rf"is not in {data}: put cifar-10-python\.tar\.gz there (.|\n)*tried .*{reason}"
    ):
        fetch(TINY, data, mirror(path))
    assert not [path for path in data.rglob("*") if path.suffix not in (".lock", ".part")]
    check(fetch(TINY, data, mirror(path, "whole/python.tar.gz")))
    assert reason in capsys.readouterr().err and not leftovers(data)


def test_a_host_that_does_not_answer_is_left(mirror: Mirror, data: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Handler) as closed:
        address = f"http://127.0.0.1:{closed.server_port}/whole/python.tar.gz"
    with pytest.raises(UserError, match=r"tried .*: Connection refused"):
        fetch(TINY, data, [address])
    check(fetch(TINY, data, [address, *mirror("whole/python.tar.gz")]))


def test_without_pyarrow_another_mirror_is_used(mirror: Mirror, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'born-again\[parquet\]'"):
        fetch(TINY, data, mirror("whole/{split}.parquet"))
    check(fetch(TINY, data, mirror("whole/{split}.parquet", "whole/python.tar.gz")))
    assert [path for path, _ in mirror.asked] == ["/whole/python.tar.gz"]


def test_a_slow_mirror_is_left_for_a_fast_one(mirror: Mirror, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(fetch(TINY, data, mirror("slower/python.tar.gz", "whole/python.tar.gz"), minimum_speed=200.0))
    assert mirror.asked[-1][0] == "/whole/python.tar.gz"
    assert "that is slow (" in capsys.readouterr().err and not leftovers(data)


def test_if_all_are_slow_the_fastest_is_continued_to_its_end(mirror: Mirror, data: Path) -> None:
    paths = ["slower/python.tar.gz", "slow/python.tar.gz", "whole/missing"]
    check(fetch(TINY, data, mirror(*paths), minimum_speed=200.0))
    assert [path for path, _ in mirror.asked] == [f"/{path}" for path in [*paths, "slow/python.tar.gz"]]
    continued = mirror.asked[-1][1]
    assert continued and int(continued[6:-1]) >= 1000 and not leftovers(data)


def test_the_only_mirror_may_be_slow(mirror: Mirror, data: Path) -> None:
    check(fetch(TINY, data, mirror("slow/python.tar.gz"), minimum_speed=200.0))
    assert len(mirror.asked) == 1


def test_a_silent_mirror_is_left(mirror: Mirror, data: Path) -> None:
    check(fetch(TINY, data, mirror("silent/python.tar.gz", "whole/python.tar.gz"), minimum_speed=1.0))


def part(data: Path, url: str, content: bytes, name: str = CIFAR10.filename) -> Path:
    """What a command that was killed has left."""
    path = downloads.Mirror({name: url}, data, lambda _: None).part(name)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("begun", [10, len(ARCHIVE) - 1, len(ARCHIVE)])
def test_a_killed_download_is_continued(mirror: Mirror, data: Path, begun: int) -> None:
    (url,) = mirror("whole/python.tar.gz")
    part(data, url, ARCHIVE[:begun])
    check(fetch(TINY, data, [url]))
    assert mirror.asked == [("/whole/python.tar.gz", f"bytes={begun}-")]


@pytest.mark.parametrize("behaviour", ["whole", "unsized"])
def test_what_does_not_fit_is_downloaded_anew(mirror: Mirror, data: Path, behaviour: str) -> None:
    (url, good) = mirror(f"{behaviour}/python.tar.gz", "whole/python.tar.gz")
    part(data, url, b"x" * 1000)
    check(fetch(TINY, data, [url, good]))
    assert mirror.asked[0][1] == "bytes=1000-" and ("/whole/python.tar.gz", None) in mirror.asked


def test_several_processes_download_once(mirror: Mirror, data: Path) -> None:
    urls = mirror("slow/python.tar.gz")
    with ThreadPoolExecutor(3) as pool:
        for parts in pool.map(lambda _: fetch(TINY, data, urls), range(3)):
            check(parts)
    assert len(mirror.asked) == 1


def test_a_full_disk_is_one_sentence_and_nothing_is_half_there(mirror: Mirror, data: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(UserError, match=r"\.part cannot be written \(.*\): choose another machine\.data_dir\.$"):
            fetch(TINY, data, mirror("whole/python.tar.gz"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (data / CIFAR10.base_folder).exists()
    check(fetch(TINY, data, mirror("whole/python.tar.gz")))
    assert mirror.asked[-1][1] == "bytes=20000-"


# Places on this machine


def put(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def arrow(batches: list[int]) -> bytes:
    file, content = io.BytesIO(), table(batches)
    with ipc.new_stream(file, content.schema) as stream:
        stream.write_table(content)
    return file.getvalue()


PARQUET = {f"{split}-00000-of-00001.parquet": FILES[f"{split}.parquet"] for split in ("train", "test")}
PLACES = {
    "data/cifar-10-batches-bin": BINARY,
    "data/cifar10/plain_text": PARQUET,
    "data": {CIFAR10.filename: FILES["again.tar.gz"]},
    "home/data/cifar-10-batches-py": PICKLED,
    "home/.cache/torch": {CIFAR10.filename: ARCHIVE},
    "home/.cache/huggingface/hub/datasets--uoft-cs--cifar10/snapshots/0b2714987fa4/plain_text": PARQUET,
    "home/.cache/huggingface/datasets/uoft-cs___cifar10/plain_text/0.0.0/0b2714987fa4": {
        "cifar10-train.arrow": arrow(TRAIN),
        "cifar10-test.arrow": arrow([5]),
    },
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_on_this_machine_is_found_without_a_download(tmp_path: Path, data: Path, place: str) -> None:
    put(tmp_path / place, PLACES[place])
    check(fetch(TINY, data, ["http://nowhere.invalid/"], download=False))
    check(fetch(TINY, data, ["http://nowhere.invalid/"], download=False))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("HF_HOME", "hub/datasets--uoft-cs--cifar10/snapshots/a/plain_text"),
        ("HF_HUB_CACHE", "datasets--uoft-cs--cifar10/snapshots/a/plain_text"),
        ("TORCH_HOME", "datasets/cifar-10-batches-py"),
    ],
)
def test_environment_variables_name_other_caches(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    monkeypatch.setenv(name, f"{tmp_path / 'elsewhere'}")
    put(tmp_path / "elsewhere" / place, PARQUET if name.startswith("HF") else PICKLED)
    check(fetch(TINY, data, [], download=False))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged, or has no such images"),
        (as_parquet([0]), "it has 4 images for training, not 20"),
        (as_parquet([0, 0, 0, 0, 0]), "are not those of CIFAR-10, in their order"),
        (as_parquet([5, 1, 2, 3, 4]), "are not those of CIFAR-10, in their order"),
    ],
)
def test_other_data_in_a_cache_are_not_used(tmp_path: Path, data: Path, content: bytes, reason: str) -> None:
    put(data / "cifar10", {**PARQUET, "train-00000-of-00001.parquet": content})
    with pytest.raises(UserError, match=reason):
        fetch(TINY, data, [], download=False)
    assert not (data / TINY.folder).exists()


def test_a_changed_binary_file_is_not_used(data: Path) -> None:
    put(data / TINY.folder, {**BINARY, "test_batch.bin": BINARY["test_batch.bin"][:-1] + b"."})
    with pytest.raises(UserError, match="is not in"):
        fetch(TINY, data, [], download=False)


def test_files_that_are_there_are_used_as_they_are(data: Path) -> None:
    put(data / CIFAR10.base_folder, PICKLED)
    before = sorted(data.rglob("*"))
    check(fetch(TINY, data, ["http://nowhere.invalid/"]))
    assert before == sorted(data.rglob("*"))


def test_a_damaged_file_is_not_used(data: Path) -> None:
    put(data, {CIFAR10.filename: ARCHIVE})
    fetch(TINY, data, [], download=False)
    path = data / CIFAR10.base_folder / "test_batch"
    path.write_bytes(path.read_bytes()[:-1])
    fetch(TINY, data, [], download=False)  # the archive is there: unpacked again
    path.write_bytes(path.read_bytes()[:-1])
    (data / Tiny.filename).write_bytes(ARCHIVE[:-9999])
    size, wanted = path.stat().st_size, md5("test_batch")
    with pytest.raises(UserError, match=rf"is damaged: .*\.tar\.gz .*test_batch \({size:,} bytes; .*, not {wanted}\)"):
        fetch(TINY, data, [], download=False)
    (data / Tiny.filename).unlink()
    path.unlink()
    with pytest.raises(UserError, match=rf"is not in {data}: .*\n.*machine\.download is off"):
        fetch(TINY, data, [], download=False)


def test_one_folder_too_deep_the_folder_above_is_named(data: Path) -> None:
    put(data / CIFAR10.base_folder, PICKLED)
    with pytest.raises(UserError, match=rf"set machine\.data_dir={data}\."):
        fetch(TINY, data / CIFAR10.base_folder, [])


def test_a_folder_for_data_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file cannot be written \(.*\): choose another machine\.data_dir"):
        fetch(TINY, tmp_path / "file", [])


def test_without_data_the_command_says_which_files_to_put_where(say: Say, tmp_path: Path) -> None:
    arguments = ["scale=smoke", "model=wrn_10_1", "machine.download=false", f"machine.data_dir={tmp_path}/none"]
    with pytest.raises(SystemExit) as refusal:
        say(*arguments)
    for text in ("cifar-100-python.tar.gz", f"{tmp_path}/none", "https://www.cs.toronto.edu", "download is off"):
        assert text in str(refusal.value)
    assert not list(tmp_path.glob("outputs/stages/*"))


@pytest.mark.parametrize("known", [cifar.CIFAR_10, cifar.CIFAR_100], ids=lambda known: known.title)
def test_the_numbers_of_images_are_those_of_the_data_sets(known: Published) -> None:
    assert [sum(batch.rows for batch in part) for part in (known.train, known.test)] == [50_000, 10_000]
    assert known.row == {"CIFAR-10": 3073, "CIFAR-100": 3074}[known.title]
