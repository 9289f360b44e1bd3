"""`ban stages`: what is in the store, whole or damaged; and stages that come from somebody else."""

import json
import pickle
import time
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from helpers import DIGITS, Say, files, flip_a_bit, host, plan, quiet
from safetensors.numpy import save

from ban.commands.curves import HEIGHT, plot
from ban.display import console
from ban.errors import UserError
from ban.launch.journal import Journal, Note
from ban.plan.identity import description_of
from ban.plan.lineage import lineage
from ban.plan.signature import signature_of
from ban.settings.compose import compose_settings
from ban.store.archive import export_stage, import_stage
from ban.store.store import Store
from ban.training.run import run
from ban.training.signals import Signals

QUICK = ("recipe.epochs=5",)
TEACHER, STUDENT = (stage.signature for stage in plan(*QUICK))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("trained")
    settings = compose_settings([*DIGITS, *QUICK, f"machine.outputs={outputs}"])
    for stage in lineage(settings):
        run(stage, host(settings), quiet, Signals())
    return outputs


@pytest.fixture
def outputs(trained: Path, tmp_path: Path) -> Path:
    """A copy of the store with a teacher and its student."""
    copy = tmp_path / "outputs"
    for path in files(trained):
        target = copy / path.relative_to(trained)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return copy


@pytest.fixture
def say(say: Say, outputs: Path) -> Say:
    """What `ban stages …` prints."""
    return lambda *words, outputs=outputs: say("stages", *words, f"machine.outputs={outputs}")


def test_they_are_listed_and_chosen_by_words(say: Say) -> None:
    assert "2 stages, " in say() and TEACHER in say() and STUDENT in say()
    one = say("list", "BAN-1", "digits")
    assert STUDENT in one and "1 stage matching" in one
    assert "0 stages matching" in say("cwtm")


def test_one_is_shown_by_the_beginning_of_its_signature(say: Say) -> None:
    shown = say("show", STUDENT[:6])
    for word in (STUDENT, TEACHER, "1,442", "weights.safetensors", "100 training", "test_error_percent"):
        assert word in shown
    with pytest.raises(SystemExit, match="no signature begins with zzz"):
        say("show", "zzz")


def test_damage_is_found_and_named_and_does_not_hide_the_others(say: Say, outputs: Path) -> None:
    assert "2 stages checked" in say("verify")
    flip_a_bit(outputs / "stages" / TEACHER / "weights.safetensors")
    with pytest.raises(SystemExit, match=rf"1 of 2 stages damaged:\n.*{TEACHER}/weights.safetensors is damaged"):
        say("verify")
    flip_a_bit(outputs / "stages" / TEACHER / "result.json")
    assert "1 stage, " in (listed := say()) and f"Damaged: {TEACHER}" in listed
    assert "Removed 1 folder." in say("remove", TEACHER, "yes=true")
    assert "1 stage, " in say()


def test_a_damaged_teacher_may_go_although_it_taught(say: Say, outputs: Path) -> None:
    flip_a_bit(outputs / "stages" / TEACHER / "weights.safetensors")
    assert "Removed 1 folder." in say("remove", TEACHER, "yes=true")  # who needs it trains it again
    assert Store(outputs).finished() == [STUDENT]


def test_a_teacher_stays_as_long_as_its_students(say: Say, outputs: Path) -> None:
    assert f"({TEACHER}) is kept: it taught {STUDENT}" in say("remove", TEACHER)
    with pytest.raises(SystemExit, match=r"nothing was removed. Remove 1 folder, .* kB\? Add yes=true"):
        say("remove", STUDENT)
    assert Store(outputs).has(STUDENT)
    say("remove", "digits", "yes=true")
    assert not Store(outputs).finished()


def test_unfinished_trainings_are_removed_only_if_nobody_goes_on_with_them(say: Say, outputs: Path) -> None:
    store = Store(outputs)
    grandchild = plan(*QUICK, "generations=2")[-1]
    with store.claim(grandchild.signature) as work:
        assert work is not None
        work.write_json("stage.json", description_of(grandchild))
        assert "nothing to remove" in say("remove", "unfinished")
        assert f"is kept: it taught {grandchild.signature}" in say("remove", STUDENT)
    with pytest.raises(SystemExit, match="use: ban stages remove WORD"):
        say("remove", "yes=true")
    assert "Removed 1 folder." in say("remove", "unfinished", "yes=true")
    assert not work.folder.exists() and len(store.finished()) == 2


