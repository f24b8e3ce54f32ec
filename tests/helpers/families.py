"""A small network of each family whose spans are narrowed."""

import timm
import torch
import torchvision
from torch import nn


class Plain(nn.Module):
    """Convolutions one after the other, maps flattened, and fully connected layers, as in a VGG."""

    def __init__(self):
        super().__init__()
        convs = [
            layer
            for ins, outs in ((3, 16), (16, 24), (24, 32))
            for layer in (nn.Conv2d(ins, outs, 3, padding=1), nn.BatchNorm2d(outs), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        ]
        self.features, self.pool = nn.Sequential(*convs), nn.AdaptiveAvgPool2d(3)
        self.classifier = nn.Sequential(nn.Linear(288, 64), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(64, 10))

    def forward(self, x):
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


FAMILIES = {
    "resnet": lambda: torchvision.models.resnet18(num_classes=10),
    "bottleneck": lambda: timm.create_model("resnet26", num_classes=10),
    "mobilenet": lambda: timm.create_model("mobilenetv2_035", num_classes=10),
    "efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=10),
    "regnet": lambda: timm.create_model("regnety_002", num_classes=10),
    "resnext": lambda: timm.create_model("resnext26ts", num_classes=10),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=10),
    "vgg": lambda: Plain(),
    "convnext": lambda: timm.create_model("test_convnext", num_classes=10),
    "vit": lambda: timm.create_model("test_vit", num_classes=10),
}


def shrink_detector(model: nn.Module) -> bool:
    """Whether a model is a detector of torchvision, which then takes small images and few boxes, and so less time."""
    detector = "torchvision.models.detection" in type(model).__module__
    if detector:
        model.transform.min_size = (160,)  # in place of 800
    if hasattr(model, "rpn"):
        model.rpn._post_nms_top_n = {"training": 50, "testing": 50}  # in place of 2,000 and 1,000
    return detector
