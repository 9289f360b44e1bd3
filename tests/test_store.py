"""The publish protocol: whatever is killed when, each stage is trained once and is whole or absent."""

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import fill, plan, result_of
from safetensors.numpy import save_file

from ban.commands.doctor import _permissions
from ban.errors import DamagedStage, UserError
from ban.launch.journal import Journal, Note
from ban.store import formats, index
from ban.store.archive import export_stage, import_stage
from ban.store.index import index_of
from ban.store.remembered import folder
from ban.store.store import Store
from ban.store.work import Work

CONTEXT = multiprocessing.get_context("fork")
STAGE = plan("method=labels", "recipe.epochs=2")[0]
S = STAGE.signature
FILES = ["SHA256SUMS", "curves.jsonl", "predictions.safetensors", "result.json", "stage.json", "weights.safetensors"]


def publish(work: Work, **values: float) -> None:
    """A stage whose training made up its result."""
    fill(work, STAGE)
    work.publish(result_of(STAGE, **values))


def published(root: Path) -> Store:
    """A store with one stage."""
    store = Store(root)
    with store.claim(S) as work:
        assert work is not None
        publish(work)
    return store


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_stage_appears_only_when_it_is_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(S) as work:
        assert work is not None
        work.write_json("stage.json", {})
        work.write_checkpoint(1, lambda path: path.write_text("half"))
        assert not store.has(S) and not store.folder(S).exists()
        publish(work, test_error_percent=1.0)
    assert store.result(S).get("test_error_percent") == 1.0
    assert names(store.folder(S)) == FILES and sorted(["SHA256SUMS", *store.check(S)]) == FILES
    with store.claim(S) as again:
        assert again is None


def test_interrupted_work_is_taken_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(S) as work:
        assert work is not None
        work.write_checkpoint(1, lambda path: path.write_text("half"))
        dead = work.folder
    with store.claim(S) as heir:
        assert heir is not None and heir.folder != dead and not dead.exists()
        (checkpoint,) = heir.folder.iterdir()
        assert checkpoint.read_text() == "half"


def test_who_was_taken_over_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(S) as work:
        assert work is not None
    with store.claim(S), pytest.raises(UserError, match="taken over"):
        work.write_json("stage.json", {})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with Store(tmp_path).claim(S) as work:
        assert work is not None
        work.write("checkpoint.pt", lambda path: path.write_text("whole"))
        with pytest.raises(UserError, match="No space left"):
            work.write("checkpoint.pt", fail)
        assert [path.name for path in work.folder.iterdir()] == ["checkpoint.pt"]
        assert (work.folder / "checkpoint.pt").read_text() == "whole"


@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_an_error_of_a_library_is_one_sentence_too(library: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    def onto_a_full_disk(path: Path) -> None:
        if library == "torch":
            torch.save({"weights": torch.zeros(10)}, "/dev/full")
        else:  # it would replace /dev/full by renaming, so a folder that is not there stands for the disk
            save_file({"weights": torch.zeros(10)}, path / "missing")

    with Store(tmp_path).claim(S) as work:
        assert work is not None
        with pytest.raises(UserError, match="could not be written"):
            work.write("weights", onto_a_full_disk)
        assert not list(work.folder.iterdir())


def test_what_a_dead_trainer_had_completed_is_published_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path).claim(S) as work:
        assert work is not None
        work.write_checkpoint(1, lambda path: path.write_text("last"))
        monkeypatch.setattr(work, "finish", lambda: None)  # killed just before
        publish(work)
    with Store(tmp_path).claim(S) as nothing_to_do:
        assert nothing_to_do is None
    assert sorted(["SHA256SUMS", *Store(tmp_path).check(S)]) == names(tmp_path / "stages" / S) == FILES


def test_a_training_leaves_nothing_beside_its_result_even_if_it_is_killed_in_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception): ...

    def killed(self: Path, target: Path) -> None:
        raise Killed

    with pytest.raises(Killed), Store(tmp_path).claim(S) as work:
        assert work is not None
        work.write_checkpoint(1, lambda path: path.write_text("last"))
        monkeypatch.setattr(Path, "rename", killed)
        publish(work)
    monkeypatch.undo()
    (left,) = (tmp_path / "work").glob("*.*/")
    assert names(left) == FILES
    assert not Store(tmp_path).has(S)
    with Store(tmp_path).claim(S) as nothing_to_do:
        assert nothing_to_do is None
    assert sorted(["SHA256SUMS", *Store(tmp_path).check(S)]) == FILES


