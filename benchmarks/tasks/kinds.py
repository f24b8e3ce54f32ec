"""The two tasks: networks, data, losses, and what is drawn of an answer."""

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models import resnet18
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.segmentation import LRASPP
from torchvision.ops import FrozenBatchNorm2d
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

import ghostify
from benchmarks.tasks.datasets import MEAN, STD, Cells, Streets
from ghostify.deployment.runtimes import RUNTIMES
from ghostify.deployment.timing import in_turns

COLORS = [tuple(round(255 * part) for part in color) for color in mpl.colormaps["Paired"].colors]


class Detect:
    """Faster R-CNN; the norms of the backbone stay as they are, as torchvision trains its own."""

    name, batch_size, steps, lr, score = "detect", 4, 1000, 0.01, "map50"

    def __init__(self, data: Path, folder: Path):
        self.data, self.folder = data, folder

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        layers = {f"layer{k}": str(k - 1) for k in (1, 2, 3, 4)}
        pyramid = BackboneWithFPN(body(self.data, frozen=True), layers, [64, 128, 256, 512], 128)
        return FasterRCNN(
            pyramid,
            min_size=Cells.size[0],
            max_size=Cells.size[1],
            rpn_anchor_generator=AnchorGenerator(tuple((s,) for s in (12, 24, 48, 96, 192)), ((0.5, 1.0, 2.0),) * 5),
            box_head=TwoMLPHead(128 * 49, 512),
            box_predictor=FastRCNNPredictor(512, Cells.classes),
            rpn_post_nms_top_n_test=200,
            rpn_post_nms_top_n_train=500,
            box_batch_size_per_image=128,
        )

    def loader(self, split: str, training: bool = False) -> DataLoader[Any]:
        return DataLoader(Cells(self.folder, split, training), self.batch_size, training, drop_last=training, collate_fn=apart)

    def example(self) -> Any:
        return ([torch.rand(3, *Cells.size)],)

    def loss(self, model: nn.Module, images: Any, targets: Any) -> Tensor:
        return torch.stack(list(model(images, targets).values())).sum()

    def latency(self, networks: dict[str, nn.Module]) -> dict[str, dict[str, float]]:
        """Milliseconds of a test image, by runtime and network."""
        return {"eager": eager_milliseconds(networks, [self.loader("test").dataset[0][0]])}

    def answer(self, model: nn.Module, image: Tensor) -> Any:
        answer = model([image])[0]
        return {key: value[answer["scores"] > 0.5] for key, value in answer.items()}

    def draw(self, image: Tensor, answer: Any) -> Tensor:
        colors = [COLORS[label] for label in answer["labels"].tolist()]
        return draw_bounding_boxes((255 * image).byte(), answer["boxes"], colors=colors, width=2)

    def prunable(self, model: Any) -> tuple[nn.Module, list[nn.Module]]:
        """The part that torch-pruning can follow, and layers whose outputs must stay as they are."""
        return model.backbone, list(model.backbone.fpn.layer_blocks)


class Segment:
    """LR-ASPP on a ResNet-18 at stride 16."""

    name, batch_size, steps, lr, score = "segment", 8, 1000, 0.02, "mean_iou"

    def __init__(self, data: Path, folder: Path):
        self.data, self.folder = data, folder

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        net: Any = body(self.data, frozen=False)
        net.layer4[0].conv1.stride = net.layer4[0].downsample[0].stride = (1, 1)  # maps of stride 16 at the end
        return LRASPP(IntermediateLayerGetter(net, {"layer2": "low", "layer4": "high"}), 128, 512, Streets.classes)

    def loader(self, split: str, training: bool = False) -> DataLoader[Any]:
        return DataLoader(Streets(self.folder, split, training), self.batch_size, training, drop_last=training)

    def example(self) -> Any:
        return (torch.rand(1, 3, *Streets.size),)

    def loss(self, model: nn.Module, images: Any, targets: Any) -> Tensor:
        return nn.functional.cross_entropy(model(images)["out"], targets, ignore_index=255)

    def latency(self, networks: dict[str, nn.Module]) -> dict[str, dict[str, float]]:
        runtimes = ["eager", "channels_last", "onnxruntime", "openvino"]
        report = ghostify.latency(networks, (3, *Streets.size), runtimes=runtimes, batch_sizes=[1], fold=False)
        milliseconds: dict[str, dict[str, float]] = {}
        for t in report.timings:
            assert t.seconds is not None, t.problem
            milliseconds.setdefault(t.runtime, {})[t.model] = round(1e3 * t.seconds, 2)
        return milliseconds

    def answer(self, model: nn.Module, image: Tensor) -> Any:
        return model(image[None])["out"][0].argmax(0)

    def draw(self, image: Tensor, answer: Any) -> Tensor:
        masks = torch.stack([answer == k for k in range(Streets.classes)])
        return draw_segmentation_masks((255 * (image * STD + MEAN)).byte(), masks, alpha=0.6, colors=COLORS[: Streets.classes])

    def prunable(self, model: Any) -> tuple[nn.Module, list[nn.Module]]:
        return model, [model.classifier.low_classifier, model.classifier.high_classifier]


Task = Detect | Segment


def apart(items: list[Any]) -> tuple[list[Any], list[Any]]:
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


def body(data: Path, frozen: bool) -> nn.Module:
    net = resnet18(norm_layer=FrozenBatchNorm2d if frozen else None)
    net.load_state_dict(load_file(data / "resnet18_imagenet.safetensors"))
    return net


def eager_milliseconds(networks: dict[str, nn.Module], x: Any) -> dict[str, float]:
    loads = {name: RUNTIMES["eager"].prepare(network, x, torch.get_num_threads()) for name, network in networks.items()}
    return {name: round(1e3 * statistics.median(seconds), 2) for name, seconds in in_turns(loads, x, 20).items()}
