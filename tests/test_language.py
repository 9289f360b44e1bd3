"""Language models: texts, networks, the carried state, the loss convention, and honest perplexities."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import LANGUAGE, TEXT, Train, curves, frozen, plan, weights
from safetensors.torch import load_file

from ban.data import corpus
from ban.data.corpus import END, Corpus, Vocabulary
from ban.data.text import Text
from ban.errors import UserError
from ban.interfaces import Batch, Progress, Step
from ban.losses import cross_entropy
from ban.models import LSTM, CharacterLSTM
from ban.report.render import record
from ban.report.results import Results
from ban.report.tables import everything
from ban.schedules import Plateau
from ban.settings.compose import compose_settings
from ban.store.result import outcome
from ban.store.store import Store
from ban.training import build

# Words


def text(**options: object) -> Text:
    dataset = plan(kind="language")[0].dataset
    given = {"batch_size": 5, "unroll": 35, "steps_per_epoch": None, "device": torch.device("cpu")}
    return build.build(dataset.constructor_arguments | options, data_dir=Path(), download=False, **given)


def test_an_epoch_reads_every_row_in_order_and_predicts_the_next_word() -> None:
    words = text()
    batches = list(words.epoch((0,), 0))
    assert len(batches) == words.steps_per_epoch == len(corpus.read(str(TEXT)).train) // 5 // 35
    inputs = torch.cat([batch.views[0] for batch in batches])
    targets = torch.cat([batch.targets for batch in batches])
    assert torch.equal(inputs[1:], targets[:-1])
    whole = Vocabulary(corpus.read(str(TEXT)).train, 2).encode([END, *corpus.read(str(TEXT)).train])
    row = len(corpus.read(str(TEXT)).train) // 5
    for number in range(5):
        assert inputs[:, number].tolist() == whole[number * row : number * row + len(inputs)].tolist()


def test_an_epoch_that_is_resumed_goes_on_where_it_was() -> None:
    words = text()
    rest = [batch.targets.tolist() for batch in words.epoch((0,), 0)][7:]
    assert [batch.targets.tolist() for batch in words.epoch((0,), 0, 7)] == rest


def test_evaluation_predicts_every_word_once_the_first_from_the_end_of_a_line() -> None:
    words, read = text(), corpus.read(str(TEXT))
    vocabulary = Vocabulary(read.train, 2)
    batches = list(words.evaluation("test"))
    assert torch.cat([batch.targets for batch in batches]).flatten().tolist() == vocabulary.encode(read.test).tolist()
    assert batches[0].views[0][0].item() == vocabulary.index[END]


def test_the_vocabulary_and_how_its_words_are_spelled() -> None:
    vocabulary = Vocabulary(["b", "ab", "b", END, "ab", "b", "c"], min_count=2)
    assert vocabulary.words == ["<unk>", "b", "ab", END] and vocabulary.alphabet == ["a", "b"]
    assert vocabulary.encode(["c", "ab", "zzz"]).tolist() == [0, 2, 0]
    assert vocabulary.spelling.tolist() == [[1, 3, 2, 0], [1, 6, 2, 0], [1, 5, 6, 2], [1, 4, 2, 0]]
    assert Vocabulary([END], min_count=2).spelling.tolist() == [[1, 3, 2], [1, 4, 2]]  # lines end, however rarely


def test_pythons_help_is_english_and_no_paragraph_is_in_two_parts() -> None:
    parts = corpus.python_help()
    assert 20_000 < len(parts.train) < 80_000 and min(len(parts.validation), len(parts.test)) > 2_000
    paragraphs = [set(" ".join(part).split(END)) - {"", " "} for part in parts]
    assert not paragraphs[0] & paragraphs[1] and not paragraphs[0] & paragraphs[2] and not paragraphs[1] & paragraphs[2]
    assert Counter(parts.train).most_common(1)[0][0] == "the"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no file with 'train' in its name"),
        ({"train.txt": "a b", "test.txt": "a"}, "no file with 'valid' in its name"),
        ({"train.txt": "a b", "valid.txt": "", "test.txt": "a b"}, "the validation text is empty"),
        ({"train.txt": b"\xff\xfe", "valid.txt": "a", "test.txt": "a"}, "train.txt is not UTF-8"),
        ({"train.txt": "a b".encode("utf-16-le"), "valid.txt": "a", "test.txt": "a"}, "train.txt contains NUL bytes"),
        (
            {"train.txt": f"a b {'x' * 2**27}", "valid.txt": "a", "test.txt": "a"},
            r"characters \(x+…\), which is too long",
        ),
        ({"train.txt": "a b", "valid.txt": "<eos>\n<eos>", "test.txt": "a b"}, "the validation text is empty"),
        ({"train.txt": "a", "old_train.txt": "a"}, "several files for 'train'"),
        ({"train.txt": "a", "test_valid.txt": "a"}, "no file with 'valid' in its name"),
    ],
)
def test_what_is_wrong_with_a_text_is_said(files: dict[str, str | bytes], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        compose_settings([*LANGUAGE, f"dataset.path={tmp_path}", "dataset.min_count=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.path=2024", "dataset.path=2024 is neither a file nor a folder"),
        (f"dataset.path={'x' * 300}", "cannot be read: File name too long"),
        ("dataset.path='~nosuch/text'", "cannot be read: Could not determine home directory"),
        ("dataset.min_count=many", "dataset.min_count is many; it must be an integer"),
        ("dataset.classes=7", "dataset.classes is 7, but this text has 62"),
    ],
)
def test_what_is_wrong_with_its_settings_is_said(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stage = plan(override, kind="language")[0]
        text(**stage.dataset.constructor_arguments)


def test_a_file_of_a_few_lines_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "text8").write_text("anarchism originated as a term")
    with pytest.raises(UserError, match="must have 10 lines or more to be split by lines, not 1"):
        compose_settings([*LANGUAGE, f"dataset.path={tmp_path / 'text8'}"])


def test_a_folder_with_three_files_is_a_text(tmp_path: Path) -> None:
    for name, lines in {"wiki.train.tokens": "a b c\n\na b", "wiki.valid.tokens": "a", "wiki.test.tokens": "b"}.items():
        (tmp_path / name).write_text(lines)
    assert corpus.read(str(tmp_path)) == (["a", "b", "c", END, "a", "b", END], ["a", END], ["b", END])


LINES = ["the cat sat", "on a mat", "it slept"] * 5


@pytest.mark.parametrize(
    "content",
    [
        "\r\n".join(LINES),
        "\r".join(LINES),
        "\ufeff" + "\n\n".join(LINES) + "\n",
        "\n".join(f"{line} <eos>" for line in LINES),
        "\n".join(f"<eos> {line}  <eos> <eos> " for line in LINES),
        "\n<eos>\n".join(LINES) + "\n<eos>\n",
    ],
    ids=["CRLF", "CR", "BOM and blank lines", "ends", "starts and ends", "ends in lines of their own"],
)
def test_marks_in_a_file_are_not_words(content: str, tmp_path: Path) -> None:
    """Nor do two spellings of one text get different signatures."""
    checksums = []
    for name, text in {"plain.txt": "\n".join(LINES), "other.txt": content}.items():
        (tmp_path / name).write_bytes(text.encode())
        read = corpus.read(str(tmp_path / name))
        assert read.train[:5] == ["the", "cat", "sat", END, "on"] and read.train.count(END) == 12
        checksums.append(read.checksum)
    assert checksums[0] == checksums[1]


def warnings(path: Path, text: str, *overrides: str) -> str:
    path.write_text(text)
    return " ".join(plan(f"dataset.path={path}", *overrides, kind="language")[0].dataset.warnings)


def test_markup_and_many_unknown_words_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    path, known = tmp_path / "text.txt", "\n".join(["a b c d e"] * 500)
    assert warnings(path, known) == ""
    marked = warnings(path, known.replace("a b", "<s> <UNK>"))
    assert marked.startswith("the text has <s> (500 times), <UNK> (500 times), which is read as a word like any other")
    often, rare = (
        warnings(path, TEXT.read_text(), "dataset.min_count=60"),
        "\n".join(f"a b c d e new{i}" for i in range(50)),
    )
    assert "many words are unknown: train 44.3 %" in often and "lower dataset.min_count" in often
    assert "train 0.0 %, validation 0.0 %, test 13.2 %" in warnings(path, f"{known}\n{rare}", "dataset.min_count=1")


def test_a_perplexity_carries_the_share_of_unknown_words(train: Train, tmp_path: Path) -> None:
    result = train("method=labels", "recipe.epochs=1", "dataset.min_count=60", kind="language")[0]
    read = corpus.read(str(TEXT))
    counts = Counter(read.train)
    for split, part in read._asdict().items():
        expected = 100 * sum(counts[word] < 60 and word != END for word in part) / len(part)
        assert result[f"{split}_unknown_percent"] == pytest.approx(expected) and expected > 10
    share = f"{result['test_unknown_percent']:.1f} %"
    assert outcome(result).endswith(f"({share} of the words unknown)")
    (table,) = everything(Results(Store(tmp_path)))
    assert table.title.endswith(f"test {share}")
    assert record(table, table.rows[0])["test_unknown_percent"] == result["test_unknown_percent"]


def test_a_text_that_has_changed_is_refused() -> None:
    with pytest.raises(UserError, match="it is a different text"):
        text(checksum="sha256:0")
    with pytest.raises(UserError, match="do not fill one batch"):
        text(train_size=100)
    with pytest.raises(UserError, match="there are only"):
        text(test_size=100_000)


def test_the_signature_of_a_text_is_its_content_not_its_place(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_bytes(TEXT.read_bytes())
    there = plan(f"dataset.path={elsewhere}", kind="language")[0]
    assert there.signature == plan(kind="language")[0].signature
    elsewhere.write_text(TEXT.read_text() + "one more line\n")
    assert plan(f"dataset.path={elsewhere}", kind="language")[0].signature != there.signature


class TestPennTreebank:
    """Its loader on a few words; the real one's counts are in conf/dataset/ptb.yaml and checked when it is read."""

    parts = Corpus(["a", "b", END, "a", END], ["a", END], ["b", END])
    lines = {"ptb.train.txt": "a b\n a \n", "ptb.valid.txt": "a\n", "ptb.test.txt": "b\n"}

    def load(self, folder: Path, mirror: Path | None = None, **files: str) -> Text:
        sums = {name: hashlib.sha256(line.encode()).hexdigest() for name, line in (self.lines | files).items()}
        mirrors = [] if mirror is None else [(folder / "nowhere").as_uri(), mirror.as_uri()]
        dataset = compose_settings(["model=lstm"]).dataset.constructor_arguments
        sizes = {
            "classes": 4,
            "characters": 7,
            "word_length": 3,
            "train_size": 5,
            "validation_size": 2,
            "test_size": 2,
            "files": sums,
            "mirrors": mirrors,
        }
        given = {"batch_size": 1, "unroll": 2, "steps_per_epoch": None, "device": torch.device("cpu")}
        checksum = {"checksum": self.parts.checksum}
        return build.build(dataset | sizes | checksum, data_dir=folder, download=mirror is not None, **given)

    def put(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        for name, line in self.lines.items():
            (folder / name).write_text(line)

    def test_it_is_read_where_it_is(self, tmp_path: Path) -> None:
        self.put(tmp_path / "ptb")
        assert self.load(tmp_path).steps_per_epoch == 2

    def test_it_is_downloaded_from_the_first_mirror_that_has_it(self, tmp_path: Path) -> None:
        self.put(tmp_path / "mirror")
        assert self.load(tmp_path / "data", tmp_path / "mirror").steps_per_epoch == 2

    def test_a_wrong_download_is_not_kept(self, tmp_path: Path) -> None:
        self.put(tmp_path / "mirror")
        (tmp_path / "mirror" / "ptb.valid.txt").write_text("something else\n")
        with pytest.raises(UserError, match=r"put ptb\.valid\.txt .* into (.|\n)*invalid hash"):
            self.load(tmp_path / "data", tmp_path / "mirror")
        assert not (tmp_path / "data" / "ptb" / "ptb.valid.txt").exists()

    def test_a_damaged_file_and_a_folder_too_deep_are_not_absent(self, tmp_path: Path) -> None:
        self.put(tmp_path / "ptb")
        with pytest.raises(UserError, match=rf"set machine\.data_dir={tmp_path}\."):
            self.load(tmp_path / "ptb")
        (tmp_path / "ptb" / "ptb.test.txt").write_text("")
        with pytest.raises(UserError, match=r"is damaged: replace .*ptb\.test\.txt \(0 bytes; its sha256 is "):
            self.load(tmp_path)

    def test_offline_it_says_what_to_put_where(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"put ptb\.train\.txt, ptb\.valid\.txt, ptb\.test\.txt"):
            self.load(tmp_path)


# Networks


COUNTS = {"lstm": 51_034_000, "lstm_1x1500": 33_022_000, "lstm_1x1500_untied": 48_022_000, "lstm_small": 2_653_200}


def network(model: str) -> torch.nn.Module:
    """On the Penn Treebank, without memory."""
    stage = plan_of(model)
    with torch.device("meta"):
        return build.network(stage, spelling=build.zero_spelling(stage, torch.device("meta")))


def plan_of(model: str):
    from ban.plan.lineage import lineage

    return lineage(compose_settings([f"model={model}", "method=labels"]))[0]


@pytest.mark.parametrize("name", COUNTS)
def test_lstm_sizes(name: str) -> None:
    assert sum(p.numel() for p in network(name).parameters()) == COUNTS[name]


def test_cnn_lstm_size_part_by_part() -> None:
    model = network("cnn_lstm")
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts == {
        "character_embedding": 765,
        "convolutions": 77_600,
        "highway": 4_844_400,
        "recurrence": 7_940_400,
        "output": 6_510_000,
    }
    assert 5.2e6 < sum(p.numel() for p in network("cnn_lstm_small").parameters()) < 5.4e6


def character_lstm() -> CharacterLSTM:
    spelling = torch.from_numpy(Vocabulary(corpus.read(str(TEXT)).train).spelling)
    return CharacterLSTM(40, 3, [4, 5], 2, 7, 2, 0.5, spelling=spelling, classes=len(spelling))


def lstm(**options: object) -> LSTM:
    return LSTM(**({"units": 8, "layers": 2, "dropout": 0.5, "tied": True, "classes": 20} | options))  # pyright: ignore


@pytest.mark.parametrize("make", [lstm, character_lstm])
def test_a_carried_state_goes_on_as_if_nothing_had_been_cut(make) -> None:
    model, words = make().eval(), torch.arange(18).view(6, 3)
    whole = model(words)
    first = model(words[:2])
    rest = model(words[2:], first.state)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits]), whole.logits)
    assert not any(tensor.requires_grad for layer in rest.state for tensor in layer)