def test_a_claim_is_seen_by_other_processes_and_by_those_who_ask_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not store.is_claimed(S) and not store.works.exists()
    ask = (
        "from pathlib import Path; from ban.store.store import Store; "
        f"print(Store(Path({str(tmp_path)!r})).is_claimed('{S}'))"
    )
    with store.claim(S):
        assert store.is_claimed(S) and store.is_claimed(S)
        assert subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True).stdout == b"True\n"
    assert not store.is_claimed(S)


def test_a_folder_whose_result_was_removed_is_not_in_the_way(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.folder(S).mkdir(parents=True)
    (store.folder(S) / "weights").write_text("old")
    with store.claim(S) as work:
        assert work is not None
        publish(work)
    assert names(store.folder(S)) == FILES


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"machine\.outputs"), Store(tmp_path / "file").claim(S):
        pass


def test_results_are_read_once_until_their_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "FEWEST", 1)
    store, reads = published(tmp_path), list[str]()
    file = store.folder(S) / "result.json"

    def later() -> Store:
        """The store, as a later process sees it."""
        index_of(tmp_path).save()
        index_of.cache_clear()
        return Store(tmp_path)

    read = formats.read_result
    monkeypatch.setattr(formats, "read_result", lambda *given, **named: reads.append("") or read(*given, **named))
    first = store.listed(S)
    assert later().listed(S) == first and len(reads) == 1
    store.check(S)
    assert len(reads) == 2
    content = file.read_bytes()
    file.write_bytes(content)  # other times of change
    assert later().listed(S) == first and len(reads) == 3
    file.write_bytes(content.replace(b"50", b"40"))
    with pytest.raises(DamagedStage, match=r"result\.json is damaged"):
        later().listed(S)
    next((folder() / "stores").iterdir()).write_text("[")  # then all is read again
    file.write_bytes(content)
    assert later().listed(S) == first and len(reads) == 4
    store.remove(store.folder(S))
    with pytest.raises(DamagedStage, match="is missing"):
        later().listed(S)


def test_a_damaged_result_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = published(tmp_path)
    (store.folder(S) / "result.json").write_text('{"value": 2}')
    with pytest.raises(UserError, match=rf"result\.json is damaged.*ban stages remove {S}"):
        store.result(S)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_file_is_never_read(damage: str, tmp_path: Path) -> None:
    store = published(tmp_path)
    path = store.file(S, "weights.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[50] ^= 1
        path.write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(UserError, match="missing" if damage == "missing" else "damaged"):
        store.file(S, "weights.safetensors")


def test_the_checksums_are_those_of_the_usual_tool(tmp_path: Path) -> None:
    folder = published(tmp_path).folder(S)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(word for name in FILES[1:] for word in (f"{name}:", "OK"))


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    with Store(tmp_path).claim(S) as work:
        assert work is not None
        for step in (9, 10, 11):
            work.write_checkpoint(step, lambda path, step=step: path.write_text(f"{step} steps"))
        assert len(list(work.folder.iterdir())) == 2
        latest, damaged = work.latest_checkpoint()
        assert latest is not None and latest.read_text() == "11 steps" and not damaged
        latest.write_text("11 stepz")
        before, damaged = work.latest_checkpoint()
        assert before is not None and before.read_text() == "10 steps" and damaged == [latest.name]
        before.write_text("")
        assert work.latest_checkpoint() == (None, [before.name])
        work.write_checkpoint(1, lambda path: path.write_text("1 step"))  # nothing that is damaged is in its way
        again, damaged = work.latest_checkpoint()
        assert again is not None and again.read_text() == "1 step" and not damaged


def test_what_is_being_removed_is_not_taken_for_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = published(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path: (path / "weights.safetensors").unlink())  # killed half-way
        store.remove(store.folder(S))
    assert not store.has(S)
    with store.claim(S) as work:
        assert work is not None and not list(work.folder.iterdir())
    with store.claim(S), pytest.raises(UserError, match="another process trains it now"):
        store.remove(work.folder)


def test_what_another_process_finishes_or_removes_meanwhile_has_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, kept, finished, removed = Store(tmp_path), "0" * 16, "1" * 16, "2" * 16
    for name in (f"{kept}.aa", f"{finished}.bb", f"{removed}.cc.discarded"):
        (store.works / name).mkdir(parents=True)
        (store.works / name / "checkpoint-000").touch()
    scan = os.scandir

    def scan_later(path: str) -> Any:
        if finished in str(path):
            shutil.rmtree(path, ignore_errors=True)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_later)
    assert store.begun() == {kept}


