"""Networks of other packages, with random weights and at sizes that run fast; packages are imported when one is built."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        build: makes it, with random weights.
        shape: of one input, (C, H, W) or (C, D, H, W).
        batches: whether its batch size may vary.
        ends_exporter: whether torch's exporter may end the process, so that it is tried on the original first, in another one.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 64, 64)
    batches: bool = True
    ends_exporter: bool = False


class OneInput(nn.Module):
    """A network whose second argument is not used, as a network of one input."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, None)


def of(
    where: str, *args: Any, then: Callable[[Any], nn.Module] = lambda made: made, **settings: Any
) -> Callable[[], nn.Module]:
    """A builder: what ``where``, such as ``package.module:Class``, makes of the arguments, and ``then`` makes of that."""
    module, _, name = where.partition(":")
    return lambda: then(attrgetter(name)(import_module(module))(*args, **settings))


def segmentation_model(name: str, encoder: str = "resnet18") -> Network:
    """A network whose encoder has three stages, and whose decoder is as narrow."""
    settings: dict[str, Any] = {"encoder_depth": 3}
    if name in ("Unet", "UnetPlusPlus", "MAnet"):
        settings["decoder_channels"] = (64, 32, 16)
    elif name.startswith("DeepLab"):
        settings |= {"decoder_channels": 64, "decoder_atrous_rates": (2, 4, 6)}
    elif name == "FPN":
        settings |= {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}
    build = of(f"segmentation_models_pytorch:{name}", encoder, encoder_weights=None, classes=3, **settings)
    return Network(build, (3, 128, 128) if name == "PAN" else (3, 64, 64))


def transformer(name: str, kind: str = "ForImageClassification", /, **settings: Any) -> Network:
    """A network of transformers, built from a config."""

    def build() -> nn.Module:
        library = import_module("transformers")
        return getattr(library, name + kind)(getattr(library, f"{name}Config")(**settings))

    return Network(build)


def monai(name: str, dimensions: int, **settings: Any) -> Network:
    spatial = {} if name == "UNETR" else {"spatial_dims": dimensions}
    build = of(f"monai.networks.nets:{name}", **spatial, in_channels=1, out_channels=2, **settings)
    size = (
        64 if dimensions == 2 else 32 if name == "BasicUNet" else 16
    )  # its norms need more than one place after four halvings
    return Network(build, (1, *[size] * dimensions))


def unetr(dimensions: int) -> Network:
    size = [32 if dimensions == 3 else 64] * dimensions
    sizes = {"feature_size": 16 if dimensions == 2 else 8, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}
    build = of("monai.networks.nets:UNETR", in_channels=1, out_channels=2, img_size=size, spatial_dims=dimensions, **sizes)
    return Network(build, (1, *size))


def nnunet(name: str, dimensions: int, **settings: Any) -> Network:
    """One of nnU-Net's two, as its plans build it."""
    blocks = {"n_conv_per_stage": 2} if name == "PlainConvUNet" else {"n_blocks_per_stage": (1, 2, 2, 2)}
    build = of(
        f"dynamic_network_architectures.architectures.unet:{name}",
        input_channels=1,
        n_stages=4,
        features_per_stage=(16, 32, 64, 64),
        conv_op=getattr(nn, f"Conv{dimensions}d"),
        kernel_sizes=3,
        strides=(1, 2, 2, 2),
        num_classes=3,
        n_conv_per_stage_decoder=2 if name == "PlainConvUNet" else 1,
        conv_bias=True,
        norm_op=getattr(nn, f"InstanceNorm{dimensions}d"),
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        **blocks,
        **settings,
    )
    return Network(build, (1, *[16 if dimensions == 3 else 64] * dimensions))


def pytorchcv(name: str, **settings: Any) -> Network:
    size = 32 if name.endswith("cifar10") else settings.get("in_size", (224,))[0]
    return Network(of("pytorchcv.model_provider:get_model", name, pretrained=False, **settings), (3, size, size))


def spandrel(where: str, **settings: Any) -> Network:
    return Network(of(f"spandrel.architectures.{where}", **settings), (3, 32, 32))


def yolo(name: str, kind: str = "Detection") -> Network:
    """A YOLO from the yaml of its package."""
    return Network(of(f"ultralytics.nn.tasks:{kind}Model", f"{name}.yaml", verbose=False))


def open_clip(visual: bool) -> Network:
    """CLIP with the RN50 tower, whose transformer for text is cut down to two narrow layers."""

    def build() -> nn.Module:
        config = import_module("open_clip").get_model_config("RN50")
        config["vision_cfg"] |= {"image_size": 64, "width": 16}
        config["text_cfg"] |= {"vocab_size": 100, "width": 64, "heads": 2, "layers": 2}
        model = import_module("open_clip").CLIP(**config)
        return model.visual if visual else model

    return Network(build)


