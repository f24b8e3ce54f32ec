"""Small segmenters, and images whose strongest color is their class."""

import torch
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import FCN, LRASPP, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops.misc import Conv2dNormActivation

CLASSES = 3
IMAGES = torch.rand(4, 3, 48, 64, generator=torch.Generator().manual_seed(0))
LABELS = IMAGES.argmax(1)


def segmenter(kind: str) -> nn.Module:
    torch.manual_seed(0)
    layers = [Conv2dNormActivation(3, 16, 3, 2), Conv2dNormActivation(16, 32, 3, 2), Conv2dNormActivation(32, 48, 3, 2)]
    names = {"1": "low", "2": "high"} if kind == "lraspp" else {"1": "aux", "2": "out"}
    backbone = IntermediateLayerGetter(nn.Sequential(*layers), names)
    if kind == "lraspp":
        return LRASPP(backbone, 32, 48, CLASSES, inter_channels=32).eval()
    if kind == "fcn":
        return FCN(backbone, FCNHead(48, CLASSES), FCNHead(32, CLASSES)).eval()
    return DeepLabV3(backbone, DeepLabHead(48, CLASSES, (2, 4)), FCNHead(32, CLASSES)).eval()