def test_a_format_that_was_never_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("")
    assert not Store(tmp_path).has(S)


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    store = published(tmp_path)
    (tmp_path / "format").write_text("2\n")
    for use in (lambda: store.has(S), store.results, lambda: store.claim("f" * 16).__enter__()):
        with pytest.raises(UserError, match="another version of ban"):
            use()


def test_waiting_is_reported_and_may_be_given_up(tmp_path: Path) -> None:
    def give_up() -> None:
        raise KeyboardInterrupt

    with Store(tmp_path).claim(S), pytest.raises(KeyboardInterrupt), Store(tmp_path).claim(S, give_up):
        pass


def trainer(root: Path, log: Path) -> None:
    """Counts to twenty, saving each step, as a training would."""
    with Store(root).claim(S) as work:
        if work is None:
            return
        checkpoint, damaged = work.latest_checkpoint()
        assert not damaged
        step = int(checkpoint.read_text()) if checkpoint else 0
        with log.open("a") as lines:
            lines.write(f"from {step}\n")
        while step < 20:
            time.sleep(0.002)
            step += 1
            work.write_checkpoint(step, lambda path, step=step: path.write_text(str(step)))
        publish(work, train_nll=step)
        with log.open("a") as lines:
            lines.write("published\n")


@pytest.mark.parametrize("seed", range(10))
def test_three_processes_killed_at_random_train_once(seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    log = tmp_path / "log"
    for _ in range(4):
        processes = [CONTEXT.Process(target=trainer, args=(tmp_path, log)) for _ in range(3)]
        for process in processes:
            process.start()
        time.sleep(generator.uniform(0, 0.04))
        for process in processes:
            process.kill()
            process.join()
        if Store(tmp_path).has(S):
            break
    trainer(tmp_path, log)
    assert Store(tmp_path).result(S).get("train_nll") == 20
    lines = log.read_text().split()
    begun = [int(word) for word in lines if word.isdigit()]
    assert begun == sorted(begun)  # nobody began again before where another had stood
    assert lines.count("published") <= 1  # 0: killed between publishing and writing its line
    assert not list((tmp_path / "work").glob("*/"))


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that a group shares, as `umask 002` and the set-group-id bit make it."""
    with tempfile.TemporaryDirectory() as name:  # above tmp_path, folders are closed to other users
        folder = Path(name) / "outputs"
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, -1, 12345)
        folder.chmod(0o2775)
        Path(name).chmod(0o755)
        before = os.umask(0o002)
        yield folder
        os.umask(before)


def test_every_file_of_a_shared_store_is_the_groups(shared: Path, tmp_path: Path) -> None:
    store, file = published(shared), tmp_path / "stage.ban"
    with store.claim("f" * 16) as work:
        assert work is not None
        work.write_checkpoint(1, lambda path: save_file({"w": np.zeros(1)}, path))  # its mode is 0600
    export_stage(store, S, file)
    other = Store(shared / "imported")
    assert import_stage(other, file) == S
    Journal(store).append(S, "text")
    Journal(store).write(Note.by_this_process(STAGE, "running"))
    for path in shared.rglob("*"):
        mode, expected = path.stat().st_mode, 0o775 if path.is_dir() else 0o664
        assert (mode & 0o777, path.stat().st_gid) == (expected, shared.stat().st_gid), path
    assert _permissions(store).state == "good"
    (store.folder(S) / "weights.safetensors").chmod(0o600)
    assert _permissions(store).state == "note"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
@pytest.mark.parametrize("name", ["stages/{S}/weights.safetensors", "stages/{S}/result.json", "stages/{S}", "stages"])
def test_a_file_of_another_user_is_named_with_its_mode_and_owner(name: str, shared: Path) -> None:
    store, path = published(shared), shared / name.format(S=S)
    path.chmod(0o700 if path.is_dir() else 0o600)
    os.setresuid(65534, 65534, 0)
    try:
        assert _permissions(store).state == "bad"
        for use in (lambda: store.check(S), lambda: [store.check(signature) for signature in store.finished()]):
            with pytest.raises(UserError, match=rf"{path} has mode .*00\) and belongs to root, who can run") as refusal:
                use()
            assert not isinstance(refusal.value, DamagedStage)  # so nobody is advised to remove it
        with pytest.raises(UserError, match="belongs to root"), Store(shared).claim("f" * 16):
            pass
    finally:
        os.setresuid(0, 0, 0)