def test_nothing_is_said_of_what_was_removed(say: Say, outputs: Path) -> None:
    journal = Journal(Store(outputs))
    (stage,) = plan("method=labels", "seed=7")
    with journal.store.claim(stage.signature):
        pass
    for state in ("stopped", "failed"):
        journal.write(Note.by_this_process(stage, state))
        say("remove", "unfinished", "yes=true")
        assert not journal.notes()
        with journal.store.claim(stage.signature):
            pass


def test_a_stage_goes_to_another_store_as_one_file(say: Say, tmp_path: Path, outputs: Path) -> None:
    file, other = tmp_path / "teacher.ban", tmp_path / "other"
    assert "ban stages import teacher.ban" in say("export", TEACHER[:8], str(file))
    assert "Imported " in say("import", str(file), outputs=other)
    for path in files(outputs / "stages" / TEACHER):
        assert (other / "stages" / TEACHER / path.name).read_bytes() == path.read_bytes()
    assert "in the store already" in say("import", str(file), outputs=other)
    with pytest.raises(SystemExit, match="exists already"):
        say("export", TEACHER, str(file))
    flip_a_bit(outputs / "stages" / STUDENT / "curves.jsonl")
    with pytest.raises(SystemExit, match=r"curves\.jsonl is damaged"):
        say("export", STUDENT, str(tmp_path / "student.ban"))
    assert not list(tmp_path.glob("*student*"))