CONFIGS = {
    "ResNet": {"embedding_size": 32, "hidden_sizes": (64, 128, 256, 256), "depths": (1, 2, 2, 1)},
    "ConvNext": {"hidden_sizes": (32, 64, 96, 128), "depths": (1, 1, 2, 1), "layer_scale_init_value": 0.5},
    "ConvNextV2": {"hidden_sizes": (32, 64, 96, 128), "depths": (1, 1, 2, 1)},
    "RegNet": {"hidden_sizes": (64, 128, 192, 256), "depths": (1, 1, 2, 1), "groups_width": 32},
    "MobileNetV1": {"depth_multiplier": 0.5},
    "MobileNetV2": {"depth_multiplier": 0.5},
    "EfficientNet": {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    "Bit": {"num_groups": 16, "embedding_size": 32, "hidden_sizes": (64, 128, 256, 256), "depths": (1, 2, 2, 1)},
    "HGNetV2": {
        "stem_channels": [3, 16, 24],
        "stage_in_channels": [24, 64, 128, 192],
        "stage_mid_channels": [16, 24, 32, 48],
        "stage_out_channels": [64, 128, 192, 256],
        "stage_num_blocks": [1, 1, 1, 1],
        "hidden_sizes": [64, 128, 192, 256],
    },
    "TextNet": {
        "conv_layer_kernel_sizes": [[[3, 3], [3, 3]], [[3, 3], [1, 3]], [[3, 3], [3, 1]], [[3, 3], [3, 3]]],
        "conv_layer_strides": [[1, 2], [2, 1], [2, 1], [2, 1]],
        "hidden_sizes": [32, 32, 64, 96, 128],
        "stem_out_channels": 32,
    },
}
UNET = {"channels": (16, 32, 64, 64), "strides": (2, 2, 2)}
DYNUNET = {"kernel_size": [3] * 4, "strides": [1, 2, 2, 2], "upsample_kernel_size": [2] * 3, "filters": [16, 32, 64, 64]}
SMALL = {"features": (16, 16, 32, 64, 64, 16)}
SEGMENTATION = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus")
ENCODERS = ("mobilenet_v2", "efficientnet-b0", "densenet121", "vgg11_bn", "mobileone_s0", "tu-convnext_atto")
TASKS = {"": "Detection", "-seg": "Segmentation", "-cls": "Classification", "-pose": "Pose", "-obb": "OBB"}
CLASSIFIERS = ("resnet20_cifar10", "preresnet20_cifar10", "seresnet20_cifar10", "densenet40_k12_cifar10", "mobilenetv2_wd4")

MODULES = {
    "segmentation-models-pytorch": "segmentation_models_pytorch",
    "transformers": "transformers.modeling_utils",
    "monai": "monai.networks.nets",
    "nnU-Net": "dynamic_network_architectures.architectures.unet",
    "pytorchcv": "pytorchcv.model_provider",
    "facenet-pytorch": "facenet_pytorch",
    "ultralytics": "ultralytics.nn.tasks",
}
"""What is imported for networks of a package; the package where it is not here."""

NETWORKS: dict[str, Network] = {
    **{f"segmentation-models-pytorch/{name}": segmentation_model(name) for name in SEGMENTATION},
    **{f"segmentation-models-pytorch/Unet {encoder}": segmentation_model("Unet", encoder) for encoder in ENCODERS},
    **{f"transformers/{name}": transformer(name, **settings) for name, settings in CONFIGS.items()},
    "open_clip/RN50": open_clip(visual=False),
    "open_clip/RN50 visual": open_clip(visual=True),
    **{f"monai/UNet {n}d": monai("UNet", n, **UNET, num_res_units=2) for n in (2, 3)},
    "monai/DenseNet 2d": monai("DenseNet121", 2, block_config=(2, 2, 2, 2)),
    **{f"monai/BasicUNet {n}d": monai("BasicUNet", n, **SMALL) for n in (2, 3)},
    **{f"monai/SegResNet {n}d": monai("SegResNet", n, init_filters=16) for n in (2, 3)},
    **{f"monai/DynUNet {n}d": monai("DynUNet", n, **DYNUNET) for n in (2, 3)},
    "monai/DynUNet 2d supervised": monai("DynUNet", 2, **DYNUNET, res_block=True, deep_supervision=True),
    **{f"monai/UNETR {n}d": unetr(n) for n in (2, 3)},
    "monai/AttentionUnet 2d": monai("AttentionUnet", 2, **UNET),
    "monai/BasicUNetPlusPlus 2d": monai("BasicUNetPlusPlus", 2, **SMALL),
    **{f"nnU-Net/{name} {n}d": nnunet(name, n) for name in ("PlainConvUNet", "ResidualEncoderUNet") for n in (2, 3)},
    "nnU-Net/PlainConvUNet 2d supervised": nnunet("PlainConvUNet", 2, deep_supervision=True),
    **{f"pytorchcv/{name}": pytorchcv(name) for name in (*CLASSIFIERS, "shufflenetv2_wd2", "dla46c", "squeezenet_v1_1")},
    "pytorchcv/centernet_resnet18_coco": pytorchcv("centernet_resnet18_coco", in_size=(64, 64)),
    "torchxrayvision/DenseNet": Network(
        of("torchxrayvision.models:DenseNet", weights=None, block_config=(2, 2, 2, 2)), (1, 64, 64)
    ),
    "facenet-pytorch/InceptionResnetV1": Network(of("facenet_pytorch:InceptionResnetV1", device="cpu"), (3, 96, 96)),
    "facenet-pytorch/ONet": Network(of("facenet_pytorch.models.mtcnn:ONet", pretrained=False), (3, 48, 48)),
    "effdet/efficientdet_d0": Network(
        of("effdet:create_model", "efficientdet_d0", pretrained=False, pretrained_backbone=False, image_size=(128, 128)),
        (3, 128, 128),
    ),
    "kornia/HardNet": Network(of("kornia.feature:HardNet", pretrained=False), (1, 32, 32)),
    "kornia/HyNet": Network(of("kornia.feature:HyNet", pretrained=False), (1, 32, 32)),
    "kornia/DISK's U-Net": Network(of("kornia.feature:DISK", then=lambda disk: disk.unet)),
    "kornia/YuNet": Network(of("kornia.models.yunet:YuNet", "test", pretrained=False)),
    "spandrel/ESRGAN": spandrel("ESRGAN.__arch.RRDB:RRDBNet", num_filters=32, num_blocks=2),
    "spandrel/SPAN": replace(spandrel("SPAN.__arch.span:SPAN", num_in_ch=3, num_out_ch=3, norm=False), ends_exporter=True),
    "spandrel/Compact": spandrel("Compact.__arch.SRVGG:SRVGGNetCompact", num_feat=32, num_conv=8),
    "spandrel/NAFNet": spandrel("NAFNet.__arch.NAFNet_arch:NAFNet", enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
    "spandrel/PLKSR": spandrel("PLKSR.__arch.PLKSR:PLKSR", dim=32, n_blocks=3),
    "spandrel/RealCUGAN": spandrel("RealCUGAN.__arch.upcunet_v3:UpCunet2x"),
    "spandrel/DnCNN": spandrel("DnCNN.__arch.network_dncnn:DnCNN", in_nc=3, out_nc=3, nc=32, nb=6),
    "spandrel/SAFMN": spandrel("SAFMN.__arch.safmn:SAFMN", dim=32, n_blocks=3),
    "spandrel/FBCNN": spandrel("FBCNN.__arch.FBCNN:FBCNN", nb=1),
    "easyocr/CRAFT": Network(of("easyocr.craft:CRAFT", pretrained=False)),
    "easyocr/CRNN": Network(of("easyocr.model.vgg_model:Model", 1, 128, 64, 40, then=OneInput), (1, 64, 96)),
    "easyocr/CRNN ResNet": Network(of("easyocr.model.model:Model", 1, 128, 64, 40, then=OneInput), (1, 64, 96)),
    "efficientnet_pytorch/efficientnet-b0": Network(of("efficientnet_pytorch:EfficientNet.from_name", "efficientnet-b0")),
    **{f"ultralytics/yolo{v}n{task}": yolo(f"yolo{v}n{task}", kind) for v in ("v8", "11") for task, kind in TASKS.items()},
    **{f"ultralytics/{name}": yolo(name) for name in ("yolov5n", "yolov9t", "yolov10n", "yolo12n", "yolo26n")},
}


def images_for(network: Network, count: int, seed: int) -> Tensor:
    """Images of smooth patterns and some noise, (count, *shape), about as large as normalised pictures."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, network.shape[0], *[max(2, size // 8) for size in network.shape[1:]], generator=generator)
    mode = "trilinear" if len(network.shape) == 4 else "bilinear"
    smooth = nn.functional.interpolate(coarse, network.shape[1:], mode=mode)
    return smooth + 0.2 * torch.randn(smooth.shape, generator=generator)
