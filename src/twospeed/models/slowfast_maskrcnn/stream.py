"""A video fed to a detector frame by frame. Imports no torchvision, which is slow to load.

Shape letters: H/W pixels of a frame, h/w cells of a pyramid level.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple, Protocol

from torch import Tensor

from twospeed.models.slowfast_maskrcnn.pathways import PathwayStream

Detections = dict[str, Tensor]


class FrameFeatures(NamedTuple):
    """What one frame is, computed once and seen by every window around it."""

    pyramid: dict[str, Tensor]  # levels "0", "1", "2", "3", "pool": (1, 256, h, w)
    proposals: Tensor  # (p, 4) xyxy, pixels of the scaled frame
    scaled_size: tuple[int, int]  # height, width as the network sees it, without padding
    size: tuple[int, int]  # height, width of the frame


class FrameDetector(Protocol):
    """What `DetectionStream` needs of a network: `SlowFastMaskRCNN`, or one that was optimised."""

    @property
    def window(self) -> int:
        """How many frames one result depends on, odd: half of them lie after its frame."""
        ...

    def encode(self, frame: Tensor) -> FrameFeatures:
        """Compute what a frame is."""
        ...

    def pathways(self) -> PathwayStream:
        """Begin one level of a video."""
        ...

    def detect(self, features: FrameFeatures, enhanced: dict[str, Tensor]) -> Detections:
        """Find the objects of a frame."""
        ...


class DetectionStream:
    """Feed a video frame by frame; a frame's detections come n // 2 frames later. Holds a window, never the video."""

    def __init__(self, model: FrameDetector):
        self.model = model
        self._levels: dict[str, PathwayStream] = {}
        self._pending: deque[FrameFeatures] = deque()  # encoded, not yet detected

    def push(self, frame: Tensor) -> list[Detections]:
        """Take the next frame, float (3, H, W) in 0..1, of the first one's size; return results that are ready."""
        features = self.model.encode(frame)
        self._pending.append(features._replace(pyramid={}))  # the streams hold what of the pyramid is still needed
        enhanced: dict[str, Tensor] = OrderedDict()
        for name, level in features.pyramid.items():
            if name not in self._levels:
                self._levels[name] = self.model.pathways()
            if (result := self._levels[name].push(level)) is not None:
                enhanced[name] = result
        return [self.model.detect(self._pending.popleft(), enhanced)] if enhanced else []

    def finish(self) -> list[Detections]:
        """End the video: return the results of its last frames."""
        ends = {name: stream.finish() for name, stream in self._levels.items()}
        results = []
        for i in range(len(self._pending)):
            enhanced = OrderedDict((name, levels[i]) for name, levels in ends.items())
            results.append(self.model.detect(self._pending.popleft(), enhanced))
        self._levels = {}
        return results