def test_the_first_logits_are_those_of_the_equations() -> None:
    """A single step of a single layer, written out (Zaremba et al. 2014)."""
    model = lstm(layers=1).eval()
    layer = model.recurrence.layers[0]
    embedded = model.embedding.weight[4]
    gates = layer.weight_ih_l0 @ embedded + layer.bias_ih_l0 + layer.bias_hh_l0
    write, _, candidate, read = gates.chunk(4)
    hidden = torch.sigmoid(read) * torch.tanh(torch.sigmoid(write) * torch.tanh(candidate))
    logits = model.embedding.weight @ hidden + model.output_bias
    torch.testing.assert_close(model(torch.tensor([[4]])).logits[0, 0], logits)


def test_the_words_vectors_are_those_of_the_equations() -> None:
    model = character_lstm().eval()
    spelled = model.spelling[7]
    characters = model.character_embedding(spelled)
    pooled = []
    for width, convolution in enumerate(model.convolutions, 1):
        windows = torch.stack([characters[i : i + width].T for i in range(len(spelled) - width + 1)])
        responses = torch.einsum("ncw,fcw->nf", windows, convolution.weight) + convolution.bias
        pooled.append(responses.tanh().amax(0))
    vector = torch.cat(pooled)
    for layer in model.highway:
        gate = torch.sigmoid(layer.transform(vector))
        vector = gate * torch.relu(layer.hidden(vector)) + (1 - gate) * vector
    torch.testing.assert_close(model(torch.tensor([[7]])).features["stem"][0, 0], vector)


