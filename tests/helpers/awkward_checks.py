"""What must hold of an awkward network, from its conversion to its export; or it is refused in one sentence."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import ghostify
from ghostify.errors import GhostifyError
from ghostify.students.conversion_recipe import recipe_of
from helpers.awkward_blocks import LOOKED
from helpers.awkward_networks import AwkwardNetwork, apart, awkward_images, awkward_network, outputs, tensors_of

T = TypeVar("T")
HOLDING = {"lambda over self", "closure over layers", "closure over a norm", "forward patched by a lambda"}  # the original
LOAD_FAILS = HOLDING  # converted in place; load() converts a copy of what the factory gives, and that runs the layers it held


class FaultError(AssertionError):
    """Something that must not happen; ``stage`` says where it did."""

    def __init__(self, stage: str, text: str):
        super().__init__(f"{stage}: {text}")
        self.stage = stage


def hold(stage: str, condition: bool, text: object) -> None:
    if not condition:
        raise FaultError(stage, str(text))


@dataclass
class Trial:
    """One network's way from conversion to export.

    Args:
        seed: of the network and of the settings.
        kinds: of awkward things; those of the seed by default.
        export: the suffix of a file to export to, ``"onnx"`` or ``"pt2"``; none by default.
        cheap: the cheap operation; that of the seed by default.

    Attributes:
        refused: what the errors said of the stages that were refused, by stage.
        sites: how many layers were converted.
    """

    seed: int
    folder: Path
    kinds: list[str] | None = None
    export: str | None = None
    cheap: str | None = None
    refused: dict[str, str] = field(default_factory=dict)
    sites: int = 0

    def __post_init__(self) -> None:
        rng = random.Random(self.seed + 1_000_000)
        self.cheap = self.cheap or rng.choice(("depthwise", "depthwise", "pointwise", "absorbed"))
        self.inplace, self.skip = rng.random() < 0.25, rng.choice(((), ("first",)))
        self.teacher = self.network()
        self.x, self.fresh = awkward_images(self.teacher, 24), awkward_images(self.teacher, 4, seed=1)

    def network(self) -> AwkwardNetwork:
        return awkward_network(self.seed, self.kinds, torch.float32 if self.export else torch.float64)

    def run(self) -> "Trial":
        wanted, before = outputs(self.teacher, self.fresh), copies(self.teacher)
        student = self.stage("convert", self.converted)
        if student is not None:
            self.check_conversion(student, wanted)
            self.stage("report", lambda: ghostify.report(student, self.x[:1]))
            self.check_calibration(student, wanted)
            if LOAD_FAILS.isdisjoint(self.teacher.kinds):
                self.check_file(student)
            self.check_folding(student)
            if self.export:
                self.check_export(student)
            self.check_training(student)
        hold("teacher", all(torch.equal(a, b) for a, b in zip(copies(self.teacher), before, strict=True)), "has changed")
        hold("teacher", apart(outputs(self.teacher, self.fresh), wanted) == 0, "computes something else")
        return self

    def stage(self, name: str, action: Callable[[], T]) -> T | None:
        """What an action gives; None where it is refused in a sentence."""
        try:
            return action()
        except GhostifyError as error:
            text = str(error)
            hold(name, "\n" not in text and "\x1b" not in text and len(text) < 400, f"refused in more than a sentence: {text}")
            self.refused[name] = text
            return None
        except Exception as error:
            raise FaultError(name, f"{type(error).__name__}: {str(error)[:300]}") from error

    def converted(self) -> nn.Module:
        options = {"cheap": self.cheap, "min_channels": 1, "round_to": 1, "skip": self.skip, "inplace": self.inplace}
        return ghostify.convert(self.network() if self.inplace else self.teacher, 2, **options).eval()

    def check_conversion(self, student: nn.Module, wanted: list[Tensor]) -> None:
        LOOKED.clear()
        outputs(self.teacher, self.fresh)
        seen = len(LOOKED)
        with counted(student) as calls:
            found = self.stage("student", lambda: outputs(student, self.fresh))
        hold("student", apart(found, wanted) < float("inf"), "gives other shapes, or what is not finite")
        hold("hooks", len(LOOKED) == 2 * seen, "a hook that only looks is called more or less often in the student")
        self.sites = len(calls)
        hold("sites", all(calls.values()), f"never run in the student: {[name for name, count in calls.items() if not count]}")
        with zeroed(self.teacher):
            hold("independence", apart(outputs(student, self.fresh), found) == 0, "the student runs the teacher's layers")
        if self.cheap != "absorbed":
            with twins_made(student) as known:
                far = apart(outputs(student, self.fresh), wanted)
                hold("exactness", not known or far < 1e-3, f"{far:.2g} off where each ghost is its twin")

    def check_calibration(self, student: nn.Module, wanted: list[Tensor]) -> None:
        before = apart(outputs(student, self.fresh), wanted)
        report = self.stage(
            "calibrate",
            lambda: ghostify.calibrate(
                student, self.teacher, self.x, method="least_squares", ridge=1e-3 if self.export else 1e-9
            ),
        )
        if report is None:
            return
        after = apart(outputs(student, self.fresh), wanted)
        hold("calibrate", after < 1.5 * before + 1e-3, f"outputs were {before:.2g} off and are {after:.2g} off")
        self.refused |= {f"calibrate {reason}": ", ".join(names) for reason, names in report.kept.items()}
        if self.cheap == "absorbed" and not report.kept and not self.export:
            hold("calibrate", after < 0.05, f"outputs were {before:.2g} off and are {after:.2g} off, though maps repeat")

    def check_file(self, student: nn.Module) -> None:
        path, wanted = self.folder / "student.safetensors", outputs(student, self.fresh)
        if self.stage("save", lambda: ghostify.save(student, path) or True) is None:
            return
        loaded = self.stage("load", lambda: ghostify.load(path, self.network))
        if loaded is not None:
            hold(
                "load", apart(outputs(loaded, self.fresh), wanted) == 0, f"{apart(outputs(loaded, self.fresh), wanted):.2g} off"
            )

    def check_folding(self, student: nn.Module) -> None:
        wanted = outputs(student, self.fresh)
        folded = self.stage("fold", lambda: ghostify.fold(student))
        if folded is None:
            return
        for x in (self.fresh, self.fresh[:1]):
            found = self.stage("folded", lambda x=x: outputs(folded, x))
            far = apart(found, wanted if x is self.fresh else outputs(student, x))
            hold("fold", far < (1e-4 if self.export else 1e-8), f"{far:.2g} off")
        hold("fold", apart(outputs(student, self.fresh), wanted) == 0, "has changed the student")

    def check_export(self, student: nn.Module) -> None:
        path, wanted = self.folder / f"student.{self.export}", outputs(student, self.fresh)
        if self.stage("export", lambda: ghostify.export(student, path, example_input=self.x[:1])) is None:
            return
        if self.export == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(path)
            found = [torch.tensor(t) for t in session.run(None, {session.get_inputs()[0].name: self.fresh.numpy()})]
        else:
            found = outputs(torch.export.load(path).module(), self.fresh)
        hold("export", apart(found, wanted) < 1e-4, f"{apart(found, wanted):.2g} off")

    def check_training(self, student: nn.Module) -> None:
        """Each site of a student gets a gradient, if the original can be trained at all."""
        try:
            backward(self.network(), self.x)
        except RuntimeError:
            return
        self.stage("training", lambda: backward(student, self.x))
        for name, site in sites_of(student).items():
            grads = [p.grad for p in site.parameters() if p.requires_grad]
            hold("training", all(g is not None and bool(g.isfinite().all()) for g in grads), f"{name} has no gradient")


def backward(network: nn.Module, x: Tensor) -> None:
    leaves = tree_leaves(network.train()(x.clone()))
    torch.stack([leaf.square().sum() for leaf in leaves]).sum().backward()


def copies(network: nn.Module) -> list[Tensor]:
    return [tensor.clone() for name, tensor in network.state_dict().items() if not name.endswith("seen")]


def sites_of(student: nn.Module) -> dict[str, nn.Module]:
    """The layers that a conversion made, by name."""
    recipe, modules = recipe_of(student), dict(student.named_modules(remove_duplicate=False))
    names = [site.name for site in recipe.sites if site.converted] + [name for span in recipe.narrowed for name in span.makers]
    return {name: modules[name] for name in names}


@contextmanager
def counted(student: nn.Module) -> Iterator[dict[str, int]]:
    """How often each converted layer runs."""
    sites = sites_of(student)
    calls = dict.fromkeys(sites, 0)

    def hook(name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            calls[name] += 1

        return count

    hooks = [site.register_forward_hook(hook(name)) for name, site in sites.items()]
    yield calls
    for handle in hooks:
        handle.remove()


@contextmanager
def zeroed(network: nn.Module) -> Iterator[None]:
    tensors = [*tensors_of(network), *network.head.parameters()]
    kept = [tensor.detach().clone() for tensor in tensors]
    with torch.no_grad():
        for tensor in tensors:
            tensor.zero_()
        yield
        for tensor, values in zip(tensors, kept, strict=True):
            tensor.copy_(values)


@contextmanager
def twins_made(student: nn.Module) -> Iterator[bool]:
    """Each ghost a copy of the intrinsic map that is its twin; gives False where a map has none, as its twin is a ghost."""
    ghosts = [module for module in student.modules() if isinstance(module, ghostify.GhostModule)]
    kept = [{name: value.clone() for name, value in ghost.state_dict().items()} for ghost in ghosts]
    made = [_make_twins(ghost) for ghost in ghosts]
    yield all(made)
    for ghost, state in zip(ghosts, kept, strict=True):
        ghost.load_state_dict(state)


@torch.no_grad()
def _make_twins(ghost: ghostify.GhostModule) -> bool:
    """False where a map is no copy of an intrinsic one, or where the activation changes what it gave."""
    intrinsic, made = (channels.tolist() for channels in ghost.original_channels())
    conv, *followers = ghost.cheap_operation
    acts = [*followers, *([ghost.intrinsic_act] if ghost.intrinsic_act is not None else [])]
    if not all(isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.ReLU, nn.ReLU6)) for layer in acts):
        return False
    sources = ghost.source_positions().tolist() if ghost.cheap == "depthwise" else [None] * len(made)
    conv.weight.zero_()
    if conv.bias is not None:
        conv.bias.zero_()
    for row, channel in enumerate(made):
        if channel ^ 1 not in intrinsic:
            return False
        source = intrinsic.index(channel ^ 1)
        if sources[row] is not None and sources[row] != source:
            return False
        taps = conv.weight[row, 0 if sources[row] is not None else source]
        taps[tuple(size // 2 for size in taps.shape)] = 1
    for layer in followers:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.zero_()
            layer.running_var.fill_(1)
            layer.weight.fill_((1 + layer.eps) ** 0.5)
            layer.bias.zero_()
    return True
