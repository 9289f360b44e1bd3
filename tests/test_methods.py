"""`ban methods` and the pages of the methods: complete, and as their YAML files and docstrings say."""

import re
from io import StringIO
from pathlib import Path

import pytest
import yaml
from helpers import Say
from rich.console import Console

from ban import display
from ban.commands import methods
from ban.commands.method_pages import of_all, of_method, with_generated, write
from ban.errors import UserError
from ban.settings import files
from ban.settings.compose import CONF

DOCS = Path(__file__).parents[1] / "docs"
FILES = files.files_of("method")
PARTS = ["Idea", "What is matched", "Command", "Our result", "Choices"]
"""Of a page, in order; the last two may be missing."""


def shown(monkeypatch: pytest.MonkeyPatch, width: int, *words: str, folder: Path | None = None) -> str:
    console = Console(
        file=StringIO(), width=width, force_terminal=True, color_system=None, highlight=False, markup=False
    )
    for module in (methods, display):
        monkeypatch.setattr(module, "console", console)
    with console.capture() as text:
        methods.methods(words, folder)
    return text.get()


@pytest.mark.parametrize("width", [40, 80])
def test_all_methods_are_listed_by_group(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, width)
    assert max(map(len, text.splitlines())) <= width
    headings = re.findall(r"^(\S.*):$", text, re.M)
    assert [heading for heading in headings if heading in methods.GROUPS] == [*methods.GROUPS]
    assert methods.OTHERS not in headings
    by_heading = re.split(r"^(\S.*):$", text, flags=re.M)
    members = dict(zip(by_heading[1::2], by_heading[2::2], strict=True))
    assert re.search(r"^ ?ps_kd\b", members["Self-distillation without a teacher"], re.M)
    assert [name for name in FILES if not re.search(rf"^ ?{name}\s", text, re.M)] == []


@pytest.mark.parametrize("width", [40, 80])
def test_one_method_is_shown(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(shown(monkeypatch, width, "fitnets").split())
    for words in (
        "FitNet: method=fitnets",
        "Romero et al. 2015, FitNets: Hints for Thin Deep Nets, ICLR",
        "1 trained teacher; networks with the layers stage2; a first stage up to stage2 (epochs 0.5, rate 0.1 of",
        "weight 0.01; ban.terms.Hint (guided stage2, hint stage2): Squared distance of a regression of",
        "weight ban.schedules.Linear (start 4.0, end 1.0); ban.terms.Probabilities (temperature 3.0, squared_tempera",
        "ban method=fitnets dry_run=true",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("labels", "the labels alone"),
        ("deep_mutual_learning_sync", "2 networks that are trained together"),  # of the file that it extends
        ("mean_teacher", "images without labels (dataset.labelled=N); 2 views of each image"),
        ("cs_kd", "another image of the same class beside each"),
        ("munge", "3 trained teachers; synthetic examples (multiplier 10, swap_probability 0.5, local_variance 1.0)"),
        ("at", "1 trained teacher; networks with the layers stage1, stage2, stage3"),
        ("byot", "networks with two or more convolutional stages"),
        ("dlb", "batches of which half is the last one's again"),
        (
            "noisy_student",
            "1 trained teacher; images without labels (dataset.labelled=N); "
            "distorted images (operations 2, magnitude 0.9)",
        ),
    ],
)
def test_what_a_method_needs(name: str, needs: str) -> None:
    assert methods.needs(files.content_of(FILES[name])) == needs


def test_the_first_sentence_of_a_docstring_is_found_without_an_import() -> None:
    assert methods.docstring("ban.terms.Label") == "Cross-entropy with the label."
    assert methods.docstring("ban.terms.Absent") == methods.docstring("absent.Term") == ""


def test_every_part_has_a_docstring() -> None:
    missing = [
        name for name, path in FILES.items() for _, text in methods.facts(path) if "ban.t" in text and ": " not in text
    ]
    assert missing == []


