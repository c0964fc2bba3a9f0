"""What a network offers to be run by a pipeline: methods and attributes, no base class.

| job | protocol |
|---|---|
| track, masks given | `MaskMemoryNetwork`: STCN, STM, `track_nano`, or a network of your own |
| track, no masks | `PrimaryFinder`: `find_nano`; or `slowfast_maskrcnn.stream.FrameDetector` |
| segment | `VideoSegmentationNetwork`: GSVNet; or any call that maps images to class scores |
| classify, detect | a call, and the attributes `frames`, `frame_stride` and `num_classes` |

`examples/own_network.py` brings a network for each of the four jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeGuard

if TYPE_CHECKING:
    from torch import Tensor

Similarity = Literal["l2", "dot"]
"""How keys are compared in the memory: by negative squared distance (STCN), or by scalar product (STM)."""


class QueryKey(Protocol):
    """What `encode_key` returns: a NamedTuple of tensors, batch first, one of them the key."""

    @property
    def key(self) -> Tensor:
        """What is matched with the memory, (B, C, h, w)."""
        ...


class MaskMemoryNetwork(Protocol):
    """A network that segments a frame from the masks of remembered frames.

    Shape letters: B batch, K objects, C key channels, V value channels, H/W pixels (multiples of 16), h/w cells (H/16,
    W/16). similarity: how keys are compared, see `memory.read_memory`. keys_per_object: False where all objects share a
    frame's key (STCN), True where each has its own (STM). masks_as_given: False where given masks pass soft aggregation
    before they are remembered (STCN), True where they are remembered as they are, with nothing in the border that pads
    the frame (STM).

    A network may also have `input_scale` (0 to 1): it is given frames of that share of the size that was asked for.
    """

    similarity: Similarity
    keys_per_object: bool
    masks_as_given: bool

    def normalise(self, images: Tensor) -> Tensor:
        """Bring RGB images (..., 3, H, W) in 0..1 to the range that the encoders expect; padding adds zeros later."""
        ...

    def encode_key(self, frames: Tensor) -> Any:
        """Encode what frames look like. Shapes: normalised (B, 3, H, W) -> a `QueryKey`."""
        ...

    def encode_memory(self, frames: Tensor, features: Any, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Encode what is remembered of frames.

        Shapes: normalised frames (B, 3, H, W), what `encode_key` returned for them, soft masks in 0..1 (B, K, H, W) ->
        keys (B, C, h, w), or (B, K, C, h, w) with keys_per_object, and values (B, K, V, h, w).
        """
        ...

    def decode(self, readout: Tensor, features: Any) -> Tensor:
        """Turn what was recalled into logits, before the sigmoid. Shapes: (B, K, V, h, w) -> (B, K, H, W)."""
        ...


class LastFrameNetwork(MaskMemoryNetwork, Protocol):
    """A `MaskMemoryNetwork` that may also see the frame before. sees_last_frame: whether `recall_recent` is called."""

    sees_last_frame: bool

    def recall_recent(self, readout: Tensor, key: Tensor, last_key: Tensor, last_masks: Tensor) -> Tensor:
        """Add to a readout what the frame before shows near each cell.

        Shapes: readout (B, K, V, h, w), keys of this frame and the last (B, C, h, w), the last one's soft masks
        (B, K, H, W) -> (B, K, V + R, h, w), what `decode` takes then.
        """
        ...


class PrimaryFinder(Protocol):
    """A network that finds what a clip is about from a frame and the motion around it; a tracker follows that."""

    def primary_map(self, images: Tensor, motion: Tensor) -> Tensor:
        """Return how likely each place belongs to a primary object.

        Shapes: RGB in 0..1 (B, 3, H, W), multiples of 32; planes of `ops.motion` (B, 12, H/2, W/2) -> (B, H/2, W/2).
        """
        ...


class VideoSegmentationNetwork(Protocol):
    """A network that labels keyframes, and carries their class scores to the frames between them; see `GSVNet`."""

    def keyframe(self, image: Tensor) -> Tensor:
        """Label an image by itself. Shapes: RGB 0..255 (1, 3, H, W) -> scores (1, C, h, w)."""
        ...

    def small(self, image: Tensor) -> Tensor:
        """Reduce an image to what propagation sees. Shapes: (1, 3, H, W) -> (1, 3, h, w)."""
        ...

    def step(self, scores: Tensor, previous: Tensor, current: Tensor) -> Any:
        """Carry scores from one small image to the next: an object with `scores`, and `flow` (1, 2, h, w) in cells.

        Where it has `carried`, that is carried on from there instead of its `scores`.
        """
        ...


MASK_MEMORY = ("similarity", "keys_per_object", "masks_as_given", "normalise", "encode_key", "encode_memory", "decode")
VIDEO_SEGMENTATION = ("keyframe", "small", "step")
FRAME_DETECTOR = ("window", "encode", "pathways", "detect")
PRIMARY_FINDER = ("primary_map",)
CLIP_NETWORK = ("frames", "frame_stride", "num_classes")


def sees_last_frame(network: MaskMemoryNetwork) -> TypeGuard[LastFrameNetwork]:
    """Return whether a network is shown the frame before, too."""
    return bool(getattr(network, "sees_last_frame", False))


def input_scale(network: object) -> float:
    """Return at which share of the size that was asked for a network is to see frames: 1 for most."""
    return float(getattr(network, "input_scale", 1.0))


def lacks(model: object, members: tuple[str, ...]) -> list[str]:
    """Return which members of a protocol a network does not have."""
    return [name for name in members if not hasattr(model, name)]