def test_a_network_that_does_not_change_reads_each_word_once() -> None:
    model, words = character_lstm().eval(), torch.arange(12).view(4, 3)
    with_gradient = model(words).logits
    with torch.no_grad():
        torch.testing.assert_close(model(words).logits, with_gradient)
        torch.nn.init.zeros_(model.convolutions[0].weight)  # still in evaluation mode
        changed = model(words).features["stem"]
        model.load_state_dict({name: tensor / 2 for name, tensor in model.state_dict().items()})
        loaded = model(words).features["stem"]
    with torch.enable_grad():
        torch.testing.assert_close(loaded, model(words).features["stem"])
    assert not torch.equal(changed, loaded)


def test_word_vectors_follow_a_fused_optimizer() -> None:
    """Torch's fused SGD does not count its changes of a tensor as changes."""
    model, words = character_lstm(), torch.arange(12).view(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    for _ in range(2):
        with torch.no_grad():
            cached = model.eval()(words).features["stem"]
        with torch.enable_grad():
            torch.testing.assert_close(cached, model(words).features["stem"])
        model.train()(words).logits.square().sum().backward()
        optimizer.step()


def test_initial_weights() -> None:
    model = character_lstm()
    for name, parameter in model.named_parameters():
        if "transform.bias" in name:
            assert (parameter == -2).all()
        else:
            assert parameter.abs().max() <= 0.05, name
    assert (model.character_embedding.weight[0] == 0).all()
    words = lstm()
    assert 0.09 < words.embedding.weight.abs().max() <= 0.1 and (words.output_bias == 0).all()


def test_the_padding_is_not_trained() -> None:
    model = character_lstm()
    model(torch.arange(10).view(5, 2)).logits.sum().backward()
    gradient = model.character_embedding.weight.grad
    assert gradient is not None and (gradient[0] == 0).all() and (gradient[1:3] != 0).any()


def test_convolutions_wider_than_words_are_refused() -> None:
    with pytest.raises(ValueError, match="spans 4 characters, but the longest word has 3"):
        CharacterLSTM(9, 3, [1, 1, 1, 1], 1, 7, 1, 0.5, spelling=torch.zeros(5, 3, dtype=torch.long), classes=5)


# Training


def test_plateaus() -> None:
    def at(schedule: Plateau, *history: float) -> float:
        return schedule(Progress(len(history), 0, 10, 40, history))

    best = Plateau(0.25)
    assert [at(best), at(best, 9), at(best, 9, 8), at(best, 9, 8, 8), at(best, 9, 8, 8, 8.5)] == [1, 1, 1, 0.25, 0.0625]
    assert at(best, 9, 7, 8, 7.5) == 0.0625  # the best counts, not the last
    kim = Plateau(0.5, fall=0.5, reference="previous", free=2)
    assert [at(kim, 9, 8.9), at(kim, 9, 8.9, 8.6), at(kim, 9, 8.9, 8.4), at(kim, 9, 8, 9, 8)] == [1, 0.5, 1, 0.5]


@pytest.mark.parametrize("clip", ["null", "0.01"])
def test_a_loss_summed_over_time_is_the_mean_at_35_times_the_rate(clip: str, train: Train, tmp_path: Path) -> None:
    """And the gradient of the sum is clipped where 35 times the gradient of the mean is."""
    scaled = "0.35" if clip != "null" else clip
    common = ("method=labels", "recipe.epochs=1", "recipe.schedule={_target_: ban.schedules.Constant}")
    both = [
        ("recipe.loss_scale=35", "recipe.optimizer.lr=0.1", scaled),
        ("recipe.loss_scale=1", "recipe.optimizer.lr=3.5", clip),
    ]
    states = []
    for scale, rate, norm in both:
        result = train(*common, scale, rate, f"recipe.clip_norm={norm}", kind="language")[0]
        states.append(load_file(tmp_path / "stages" / result["signature"] / "weights.safetensors"))
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-4, atol=1e-5)


