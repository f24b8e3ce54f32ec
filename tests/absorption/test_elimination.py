import pytest
import torch

from ghostify.absorption.elimination import ReaderProblem, eliminate


def problem(maps, taps, targets, seed=0, ridge=1e-3):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(maps * taps, maps * taps, dtype=torch.float64, generator=generator)
    x = torch.randn(300, maps * taps, dtype=torch.float64, generator=generator) @ mixing
    y = x @ torch.randn(maps * taps, targets, dtype=torch.float64, generator=generator)
    y = y + torch.randn(300, targets, dtype=torch.float64, generator=generator)
    gram = x.T @ x / 300
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    return ReaderProblem(gram, x.T @ y / 300, float((y * y).sum() / 300), torch.arange(maps * taps).view(maps, taps))


def refitted(problems, maps):
    """The loss with these maps, each reader fitted anew."""
    total = 0.0
    for one in problems:
        rows = one.columns[torch.tensor(maps)].flatten()
        rows = rows[rows >= 0]
        filters = torch.linalg.solve(one.gram[rows][:, rows], one.cross[rows])
        total += one.weight * (one.power - float((filters * one.cross[rows]).sum()))
    return total


@pytest.mark.parametrize("readers", [1, 2])
def test_losses_and_choices_are_those_of_refits_by_brute_force(readers):
    problems = [problem(7, 3, 4), problem(7, 1, 2, seed=1)][:readers]
    found = eliminate(problems)
    left = list(range(7))
    for count in range(7, 0, -1):
        assert found.kept(count).tolist() == left
        assert float(found.losses[count]) == pytest.approx(refitted(problems, left), rel=1e-9)
        left = min(([m for m in left if m != gone] for gone in left), key=lambda m: refitted(problems, m)) if count > 1 else []


def test_groups_lose_equally_many_and_several_at_once_have_exact_losses():
    one = problem(12, 2, 3)
    found = eliminate([one], groups=3, least=3)
    for count in (9, 6, 3):
        assert torch.bincount(found.kept(count) // 4, minlength=3).tolist() == [count // 3] * 3
    at_once = eliminate([one], at_once=5, least=2)
    for count in range(2, 13):
        assert float(at_once.losses[count]) == pytest.approx(refitted([one], at_once.kept(count).tolist()), rel=1e-8)
    assert not torch.isfinite(at_once.losses[1])
    both = eliminate([one], groups=3, least=3, at_once=2)
    assert float(both.losses[9]) == pytest.approx(refitted([one], both.kept(9).tolist()), rel=1e-8)
    assert not torch.isfinite(both.losses[[8, 7, 5, 4, 2]]).any()


def test_maps_that_are_linear_in_others_cost_nothing():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(500, 5, dtype=torch.float64, generator=generator)
    x = torch.cat([base, base @ torch.randn(5, 5, dtype=torch.float64, generator=generator)], 1)
    y = x @ torch.randn(10, 6, dtype=torch.float64, generator=generator)
    gram = x.T @ x / 500 + 1e-9 * torch.eye(10, dtype=torch.float64)
    one = ReaderProblem(gram, x.T @ y / 500, float((y * y).sum() / 500), torch.arange(10)[:, None])
    found = eliminate([one])
    assert float(found.losses[5]) < 1e-6 * one.power < 1e-3 * float(found.losses[4])
    assert torch.linalg.matrix_rank(x[:, found.kept(5)]) == 5


def test_a_reader_of_some_maps_alone_counts_for_those():
    one, other = problem(6, 2, 3), problem(3, 1, 2, seed=2)
    columns = torch.full((6, 1), -1)
    columns[3:] = other.columns
    both = [one, ReaderProblem(other.gram, other.cross, other.power, columns, weight=2.0)]
    found = eliminate(both)
    assert float(found.losses[6]) == pytest.approx(refitted(both, list(range(6))), rel=1e-9)
    assert float(found.losses[4]) == pytest.approx(refitted(both, found.kept(4).tolist()), rel=1e-8)


def test_of_two_maps_that_are_alike_one_stays_when_several_go_at_once():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(500, 16, dtype=torch.float64, generator=generator)
    x = torch.cat([base, base], 1)
    y = x @ torch.randn(32, 6, dtype=torch.float64, generator=generator)
    gram = x.T @ x / 500 + 1e-9 * torch.eye(32, dtype=torch.float64)
    found = eliminate([ReaderProblem(gram, x.T @ y / 500, float((y * y).sum() / 500), torch.arange(32)[:, None])], at_once=8)
    assert sorted((found.kept(16) % 16).tolist()) == list(range(16))
