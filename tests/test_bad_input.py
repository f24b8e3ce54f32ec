"""Bad input gives one clear sentence that names the argument or the site, and changes nothing."""

import copy

import pytest
import torch
from helpers.networks import Residual
from torch import nn

import ghostify
from ghostify.students.weights import load_weights

ratio_cases = [1, 0.5, 0, -2, float("nan"), float("inf"), "2", True]


def convert(*args, **options):
    return lambda tmp_path: ghostify.convert(*args, **options)


def wrapped(build):
    return lambda tmp_path: ghostify.convert(build(Residual()))


def weights(content):
    def call(tmp_path):
        path = tmp_path / "net.safetensors"
        if content is not None:
            path.write_bytes(content)
        load_weights(Residual(), path)

    return call


def saved(value):
    def call(tmp_path):
        torch.save(value, tmp_path / "net.pth")
        load_weights(Residual(), tmp_path / "net.pth")

    return call


def input_of_shape(example):
    return lambda tmp_path: ghostify.report(ghostify.convert(Residual()), example)


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def half_state():
    return {k: v for k, v in Residual().state_dict().items() if "conv2" not in k}


CASES = {
    **{f"ratio {value!r}": (convert(Residual(), value), r"ratio must be a .*number above 1") for value in ratio_cases},
    "ratio of a glob": (convert(Residual(), ratios={"conv1": 1}), r"ratios\['conv1'\] must be a finite number above 1"),
    "glob of nothing": (convert(Residual(), ratios={"convv1": 2}), r"ratios\['convv1'\].*close names: conv1"),
    "glob no string": (convert(Residual(), ratios={3: 2}), r"ratios must have names"),
    "ratios no dict": (convert(Residual(), ratios=[2]), r"ratios must map"),
    "linear_ratio": (convert(Residual(), linear_ratio=1), r"linear_ratio must be"),
    "dw_size even": (convert(Residual(), dw_size=2), r"dw_size must be 1, 3, 5 or 7, not 2"),
    "dw_size negative": (convert(Residual(), dw_size=-3), r"dw_size must be"),
    "dw_size string": (convert(Residual(), dw_size="3"), r"dw_size must be"),
    "dw_size large": (convert(Residual(), dw_size=9), r"dw_size must be"),
    "cheap": (
        convert(Residual(), cheap="deep"),
        r"cheap must be one of .*'auto', 'absorbed', not 'deep'",
    ),
    "init": (convert(Residual(), init="cold"), r"init must be one of"),
    "skip string": (convert(Residual(), skip="first"), r"skip must be a sequence"),
    "skip unknown": (convert(Residual(), skip=("lats",)), r"skip must be one of"),
    "skip none": (convert(Residual(), skip=None), r"skip must be a sequence"),
    "min_channels": (convert(Residual(), min_channels=0), r"min_channels must be at least 1"),
    "round_to": (convert(Residual(), round_to=2.5), r"round_to must be a whole number"),
    "seed": (convert(Residual(), seed="a"), r"seed must be a whole number"),
    "unknown name": (convert("resnet51"), r"'resnet51': did you mean .*resnet50"),
    "unknown library": (convert("keras/resnet50"), r"timm/ or torchvision/"),
    "name of the other library": (convert("torchvision/regnety_002"), r"unknown model"),
    "empty name": (convert(""), r"unknown model ''"),
    "no model": (convert(42), r"model must be a module, a constructor or a name, not int"),
    "constructor of no module": (convert(lambda: 3), r"must return a torch.nn.Module, not int"),
    "nothing to convert": (convert(nn.Linear(3, 3)), r"Linear has nothing to convert: it has no convolutions"),
    "only a first convolution": (convert(nn.Sequential(nn.Conv2d(3, 64, 3))), r"nothing to convert.*first convolution"),
    "everything kept": (convert(Residual(), ratios={"*": None}), r"nothing to convert.*kept dense by ratios"),
    "constructor with arguments": (convert(nn.Conv2d), r"constructor that takes no arguments"),
    "name of no string": (lambda p: ghostify.create_model(3), r"name must be a string"),
    "report of no module": (lambda p: ghostify.report("resnet18"), r"student must be a module"),
    "report of a compiled student": (lambda p: ghostify.report(torch.compile(Residual())), r"compiled: pass"),
    "GhostModule kernel": (lambda p: ghostify.GhostModule(8, 8, (3, 3)), r"kernel_size must be a whole number"),
    "GhostModule channels": (lambda p: ghostify.GhostModule(0, 8), r"in_channels must be"),
    "GhostModule cheap": (lambda p: ghostify.GhostModule(8, 8, cheap="auto"), r"cheap must be"),
    "ReducedLinear rank": (lambda p: ghostify.ReducedLinear(8, 8, 2.5), r"rank must be a whole number"),
    "ReducedLinear of a convolution": (
        lambda p: ghostify.ReducedLinear.from_linear(nn.Conv2d(8, 8, 1), rank=2),
        r"linear must be",
    ),
    "too few channels": (convert(Residual(), min_channels=1000), r"nothing to convert.*too few channels"),
    "a layer in place": (convert(nn.Conv2d(16, 32, 3), skip=(), inplace=True), r"itself a Conv2d.*in place"),
    "compiled": (wrapped(torch.compile), r"compiled: pass model\._orig_mod"),
    "DataParallel": (wrapped(nn.DataParallel), r"DataParallel: pass model\.module"),
    "scripted": (wrapped(torch.jit.script), r"TorchScript"),
    "lazy": (convert(nn.Sequential(nn.LazyConv2d(8, 3))), r"layer '0' \(LazyConv2d\) is not initialised"),
    "input of wrong channels": (
        input_of_shape((1, 4, 8, 8)),
        r"example_input \(\(1, 4, 8, 8\)\) does not fit Residual",
    ),
    "input of wrong dimensions": (input_of_shape((8,)), r"example_input .* does not fit Residual"),
    "input too small": (input_of_shape((1, 3, 0, 8)), r"example_input has a size below 1"),
    "input of no tensor": (input_of_shape("image"), r"example_input must be a tensor, a shape"),
    "report of an unconverted model": (lambda p: ghostify.report(Residual()), r"convert it first"),
    "report from other text": (lambda p: ghostify.Report.from_json("[1]"), r"not a report"),
    "plot of no metric": (lambda p: ghostify.report(ghostify.convert(Residual())).plot("time"), r"metric must be"),
    "plot without FLOPs": (lambda p: ghostify.report(ghostify.convert(Residual())).plot(), r"example_input"),
    "pattern of no class": (lambda p: ghostify.register_pattern(3, "conv"), r"module_type must be"),
    "pattern of no kind": (lambda p: ghostify.register_pattern(nn.Conv2d, "pool"), r"kind must be"),
    "weights missing": (weights(None), r"weights file .* does not exist"),
    "weights broken": (weights(b"no such format"), r"weights file .* can't be read"),
    "weights truncated": (weights(b"\xff\x00\x00\x00\x00\x00\x00\x00{"), r"weights file .* can't be read"),
    "weights of another network": (saved(nn.Linear(3, 3).state_dict()), r"lacks 'bn1.bias' and \d+ more"),
    "weights of half a network": (saved(half_state()), r"lacks 'conv2.weight'"),
    "weights of other shapes": (saved(Residual(8).state_dict()), r"another shape of"),
    "weights that run code": (saved({"a": Evil()}), r"can't be read"),
    "weights without tensors": (saved({"a": 1}), r"holds no state dict"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, tmp_path, capsys):
    call, message = CASES[name]
    with pytest.raises(ghostify.GhostifyError, match=message) as caught:
        call(tmp_path)
    assert isinstance(caught.value, (ValueError, TypeError))
    assert "\n" not in str(caught.value)
    assert "unpickled" not in capsys.readouterr().out


def test_ddp_is_refused():
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ghostify.UnsupportedModelError, match=r"DistributedDataParallel: pass model\.module"):
            ghostify.convert(nn.parallel.DistributedDataParallel(Residual()))
    finally:
        dist.destroy_process_group()


def test_weights_that_do_not_fit_change_nothing(tmp_path):
    model = Residual()
    before = copy.deepcopy(model.state_dict())
    torch.save(half_state(), tmp_path / "half.pth")
    with pytest.raises(ghostify.ArgumentError):
        load_weights(model, tmp_path / "half.pth")
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