def test_published_recipes_sum_over_time() -> None:
    for model in ("lstm", "cnn_lstm"):
        recipe = compose_settings([f"model={model}"]).recipe
        assert recipe.loss_scale == recipe.unroll == 35


def test_the_best_validation_epoch_is_tested_and_teaches(train: Train, tmp_path: Path) -> None:
    schedule = ("recipe.schedule._target_=ban.schedules.Plateau", "+recipe.schedule.factor=0.25")
    overfit = ("recipe.epochs=20", "recipe.optimizer.lr=40", "model.dropout=0.0", "dataset.train_size=1000")
    result = train(*overfit, *schedule, kind="language")[0]
    perplexities = [record["validation_perplexity"] for record in curves(tmp_path, result["signature"])]
    best = int(np.argmin(perplexities))
    assert result["selected_epoch"] == best + 1 < 20, "the test needs a network that gets worse at the end"
    assert result["validation_perplexity"] == pytest.approx(perplexities[best], rel=1e-6)
    assert result["networks"]["last"]["validation_perplexity"] == pytest.approx(perplexities[-1], rel=1e-6)
    folder = tmp_path / "stages" / result["signature"]
    assert weights(tmp_path, result["signature"]) != (folder / "weights.last.safetensors").read_bytes()
    rates = [record["rate"] for record in curves(tmp_path, result["signature"])]
    assert rates[0] == 1 and rates == sorted(rates, reverse=True) and rates[-1] < 1


