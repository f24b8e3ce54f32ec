"""Random networks of awkward things are converted, calibrated, saved, folded and exported rightly, or refused in a sentence."""

import pytest
from helpers.awkward_checks import HOLDING, Trial
from helpers.awkward_networks import ALL_KINDS, kinds_of

pytestmark = pytest.mark.filterwarnings("ignore")

PAIRS = [tuple(ALL_KINDS[k : k + 2]) for k in range(0, len(ALL_KINDS), 2)]


def run(seed, kinds, folder, export=None):
    """A trial; whatever holds the original may be refused, and else only what has nothing to convert."""
    trial = Trial(seed, folder, list(kinds), export=export).run()
    refused = {stage: text for stage, text in trial.refused.items() if not stage.startswith("calibrate")}
    if HOLDING.isdisjoint(kinds):
        assert "nothing to convert" in refused.pop("convert", "nothing to convert")
        refused.pop("export" if "value check" in kinds else "", None)
        assert refused == {}


@pytest.mark.parametrize("kinds", PAIRS, ids=" and ".join)
def test_a_network_of_two_kinds(kinds, tmp_path):
    run(PAIRS.index(kinds), kinds, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(500))
def test_a_network_of_random_kinds(seed, tmp_path):
    run(seed, kinds_of(seed), tmp_path, export={0: "pt2", 25: "onnx"}.get(seed % 50))
