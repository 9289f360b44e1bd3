"""Terms that have parameters or a memory of their own, against closed forms and reference values."""

import pytest
import torch
import torch.nn.functional as F
from helpers import plan

from ban.errors import UserError
from ban.interfaces import Batch, Output, TeacherOutput
from ban.terms import ShallowClassifiers
from ban.training.rehearsal import rehearse_anew

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
            maps = term.blocks[name](output.features[name])
            shallow = term.heads[name](maps)
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
