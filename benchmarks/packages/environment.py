"""An environment of its own for the packages: it sees all that the running one has, and gets the packages without theirs."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

PACKAGES = (
    "segmentation-models-pytorch",
    "transformers",
    "open_clip_torch",
    "monai",
    "dynamic-network-architectures",
    "pytorchcv",
    "torchxrayvision",
    "facenet-pytorch",
    "effdet",
    "kornia",
    "spandrel",
    "easyocr",
    "efficientnet-pytorch",
    "ultralytics",
)
# what they import and the running environment may lack; torch and what goes with it stay as they are, whatever they pin
BESIDES = (
    *("tokenizers", "regex", "ftfy", "omegaconf", "antlr4-python3-runtime==4.9.3", "einops", "kornia-rs", "scikit-image"),
    *("imageio", "lazy-loader", "tifffile", "python-bidi", "shapely", "pyclipper", "opencv-python-headless"),
    *("py-cpuinfo", "polars", "polars-runtime-32", "ultralytics-thop"),
)
OFFLINE = {"HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
DONE = "packages_of_ghostify"


def make(folder: Path) -> Path:
    """Make the environment where it is not made yet.

    Args:
        folder: where it stands, or is to stand.

    Returns:
        Its Python.
    """
    python = folder / "bin" / "python"
    if not (folder / DONE).exists():
        venv.create(folder, with_pip=False)
        own = next((folder / "lib").glob("python*/site-packages"))
        (own / "running.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES, *BESIDES], check=True)
        (folder / DONE).touch()
    return python


def variables(folder: Path) -> dict[str, str]:
    """Environment variables for its Python: one thread, no hub, settings of packages in its folder."""
    one = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "YOLO_CONFIG_DIR": str(folder), "HF_HOME": str(folder / "hub")}
    return {**os.environ, **OFFLINE, **one, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
