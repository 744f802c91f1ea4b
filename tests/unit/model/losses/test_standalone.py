from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

import recsys.model
from recsys.errors import ConfigError, WidthError
from recsys.model import MatryoshkaSoftmax

DOCS = Path(__file__).parents[4] / "docs" / "loss.md"


def vectors(*rows, width=8):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(num, width, dtype=torch.float64, generator=generator).requires_grad_() for num in rows]


def naive(user, item, negative, *, width, temperature, shift):
    """Cross-entropy to the first of the positive and all negatives."""
    user, item, negative = (normalize(one[:, :width], dim=1) for one in (user, item, negative))
    logits = torch.cat([(user * item).sum(dim=1, keepdim=True), user @ negative.T], dim=1) / temperature
    return cross_entropy(logits + shift, torch.zeros(len(user), dtype=torch.int64))


def test_it_is_the_weighted_mean_over_widths_of_a_cross_entropy_each():
    user, item, negative = vectors(3, 3, 5)
    item_id, negative_id = torch.tensor([0, 1, 2]), torch.tensor([7, 1, 8, 9, 1])
    log_expected = torch.linspace(-1, 1, 5, dtype=torch.float64)
    settings = {"temperature": (0.2, 0.1), "weights": (1.0, 3.0)}
    loss, loss_L = MatryoshkaSoftmax([2, 8], **settings)(
        user, item, negative, item_B=item_id, negative_N=negative_id, log_expected_N=log_expected
    )
    shift = torch.cat([torch.zeros(1, dtype=torch.float64), -log_expected]).repeat(3, 1)
    shift[1, [2, 5]] = -torch.inf
    expected = [
        naive(user, item, negative, width=width, temperature=temperature, shift=shift)
        for width, temperature in ((2, 0.2), (8, 0.1))
    ]
    torch.testing.assert_close(loss_L, torch.stack(expected).detach())
    together = (expected[0] + 3 * expected[1]) / 4
    torch.testing.assert_close(loss, together)
    ours, theirs = (torch.autograd.grad(one, (user, item, negative)) for one in (loss, together))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("ids", [None, torch.tensor([4, 9, 4])])
def test_without_negatives_they_are_the_other_positives(ids):
    user, item = vectors(3, 3)
    loss, _ = MatryoshkaSoftmax([8], temperature=0.5)(user, item, item_B=ids)
    shift = torch.zeros(3, 4, dtype=torch.float64)
    same = torch.eye(3, dtype=torch.bool) if ids is None else ids[:, None] == ids[None, :]
    shift[:, 1:][same] = -torch.inf
    torch.testing.assert_close(loss, naive(user, item, item, width=8, temperature=0.5, shift=shift))


def test_a_learned_temperature_is_a_parameter():
    softmax = MatryoshkaSoftmax([2, 8], learn_temperature=True).double()
    softmax(*vectors(3, 3, 5))[0].backward()
    (parameter,) = softmax.parameters()
    assert parameter.shape == parameter.grad.shape == (2,)


def test_towers_may_compute_in_halves():
    user, item = (one.detach().bfloat16().requires_grad_() for one in vectors(3, 3))
    loss, _ = MatryoshkaSoftmax([2, 8])(user, item)
    loss.backward()
    assert loss.dtype == torch.float32
    assert user.grad.dtype == torch.bfloat16


def test_refuses_what_does_not_fit():
    softmax, (user, item, negative) = MatryoshkaSoftmax([2, 8]), vectors(3, 3, 5)
    with pytest.raises(ConfigError, match=r"negative_ND: got shape \(5, 4\), expected \(rows, 8\)"):
        softmax(user, item, negative[:, :4])
    with pytest.raises(ConfigError, match="only one of item_B and negative_N"):
        softmax(user, item, negative, item_B=torch.arange(3))
    with pytest.raises(ConfigError, match="negative_N: got ids without negative_ND"):
        softmax(user, item, negative_N=torch.arange(3))
    with pytest.raises(ConfigError, match="temperature"):
        MatryoshkaSoftmax([2, 8], temperature=(0.1, 0.2, 0.3))
    with pytest.raises(WidthError, match="strictly increasing"):
        MatryoshkaSoftmax([8, 2])


def test_what_the_package_offers():
    assert recsys.model.MatryoshkaSoftmax is MatryoshkaSoftmax
    with pytest.raises(AttributeError, match="no attribute 'Softmax'"):
        _ = recsys.model.Softmax


def test_the_documents_example_runs_and_learns(capsys):
    torch.manual_seed(1)
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    exec(code, {})  # our own document
    untrained = torch.tensor(513.0).log()
    assert all(float(one) < untrained for one in capsys.readouterr().out.strip("[]\n").split(", "))