class Archive:
    """An exported stage, to be tampered with."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.path, self.folder = folder / "stage.ban", folder
        export_stage(store, TEACHER, self.path)
        with zipfile.ZipFile(self.path) as archive:
            self.entries = {name: archive.read(name) for name in archive.namelist()}

    def rewrite(self, more: tuple[tuple[str, bytes], ...] = (), compression: int = zipfile.ZIP_STORED) -> None:
        """With entries of its own, and a list of checksums that agrees with everything."""
        import hashlib

        entries = {name: content for name, content in self.entries.items() if name != "SHA256SUMS"} | dict(more)
        sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in entries.items())
        with zipfile.ZipFile(self.path, "w", compression) as archive:
            for name, content in {**entries, "SHA256SUMS": sums.encode()}.items():
                archive.writestr(name, content)

    def edit(self, name: str, **values: object) -> None:
        self.entries[name] = json.dumps(json.loads(self.entries[name]) | values).encode()


@pytest.fixture
def archive(trained: Path, tmp_path: Path) -> Archive:
    return Archive(Store(trained), tmp_path)


def refused(archive: Archive, reason: str) -> None:
    """Nothing of it is taken, inside or outside of the store."""
    before = files(archive.folder)
    with pytest.raises(UserError, match=reason):
        import_stage(Store(archive.folder / "store"), archive.path)
    assert files(archive.folder) == before


@pytest.mark.parametrize(
    "name", ["../evil.py", "/tmp/evil", "a/b.json", "evil.pt", "weights.pkl", "..", "stage.json\n"]
)
def test_a_file_that_is_no_stages_is_refused(name: str, archive: Archive) -> None:
    archive.rewrite(more=((name, b"x"),))
    refused(archive, "is not a file of a stage|its files do not match")


def test_what_would_grow_is_refused(archive: Archive) -> None:
    archive.rewrite(more=(("vocabulary.txt", bytes(10**6)),), compression=zipfile.ZIP_DEFLATED)
    refused(archive, "is compressed")


def test_settings_that_are_not_the_signatures_are_refused(archive: Archive) -> None:
    archive.edit("stage.json", seed=7)
    archive.rewrite()
    refused(archive, "stage.json has a signature that does not match its settings")


@pytest.mark.parametrize("signature", ["../../evil", "0" * 16, 7, None])
def test_another_signature_is_refused(signature: object, archive: Archive) -> None:
    archive.edit("stage.json", signature=signature)
    archive.rewrite()
    refused(archive, "stage.json has a signature that does not match its settings")


def test_somebody_elses_result_is_refused(archive: Archive) -> None:
    archive.edit("result.json", generation=3)
    archive.rewrite()
    refused(archive, "result.json belongs to another stage")


@pytest.mark.parametrize("names", [["/tmp/elsewhere"], ["0" * 16]])
def test_parents_that_the_signature_does_not_cover_are_refused(names: list[str], archive: Archive) -> None:
    """They are followed, and name folders of trackers."""
    for file in ("stage.json", "result.json"):
        archive.edit(file, parents=names)
    archive.rewrite()
    refused(archive, "result.json names a parent that is not in the settings")


def test_teachers_that_are_no_signatures_are_refused(archive: Archive) -> None:
    archive.edit("result.json", teachers=["../../evil"])
    archive.rewrite()
    refused(archive, "result.json has no valid teachers")


@pytest.mark.parametrize("settings", [{"dataset": []}, {"models": 5}, {"method": {"_target_": 5}}])
def test_a_description_that_is_none_is_refused(settings: dict[str, object], archive: Archive) -> None:
    archive.edit("stage.json", **settings)
    archive.rewrite()
    refused(archive, "is not a stage that")


@pytest.mark.parametrize("name", ["test_error_percent", "finished", "parents", "networks"])
def test_a_result_without_what_tables_need_is_refused(name: str, archive: Archive) -> None:
    archive.edit("result.json", **{name: None})
    archive.rewrite()
    refused(archive, f"result.json (has no valid {name}|belongs to another stage)")


def test_a_text_that_could_steer_a_terminal_is_refused(archive: Archive) -> None:
    archive.edit("result.json", device_name="\x1b]0;evil\x07")
    archive.rewrite()
    refused(archive, "control characters")


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "pickle", "missing"])
def test_a_damaged_archive_is_refused(damage: str, archive: Archive) -> None:
    if damage == "flipped":
        flip_a_bit(archive.path)
    elif damage == "missing":
        archive.path.unlink()
    else:
        content = {"truncated": archive.path.read_bytes()[:-100], "empty": b"", "pickle": pickle.dumps(print)}
        archive.path.write_bytes(content[damage])
    refused(archive, "is missing|or it is damaged")


def test_weights_that_are_a_pickle_are_an_error_and_not_run(archive: Archive) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (archive.folder / "evil",))

    archive.entries["weights.safetensors"] = pickle.dumps(Evil())
    archive.rewrite()
    refused(archive, r"weights\.safetensors is not a file of safetensors")


def test_weights_of_another_network_are_an_error(archive: Archive) -> None:
    archive.entries["weights.safetensors"] = save({"other": np.zeros(3, np.float32)})
    archive.rewrite()
    outputs = archive.folder / "store"
    assert import_stage(Store(outputs), archive.path) == TEACHER  # only who builds the network can say
    settings = compose_settings([*DIGITS, *QUICK, f"machine.outputs={outputs}"])
    with pytest.raises(UserError, match=r"weights\.safetensors does not fit Small-Conv"):
        run(lineage(settings)[-1], host(settings), quiet, Signals())


def test_a_description_gives_its_signature(trained: Path) -> None:
    for signature in (TEACHER, STUDENT):
        description = json.loads((trained / "stages" / signature / "stage.json").read_text())
        assert signature_of(description) == signature


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_fits_a_terminal_with_short_signatures(width: int, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_force_terminal", True)
    monkeypatch.setattr(console, "_width", width)
    lines = say().splitlines()
    assert all(len(line) <= width for line in lines[:-1])
    (teacher,) = (line for line in lines if TEACHER[:8] in line)
    assert TEACHER not in teacher and "test error" in teacher
    assert ("kB" in teacher) == (width == 120)


def test_times_are_local(say: Say, monkeypatch: pytest.MonkeyPatch, outputs: Path) -> None:
    path = outputs / "stages" / TEACHER / "result.json"
    finished = datetime.fromisoformat(json.loads(path.read_text())["finished"])
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert f"{finished + timedelta(hours=9):%Y-%m-%d %H:%M}" in say()
        assert "+0900" in say("show", TEACHER[:6])
    finally:
        monkeypatch.undo()
        time.tzset()


def test_curves_are_plotted(say: Say) -> None:
    shown = say("show", TEACHER[:6])
    assert "train_error_percent, epochs 1 to 5" in shown and "█" in shown
    assert plot([1.0], 40)[-1].endswith("┤▁") and len(plot([3.0] * 9, 40)) == HEIGHT
    falling = plot([float(value) for value in range(1000, 0, -1)], 40)
    assert all(len(line) <= 51 for line in falling) and falling[0].strip().startswith("9")
