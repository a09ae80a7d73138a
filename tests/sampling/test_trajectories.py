import itertools

import pytest
import torch

from robustgen.metrics.labels import agreement
from robustgen.sampling.trajectories import Trajectories


def made(classes, confidences):
    classes = torch.tensor(classes)
    return Trajectories(None, classes, torch.tensor(confidences), None, None, {})


@pytest.mark.parametrize("classes, confidences, settled", [
    ([3, 3, 3, 3], [.95, .95, .95, .95], 0),
    ([1, 3, 3, 3], [.95, .95, .95, .95], 1),
    ([3, 3, 3, 3], [.95, .95, .5, .95], 3),
    ([3, 1, 3, 3], [.2, .99, .9, .95], 2),
    ([3, 3, 3, 3], [.95, .95, .95, .5], 4),
])
def test_settled_is_where_the_last_unbroken_run_begins(classes, confidences, settled):
    found = made([classes], [confidences])
    assert found.settled(0.9).item() == settled
    for hold in range(4):
        assert found.converged(0.9, hold).item() == (3 - settled >= hold and settled < 4)


def test_settled_agrees_with_a_plain_search():
    g = torch.Generator().manual_seed(0)
    classes, confidences = torch.randint(2, (200, 7), generator=g), 0.85 + 0.15 * torch.rand(200, 7, generator=g)
    found = Trajectories(None, classes, confidences, None, None, {}).settled(0.9)
    for c, p, s in zip(classes, confidences, found):
        good = [t for t in range(7) if (c[t:] == c[-1]).all() and (p[t:] >= 0.9).all()]
        assert s == (good[0] if good else 7)


def test_calm_is_the_first_end_of_enough_still_steps():
    g = torch.Generator().manual_seed(0)
    classes, confidences = torch.randint(2, (300, 9), generator=g), torch.randint(3, (300, 9), generator=g) * 0.015
    found = Trajectories(None, classes, confidences, None, None, {}).stationary(0.02, 3)
    for c, p, end in zip(classes, confidences, found):
        still = [c[t] == c[t - 1] and abs(p[t] - p[t - 1]) <= 0.02 for t in range(1, 9)]
        ends = [t for t in range(3, 9) if all(still[t - 3:t])]
        assert end == (ends[0] if ends else 8)


def test_agreement_is_the_share_of_pairs():
    classes = torch.randint(3, (6, 4), generator=torch.Generator().manual_seed(1))
    within = [a == b for row in classes.tolist() for a, b in itertools.combinations(row, 2)]
    between = [a == b for r, s in itertools.combinations(classes.tolist(), 2) for a in r for b in s]
    assert agreement(classes) == pytest.approx((sum(within) / len(within), sum(between) / len(between)))
    with pytest.raises(ValueError, match="at least two starts with two trajectories each, got 1 and 4"):
        agreement(classes[:1])