def test_perplexity_does_not_depend_on_how_the_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = plan("method=labels", kind="language")[0]
    monkeypatch.setattr("ban.data.text.EVALUATION_STEPS", 7)
    words, model = text(), build.network(stage)
    model.eval()

    def perplexity() -> float:
        state, total = None, []
        for batch in words.evaluation("test"):
            output = model(batch.views[0], state)
            state = output.state
            total.append(cross_entropy(output.logits, batch.targets).detach())
        return float(torch.cat(total).mean().exp())

    short = perplexity()
    monkeypatch.setattr("ban.data.text.EVALUATION_STEPS", 500)
    assert perplexity() == pytest.approx(short, rel=1e-5)


def test_the_teacher_reads_the_same_stream_with_a_state_of_its_own() -> None:
    guide, words = lstm(), torch.arange(18).view(6, 3)
    teacher = frozen(guide)

    def logits_for(part: torch.Tensor) -> torch.Tensor:
        step = Step(Batch((part,), part, part), [SimpleNamespace(network=None)], [], 0, Progress(0, 0, 1, 1))  # pyright: ignore
        logits = teacher.targets(step).logits
        assert logits is not None and torch.equal(logits, teacher.targets(step).logits)  # pyright: ignore
        teacher.after_step(step)
        return logits

    cut = torch.cat([logits_for(words[:2]), logits_for(words[2:])])
    torch.testing.assert_close(cut, guide(words).logits)
    teacher.start_epoch()
    torch.testing.assert_close(logits_for(words[:2]), cut[:2])


