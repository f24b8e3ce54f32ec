"""Small scenes of coloured rectangles, with boxes, masks and key points, and small detectors for them."""

import torch
from torch import Tensor, nn
from torchvision.models import detection as tv
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops.misc import Conv2dNormActivation

CLASSES = 4  # the background is one
POINTS = 5
WIDTH = 32  # channels of the pyramid


def scene(seed: int, objects: int = 2, height: int = 96, width: int = 112) -> tuple[Tensor, dict[str, Tensor]]:
    """An image (3, height, width) and its target; class c is a rectangle in color c - 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    image = 0.2 * torch.rand(3, height, width, generator=generator)
    boxes, labels, masks, points = [], [], [], []
    for _ in range(objects):
        w, h = draw(24, 48), draw(24, 48)
        x, y, label = draw(0, width - w), draw(0, height - h), draw(1, CLASSES)
        image[label - 1, y : y + h, x : x + w] = 1
        mask = torch.zeros(height, width, dtype=torch.uint8)
        mask[y : y + h, x : x + w] = 1
        boxes.append([x, y, x + w, y + h])
        labels.append(label)
        masks.append(mask)
        points.append([[x + w * k / POINTS, y + h * k / POINTS, 1] for k in range(POINTS)])
    return image, {
        "boxes": torch.tensor(boxes).float().reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.uint8),
        "keypoints": torch.tensor(points).float().reshape(-1, POINTS, 3),
    }


def batch(seed: int, size: int = 2, **options: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """As a loader gives it."""
    images, targets = zip(*(scene(100 * seed + k, **options) for k in range(size)), strict=True)
    return list(images), list(targets)


def body() -> nn.Sequential:
    """Maps at strides 4, 8 and 16."""
    layers = [Conv2dNormActivation(3, 16, 3, 2), Conv2dNormActivation(16, 16, 3, 2)]
    return nn.Sequential(*layers, Conv2dNormActivation(16, 32, 3, 2), Conv2dNormActivation(32, 48, 3, 2))


def detector(kind: str) -> nn.Module:
    """A small one of torchvision's with random weights, in evaluation mode."""
    torch.manual_seed(0)
    if kind == "ssd":
        backbone = body()
        backbone.out_channels = [48]
        return tv.ssd.SSD(backbone, DefaultBoxGenerator([[2, 3]], scales=[0.3, 0.6]), (112, 96), CLASSES).eval()
    pyramid = BackboneWithFPN(body(), {"2": "0", "3": "1"}, [32, 48], WIDTH)  # and a pooled level
    size = {"min_size": 96, "max_size": 128}
    if kind == "retinanet":
        anchors = AnchorGenerator(((16, 24), (32, 48), (64, 96)), ((0.5, 1.0, 2.0),) * 3)
        model = tv.RetinaNet(pyramid, CLASSES, anchor_generator=anchors, **size).eval()
        for module in model.head.modules():
            if isinstance(module, nn.Conv2d):  # its own initialisation gives maps of next to no variance
                nn.init.kaiming_normal_(module.weight)
        return model
    if kind == "fcos":
        anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
        head = FCOSHead(WIDTH, 1, CLASSES, num_convs=1)
        return tv.FCOS(pyramid, CLASSES, anchor_generator=anchors, head=head, **size).eval()
    anchors = AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3)
    common = {
        "rpn_anchor_generator": anchors, "box_head": TwoMLPHead(WIDTH * 49, 64), "rpn_post_nms_top_n_test": 60,
        "box_predictor": FastRCNNPredictor(64, CLASSES), **size,
    }  # fmt: skip
    if kind == "faster":
        return tv.FasterRCNN(pyramid, **common).eval()
    if kind == "mask":
        heads = {"mask_head": MaskRCNNHeads(WIDTH, (32,), 1), "mask_predictor": MaskRCNNPredictor(32, 32, CLASSES)}
        return tv.MaskRCNN(pyramid, **common, **heads).eval()
    heads = {"keypoint_head": KeypointRCNNHeads(WIDTH, (32,)), "keypoint_predictor": KeypointRCNNPredictor(32, POINTS)}
    return tv.KeypointRCNN(pyramid, **common, **heads).eval()


KINDS = ("faster", "mask", "keypoint", "retinanet", "fcos", "ssd")