def test_a_users_method_is_listed_too(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_too.py").write_text('class Mine:\n    """My own loss. It is new."""\n')
    (tmp_path / "my own" / "method").mkdir(parents=True)
    own = "# Mine, as I thought.\nname: mine\ntitle: Mine\nterms: {own: {_target_: mine_too.Mine, weight: 2}}\n"
    (tmp_path / "my own" / "method" / "mine.yaml").write_text(own)
    listed = say("--config-dir", "my own", "methods")
    assert listed.index("Tolerant teachers:") < listed.index("Other methods:") < listed.index("Mine, as I thought.")
    shown = say("--config-dir", "my own", "methods", "mine")
    assert "weight 2; mine_too.Mine: My own loss." in shown
    assert "ban --config-dir 'my own' method=mine dry_run=true" in shown
    assert "ban method=ban dry_run=true" in say("--config-dir", "my own", "methods", "ban")


def test_relative_references_are_resolved() -> None:
    assert (
        "ban.terms.Factors (layer stage3, rate 0.5)" in dict(methods.facts(FILES["ft"]))["second stage: term factors"]
    )


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        ("terms: {label: null}", "method.terms.label is null, but it must be a mapping"),
        ("terms: [1]", "method.terms is [1], but it must be"),
        ("pretrain: {terms: {hint: 0.5}}", "method.pretrain.terms.hint is 0.5, but it must be"),
        ("data: {munge: true}", "method.data.munge is true, but it must be"),
        ("group: 5", "method.group is 5, but it must be text"),
        ("reference: [a, b]", "method.reference is [a, b], but it must be text"),
    ],
)
def test_a_users_file_without_the_right_parts_is_refused(settings: str, refusal: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"name: mine\n{settings}\n")
    with pytest.raises(UserError, match=re.escape(refusal)):
        methods.facts(tmp_path / "mine.yaml")
    if settings.startswith("group"):
        with pytest.raises(UserError, match=re.escape(refusal)):
            methods.by_group({"mine": tmp_path / "mine.yaml"})


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["fitnet"], "there is no method 'fitnet': did you mean `ban methods fitnets`?"),
        (["xyzzy"], "there is no method 'xyzzy': `ban methods` lists all."),
        (["ban", "kd"], r"use: ban methods \[NAME\]"),
        (["seed=1"], r"use: ban methods \[NAME\]"),
    ],
)
def test_what_is_not_a_method_is_refused(words: list[str], refusal: str, say: Say) -> None:
    with pytest.raises(SystemExit, match=refusal.replace("?", r"\?")):
        say("methods", *words)


# Pages


def test_every_shipped_method_has_a_page_and_no_page_has_none() -> None:
    assert {path.stem for path in (DOCS / "methods").glob("*.md")} == {*FILES}


@pytest.mark.parametrize("name", FILES)
def test_a_page_has_its_parts_in_order(name: str) -> None:
    text = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    title = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text(encoding="utf-8"))["title"]
    assert text.startswith(f"# {title}: `method={name}`\n")
    found = re.findall(r"^\*\*([\w ]+)\.\*\*", text, re.M)
    assert found == [part for part in PARTS if part in found] and {*PARTS[:3]} <= {*found}
    assert text.index("**Idea.**") < text.index("```math") < text.index("**What is matched.**")
    commands = text.partition("**Command.**")[2].partition("\n**")[0]
    assert re.search(rf"```sh\n.*\bmethod={name}\b", commands, re.S)


@pytest.mark.parametrize("name", FILES)
def test_a_page_says_what_the_files_say(name: str) -> None:
    """If this fails: `make pages`."""
    text = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert with_generated(text, of_method(FILES[name])) == text


def test_the_overview_has_all_methods() -> None:
    """If this fails: `make pages`."""
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert with_generated(text, of_all()) == text
    assert {*re.findall(r"\(methods/(\w+)\.md\)", of_all())} == {*FILES}


def test_a_table_has_the_weights_of_the_file() -> None:
    assert "| term label | weight 0.1; ban.terms.Label: Cross-entropy with the label. |" in of_method(FILES["kd"])
    assert "| source | Hinton, Vinyals and Dean 2015, Distilling" in of_method(FILES["kd"])


def test_pages_are_begun_and_written_again(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods.md").write_text((DOCS / "methods.md").read_text(encoding="utf-8"))
    write(tmp_path)
    page = tmp_path / "methods" / "dkd.md"
    first = page.read_text()
    assert first.startswith("# DKD") and "DecoupledProbabilities" in first
    page.write_text(first.replace("weight 1.0", "weight 3.0").replace("# DKD", "# Mine"))
    write(tmp_path)
    assert page.read_text() == first.replace("# DKD", "# Mine")
    with pytest.raises(ValueError, match="needs the lines"):
        with_generated("# A page\n", "")