def test_two_recurrent_teachers_each_carry_their_own_state() -> None:
    guides, words = [lstm(), lstm(units=5)], torch.arange(18).view(6, 3)
    teacher = frozen(*guides)
    said = []
    for part in (words[:2], words[2:]):
        step = Step(Batch((part,), part, part), [SimpleNamespace(network=None)], [], 0, Progress(0, 0, 1, 1))  # pyright: ignore
        said.append(teacher.targets(step).logits)
        teacher.after_step(step)
    mean = torch.stack([guide(words).logits.softmax(-1) for guide in guides]).mean(0)
    torch.testing.assert_close(torch.cat(said).softmax(-1), mean)  # pyright: ignore


# Anchors


def unigram_perplexity(train: Sequence[str], test: Sequence[str]) -> float:
    counts = Counter(train)
    return float(np.exp(-np.mean([np.log(counts[word] / len(train)) for word in test])))


def kneser_ney_bigram_perplexity(train: Sequence[str], test: Sequence[str], discount: float = 0.75) -> float:
    """Interpolated Kneser-Ney (Chen and Goodman 1998), without unknown words."""
    pairs = Counter(zip([END, *train], train, strict=False))
    first = Counter([END, *train[:-1]])
    continued, followed = Counter(word for _, word in pairs), Counter(word for word, _ in pairs)

    def probability(before: str, word: str) -> float:
        lower = continued[word] / len(pairs)
        if not first[before]:
            return lower
        return (max(pairs[before, word] - discount, 0) + discount * followed[before] * lower) / first[before]

    return float(np.exp(-np.mean([np.log(probability(*pair)) for pair in zip([END, *test], test, strict=False)])))


def test_a_small_network_beats_the_unigram_model_and_nears_the_bigrams(train: Train) -> None:
    """The made-up language is a chain of pairs, so a bigram model knows all there is to know; 60 words know nothing."""
    read = corpus.read(str(TEXT))
    unigram, bigram = unigram_perplexity(read.train, read.test), kneser_ney_bigram_perplexity(read.train, read.test)
    result = train("method=labels", "recipe.epochs=30", "model.dropout=0.1", kind="language")[0]
    assert result["test_perplexity"] < 0.7 * unigram
    assert result["test_perplexity"] > 0.9 * bigram
