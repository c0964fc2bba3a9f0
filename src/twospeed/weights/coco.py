"""A start from torchvision's Mask R-CNN, trained on COCO, as the report begins all its trainings."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from twospeed.errors import WeightsUnavailable
from twospeed.models.slowfast_maskrcnn.convert import to_ours
from twospeed.weights import store
from twospeed.weights.entries import Entry, WeightsFile
from twospeed.weights.imports import read_state
from twospeed.weights.load import load_strictly

COCO = WeightsFile(
    file="maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    url="https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    sha256="bf2d0c1e",  # its first digits, which torchvision keeps in the file's name
    licence="BSD-3-Clause (code)",
    trained_on="COCO 2017",
)
_ENTRY = Entry(
    name="maskrcnn_resnet50_fpn",
    task="track",
    summary="torchvision's Mask R-CNN, where slowfast_maskrcnn starts from",
    builder="twospeed.models.slowfast_maskrcnn.builders:slowfast_maskrcnn",
    converter="twospeed.models.slowfast_maskrcnn.convert",
    paper="He et al., Mask R-CNN, ICCV 2017",
    weights=COCO,
)

# Their classes are COCO's 91; a detector of one class gets new ones, as the report's
_REPLACED = ("detector.roi_heads.box_predictor.", "detector.roi_heads.mask_predictor.")


def coco_file() -> Path:
    """Return the file of COCO weights: from torch's hub cache, else from our own, fetched once.

    Raises WeightsUnavailable where it is in neither and cannot be fetched, saying how to give it by hand.
    """
    try:
        return store.default_weights(_ENTRY)
    except WeightsUnavailable as error:
        raise WeightsUnavailable(f"{error}, or give its path; 'none' starts without", option="coco") from error


def start_from_coco(model: nn.Module, file: Path | str | None = None) -> Path:
    """Fill the detector of a SlowFast Mask R-CNN with COCO weights; return the file they came from.

    file: None looks for it, as `coco_file`. Backbone, pyramid, proposals, box and mask heads are taken; what predicts
    classes is left as it is, and so is the SlowFast module. Raises CheckpointError for a file that does not fit in all
    the rest, WeightsUnavailable where there is none.
    """
    path = coco_file() if file is None else Path(file)
    state, _ = read_state(path)
    given = to_ours({f"detector.{name.removeprefix('detector.')}": value for name, value in state.items()})
    kept = {name: value for name, value in model.state_dict().items() if not _is_taken(name)}
    taken = {name: value for name, value in given.items() if _is_taken(name)}
    load_strictly(model, kept | taken, str(path), "torchvision's Mask R-CNN with ResNet-50 and pyramid")
    return path


def _is_taken(name: str) -> bool:
    """All of the detector but its classes, and the counters that only trainable batch norm has."""
    taken = name.startswith("detector.") and not name.startswith(_REPLACED)
    return taken and not name.endswith("num_batches_tracked")
