import pytest
import torch
from torch.nn import functional as F

from ghostify.losses import feature_matching, logit_distillation, main_output, relation_distillation


def test_logit_distillation_is_the_divergence_that_its_formula_says():
    s, t = torch.randn(5, 7, dtype=torch.float64).float(), torch.randn(5, 7)
    p, q = (s / 4).softmax(1), (t / 4).softmax(1)
    expected = 16 * (q * (q.log() - p.log())).sum(1).mean()
    assert torch.allclose(logit_distillation(s, t, 4.0), expected, atol=1e-6)
    assert logit_distillation(t, t).abs() < 1e-6


def test_logit_distillation_averages_over_the_positions_of_a_segmentation():
    s, t = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    rows = [x.movedim(1, -1).reshape(-1, 3) for x in (s, t)]
    assert torch.allclose(logit_distillation(s, t), logit_distillation(*rows), atol=1e-5)


def test_relation_distillation_forgives_what_keeps_the_correlations():
    t = torch.randn(8, 6)
    assert relation_distillation(t, t).abs() < 1e-5
    assert relation_distillation(torch.randn(8, 6), t) > 0.1
    p, q = torch.randn(8, 6).softmax(1), t.softmax(1)
    within = 1 - torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(p, q, strict=True)]).mean()
    across = 1 - torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(p.T, q.T, strict=True)]).mean()
    assert torch.allclose(relation_distillation(p.log(), t), within + across, atol=1e-5)


def test_feature_matching_is_relative_to_the_variance_of_the_teacher():
    t = [torch.randn(64, 3, 4, 4) * 10 + 5, torch.randn(64, 2, 4, 4)]
    means = [x.mean((0, 2, 3), keepdim=True).expand_as(x) for x in t]
    assert torch.allclose(feature_matching(means, t), torch.tensor(1.0), atol=1e-4)
    assert feature_matching(t, t) == 0


def test_main_output_finds_the_scores():
    x = torch.zeros(2, 3)
    assert all(main_output(output)[0] is x for output in (x, {"out": x, "aux": 0}, (x, 1), {"logits": x}))
    with pytest.raises(TypeError, match="outputs="):
        main_output({"boxes": 3})


def test_label_loss_takes_indices_and_probabilities():
    from ghostify.losses import label_loss

    scores, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    assert torch.allclose(label_loss(scores, labels), label_loss(scores, F.one_hot(labels, 3).float()))
