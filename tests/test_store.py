"""The publish protocol, without torch: whatever is killed when, each stage is trained once and is whole or absent."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from ban.errors import UserError
from ban.store import Store

CONTEXT = multiprocessing.get_context("fork")


def test_a_stage_appears_only_when_it_is_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim("s") as work:
        assert work is not None
        work.write_json("stage.json", {})
        work.write("checkpoint.pt", lambda path: path.write_text("half"))
        assert not store.has("s") and not store.folder("s").exists()
        work.publish({"value": 1})
    assert store.result("s") == {"value": 1}
    assert sorted(path.name for path in store.folder("s").iterdir()) == ["result.json", "stage.json"]
    with store.claim("s") as again:
        assert again is None


def test_interrupted_work_is_taken_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim("s") as work:
        assert work is not None
        work.write("checkpoint.pt", lambda path: path.write_text("half"))
        dead = work.folder
    with store.claim("s") as heir:
        assert heir is not None and heir.folder != dead and not dead.exists()
        assert (heir.folder / "checkpoint.pt").read_text() == "half"


def test_who_was_taken_over_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim("s") as work:
        assert work is not None
    with store.claim("s"), pytest.raises(UserError, match="taken over"):
        work.write_json("stage.json", {})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with Store(tmp_path).claim("s") as work:
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

    with Store(tmp_path).claim("s") as work:
        assert work is not None
        with pytest.raises(UserError, match="could not be written"):
            work.write("weights", onto_a_full_disk)
        assert not list(work.folder.iterdir())


def test_what_a_dead_trainer_had_completed_is_published_as_it_is(tmp_path: Path) -> None:
    with Store(tmp_path).claim("s") as work:
        assert work is not None
        work.write_json("result.json", {"value": 7})
        work.write("checkpoint.pt", lambda path: path.write_text("last"))
    with Store(tmp_path).claim("s") as nothing_to_do:
        assert nothing_to_do is None
    assert Store(tmp_path).result("s") == {"value": 7}
    assert [path.name for path in (tmp_path / "stages" / "s").iterdir()] == ["result.json"]


def test_a_folder_whose_result_was_removed_is_not_in_the_way(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.folder("s").mkdir(parents=True)
    (store.folder("s") / "weights").write_text("old")
    with store.claim("s") as work:
        assert work is not None
        work.publish({"value": 1})
    assert [path.name for path in store.folder("s").iterdir()] == ["result.json"]


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"machine\.outputs"), Store(tmp_path / "file").claim("s"):
        pass


def test_a_damaged_result_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.folder("s").mkdir(parents=True)
    (store.folder("s") / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json cannot be read"):
        store.result("s")


def test_waiting_is_reported_and_may_be_given_up(tmp_path: Path) -> None:
    def give_up() -> None:
        raise KeyboardInterrupt

    with Store(tmp_path).claim("s"), pytest.raises(KeyboardInterrupt), Store(tmp_path).claim("s", give_up):
        pass


def trainer(root: Path, log: Path) -> None:
    """Counts to twenty, saving each step, as a training would."""
    with Store(root).claim("s") as work:
        if work is None:
            return
        checkpoint = work.folder / "checkpoint"
        step = int(checkpoint.read_text()) if checkpoint.exists() else 0
        with log.open("a") as lines:
            lines.write(f"from {step}\n")
        while step < 20:
            time.sleep(0.002)
            step += 1
            work.write("checkpoint", lambda path, step=step: path.write_text(str(step)))
        work.publish({"steps": step})
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
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        if Store(tmp_path).has("s"):
            break
    trainer(tmp_path, log)
    assert Store(tmp_path).result("s") == {"steps": 20}
    lines = log.read_text().split()
    begun = [int(word) for word in lines if word.isdigit()]
    assert begun == sorted(begun)  # nobody began again before where another had stood
    assert lines.count("published") <= 1  # 0: killed between publishing and writing its line
    assert not list((tmp_path / "work").glob("*/"))
