"""Terms that have parameters or a memory of their own, against closed forms and reference values."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import DIGITS, Train, frozen, host, plan, quiet
from safetensors.torch import load_file

from ban.errors import UserError
from ban.interfaces import Batch, Output, Step, TeacherOutput
from ban.models import SmallConv
from ban.plan.contrast import family_names
from ban.settings.compose import compose_settings
from ban.store.stage_files import StageFiles
from ban.terms import Contrast, Factors, Paraphrase, Probabilities, ShallowClassifiers
from ban.training import build
from ban.training.device import Device
from ban.training.rehearsal import rehearse_anew
from ban.training.run import _StageTraining
from ban.training.signals import Signals
from ban.training.step import START

Y = torch.tensor([3, 1, 4, 1, -1, 5])
BATCH = Batch((), Y, torch.arange(6))


class TestShallowClassifiers:
    def outputs(self) -> Output:
        torch.manual_seed(0)
        names = {"stem": (4, 8), "stage1.first": (4, 8), "stage1": (4, 8), "stage2": (5, 4), "stage3": (6, 2)}
        features = {name: torch.randn(6, width, size, size) for name, (width, size) in names.items()}
        features["pooled"] = features["stage3"].mean((2, 3))
        return Output(torch.randn(6, 10), {name: each.requires_grad_() for name, each in features.items()})

    def test_each_stage_but_the_last_learns_from_the_label_and_from_the_network(self) -> None:
        output, term = self.outputs(), ShallowClassifiers(alpha=0.3, temperature=3.0, features=0.03)
        logits = output.logits.requires_grad_()
        term.prepare(output, TeacherOutput())
        shapes = [tuple(each.weight.shape) for each in term.modules() if isinstance(each, torch.nn.Conv2d)]
        assert shapes == [(5, 4, 3, 3), (6, 5, 3, 3), (6, 5, 3, 3)]
        loss = term(output, TeacherOutput(), BATCH)
        loss.backward()
        expected = torch.zeros(())
        for name in ("stage1", "stage2"):
            maps = output.features[name]
            for weight in (each.weight for each in term.blocks[name].modules() if isinstance(each, torch.nn.Conv2d)):
                maps = F.batch_norm(F.conv2d(maps, weight, stride=2, padding=1), None, None, training=True).relu()
            maps = maps.mean((2, 3))
            shallow = maps @ term.heads[name].weight.T + term.heads[name].bias
            label = F.cross_entropy(shallow, Y, ignore_index=-1, reduction="sum") / 6
            own = F.cross_entropy(shallow / 3, (logits.detach() / 3).softmax(-1))
            distance = (maps - output.features["pooled"]).square().sum().sqrt()
            expected = expected + 0.7 * label + 0.3 * own + 0.03 * distance
        torch.testing.assert_close(loss, expected)
        reached = {name for name, each in output.features.items() if each.grad is not None}
        assert logits.grad is None and reached == {"stage1", "stage2"}

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("model=shallow_small",), "BYOT needs convolutional stages"),
            (("dataset=wine", "model=mlp_16", "recipe=tabular"), "the student's features are: stage1, pooled"),
        ],
    )
    def test_other_networks_are_refused_in_the_plan(self, words: tuple[str, ...], message: str) -> None:
        with pytest.raises(UserError, match=message):
            rehearse_anew(plan("method=byot", *words)[-1])


class TestContrast:
    def made(self, examples: int = 9, **options: float) -> Contrast:
        torch.manual_seed(1)
        term = Contrast(width=4, **options)  # pyright: ignore[reportArgumentType]
        term.examples = examples
        term.prepare(*self.outputs(0))
        return term

    def outputs(self, seed: int) -> tuple[Output, TeacherOutput]:
        generator = torch.Generator().manual_seed(seed)
        ours, theirs = (torch.randn(3, width, generator=generator) for width in (5, 6))
        return Output(torch.zeros(3, 2), {"pooled": ours}), TeacherOutput(features={"pooled": theirs})

    def test_loss_memory_and_constants_are_those_of_the_reference_code_written_out(self) -> None:
        """Pair by pair; the constants are those of the first step in the second, too."""
        term = self.made(negatives=5, temperature=0.5, momentum=0.25)
        memory, constants = term.memory.clone(), [0.0, 0.0]
        assert float(memory.square().sum(-1).mean()) == pytest.approx(1, abs=0.3)
        for number, indices in enumerate(([2, 8, 5], [8, 0, 2])):
            output, teacher = self.outputs(number)
            batch = Batch((), torch.tensor([0, 1, 0]), torch.tensor(indices))
            term.labels[batch.indices] = batch.targets
            torch.manual_seed(7)
            others = term._negatives(batch.targets)
            layers = (output.features["pooled"], teacher.features["pooled"])  # pyright: ignore[reportOptionalSubscript]
            embedded = [
                m(layer) / m(layer).norm(dim=1, keepdim=True) for m, layer in zip(term.embeddings, layers, strict=True)
            ]
            expected = torch.zeros(())
            for side in (0, 1):
                rows = [[index, *others[i].tolist()] for i, index in enumerate(indices)]
                scores = torch.stack(
                    [
                        torch.stack([(embedded[side][i] @ memory[1 - side][j] / 0.5).exp() for j in row])
                        for i, row in enumerate(rows)
                    ]
                )
                constants[side] = constants[side] or float(scores.detach().mean() * 9)
                p, noise = scores / constants[side], 5 / 9
                expected = expected - (p[:, 0] / (p[:, 0] + noise)).log().sum() / 3
                expected = expected - (noise / (p[:, 1:] + noise)).log().sum() / 3
            expected_gradients = torch.autograd.grad(expected, [*term.parameters()])
            for side in (0, 1):
                for i, index in enumerate(indices):
                    mixed = 0.25 * memory[side][index] + 0.75 * embedded[side][i].detach()
                    memory[side][index] = mixed / mixed.norm()
            torch.manual_seed(7)
            loss = term(output, teacher, batch)
            gradients = torch.autograd.grad(loss, [*term.parameters()])
            torch.testing.assert_close((loss, gradients, term.memory), (expected, expected_gradients, memory))
            torch.testing.assert_close(term.constants, torch.tensor(constants))

    def test_negatives_are_drawn_equally_from_the_other_classes(self) -> None:
        term = self.made(negatives=9)
        term.labels.copy_(torch.tensor([0, 2, 1, 0, -1, -2, 1, 0, -1]))
        drawn = torch.cat([term._negatives(torch.tensor([0, -1, 2, 1])) for _ in range(500)], 1)
        for row, label in zip(drawn, (0, -1, 2, 1), strict=True):
            counts = row.bincount(minlength=9)
            others = term.labels != label
            expected = len(row) / int(others.sum())
            assert not counts[~others].any()
            assert (counts[others] - expected).abs().max() < 5 * expected**0.5

    def test_there_are_as_many_negatives_as_examples_at_most(self) -> None:
        assert self.made()._negatives(torch.tensor([0, 1])).shape == (2, 9)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("method.terms.contrast.layer=stage1",), "CRD needs vectors"),
            (("method.teacher_count=2",), "the teacher has no feature 'pooled'; its features: none"),
        ],
    )
    def test_what_is_no_vector_is_refused_in_the_plan(self, words: tuple[str, ...], message: str) -> None:
        with pytest.raises(UserError, match=message):
            rehearse_anew(plan("method=crd", *words)[-1])

    @pytest.mark.parametrize(
        ("words", "rows"),
        [(("dataset.labelled=40",), 40), (("+method.data.unlabelled=true", "dataset.labelled=40"), 100)],
    )
    def test_the_memory_has_a_row_for_each_training_image(self, words: tuple[str, ...], rows: int) -> None:
        stage = plan("method=crd", *words)[-1]
        step = build.training_step(stage, lambda parent: build.network(parent.stage), Device("cpu"), None)
        assert step.learners[0].objective.terms["contrast"].memory.shape == (2, rows, 128)


def test_the_noisy_students_teacher_looks_at_the_plain_view_and_labels_the_unlabelled_alone() -> None:
    guide, views = SmallConv(classes=10), tuple(torch.rand(6, 1, 8, 8) for _ in range(3))
    batch = BATCH._replace(views=views)
    teacher = frozen(guide, view="last").targets(Step(batch, [], [], 0, START))
    assert teacher.logits is not None and teacher.logits.equal(guide(views[-1]).logits)
    logits = torch.randn(6, 10, requires_grad=True)
    loss = Probabilities(unlabelled=True)(Output(logits, {}), teacher, batch)
    expected = F.cross_entropy(logits[4], teacher.logits[4].softmax(-1)) / 6  # the one without a label
    torch.testing.assert_close(loss, expected)


def test_what_a_method_does_to_images_is_not_named_beside_its_name() -> None:
    names = [*family_names(plan("method=noisy_student", "dataset.labelled=50")).values()]
    assert names == ["Teacher", "Noisy student-1"]

    def test_unlabelled_examples_are_rehearsed(self) -> None:
        words = ("method=crd", "+method.data.unlabelled=true", "dataset.labelled=20")
        assert rehearse_anew(plan(*words)[-1]).training_flops > 0

    def test_the_memory_is_part_of_what_a_step_takes(self) -> None:
        small, large = (plan("method=crd", f"dataset.train_size={size}")[-1] for size in (100, 200))
        assert small.step_kind != large.step_kind


class TestFactors:
    words = ("method=ft", "method.pretrain.terms.factors.layer=stage2", "recipe.epochs=8")

    def test_the_paraphraser_is_an_auto_encoder_of_the_teachers_layer(self) -> None:
        torch.manual_seed(0)
        maps, term = torch.randn(6, 4, 3, 3), Paraphrase("a", rate=0.5)
        teacher = TeacherOutput(features={"a": maps})
        term.prepare(Output(torch.zeros(6, 2), {}), teacher)
        shapes = [tuple(each.shape[:2]) for each in term.parameters() if each.ndim == 4]
        assert shapes == [(4, 4), (2, 4), (2, 2), (2, 2), (4, 2), (4, 4)]
        decoded, layers = maps, [each for each in term.modules() if isinstance(each, torch.nn.Conv2d)]
        for layer in layers:
            decoded = F.leaky_relu(F.conv2d(decoded, layer.weight, layer.bias, padding=1), 0.1)
        torch.testing.assert_close(
            term(Output(torch.zeros(6, 2), {}), teacher, BATCH), (decoded - maps).square().mean()
        )

    def test_the_student_learns_the_factors_of_the_first_training(self, train: Train, tmp_path: Path) -> None:
        first, student = plan(*self.words)[-2:]
        train(*self.words)
        trained = load_file(tmp_path / "stages" / first.signature / "weights.terms.safetensors")
        StageFiles.of(tmp_path / "stages" / first.signature, first.signature).check_all()
        stage = _StageTraining(
            student,
            host(compose_settings([*DIGITS, f"machine.outputs={tmp_path}"])),
            None,
            quiet,
            Signals(),  # pyright: ignore
        )
        (learner,) = stage.training.step.learners
        term = learner.objective.terms["factors"]
        assert isinstance(term, Factors) and not hasattr(term, "decoder")
        for name, value in term.paraphraser.state_dict().items():
            assert value.equal(trained[f"terms.factors.paraphraser.{name}"])
        updated = {id(each) for group in learner.optimizer.param_groups for each in group["params"]}
        assert not updated & {id(each) for each in term.paraphraser.parameters()}
        assert updated >= {id(each) for each in term.translator.parameters()}

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("method=ft",), "the teacher has no feature 'stage3'"),
            (
                ("method=ft", "method.pretrain.terms.factors.layer=stage2", "method.terms.factors.rate=0.25"),
                "the paraphraser of the term factors is not the one that method.pretrain trains",
            ),
            (("method=ft", "method.pretrain.terms.factors.layer=pooled"), "FT needs a convolutional layer"),
            (
                (
                    *("method=ft", "method.pretrain=null"),
                    *("method.terms.factors.layer=stage2", "method.terms.factors.rate=0.5"),
                ),
                "needs a term of that name in method.pretrain.terms",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused_in_the_plan(self, words: tuple[str, ...], message: str) -> None:
        with pytest.raises(UserError, match=message):
            for stage in plan(*words)[1:]:
                rehearse_anew(stage)
