"""Colour: jitter drawn once for a whole clip, and normalisation to what a network expects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV and Pillow grey an image


def normalise(
    frames: Any,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    channel_dim: int = -3,
    order: Literal["rgb", "bgr"] = "rgb",
) -> Any:
    """Bring RGB images from 0..255 to (value / 255 - mean) / std, float32.

    frames: 3 channels along channel_dim, a tensor or a NumPy array. mean, std: three values for 0..1 images, in RGB
    order. order: the channel order of the output ("bgr" reverses the channels).
    """
    if frames.shape[channel_dim] != 3:
        raise InputError(f"frames of shape {tuple(frames.shape)} do not have 3 channels along {channel_dim}")
    shape = [1] * frames.ndim
    shape[channel_dim] = 3
    if isinstance(frames, np.ndarray):
        centre, spread = (np.asarray(v, np.float32).reshape(shape) for v in (mean, std))
        values = (frames.astype(np.float32) / np.float32(255) - centre) / spread
        return np.flip(values, channel_dim) if order == "bgr" else values
    scaled = frames.float() / 255.0
    scaled = (scaled - scaled.new_tensor(mean).reshape(shape)) / scaled.new_tensor(std).reshape(shape)
    return scaled.flip(channel_dim) if order == "bgr" else scaled


@dataclass(frozen=True, slots=True)
class ColourTransform:
    """A drawn change of colours, the same for every frame it is applied to.

    brightness, contrast, saturation: factors around 1. hue: shift in -0.5..0.5 of the colour circle. grey:
    all colour removed, last. order: in which the four are applied (0 brightness, 1 contrast, 2 saturation, 3 hue).
    tint: gain of each channel, after them. offset: added after it, in 0..255.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    grey: bool = False
    order: tuple[int, ...] = (0, 1, 2, 3)
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: float = 0.0

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Apply to one RGB image, uint8 (H, W, 3) -> the same.

        A film (T, H, W, 3) is one image here: contrast turns about the mean of all its frames.
        Differs from torchvision's jitter: brightness, contrast, saturation and grey, which are linear, are applied as
        one matrix and rounded and clamped once, not one by one; without a shift of hue, values agree to 1 where nothing
        leaves 0..255.
        """
        if image.ndim == 4:
            return self.image(image.reshape(-1, *image.shape[2:])).reshape(image.shape)
        luma = np.array(_LUMA)
        mean = np.array(cv2.mean(image)[:3])  # of the image so far
        change = np.hstack([np.eye(3), np.zeros((3, 1))])  # colour and offset
        for step in self.order:
            matrix, offset = np.eye(3), 0.0
            if step == 0:
                matrix = self.brightness * matrix
            elif step == 1:
                matrix, offset = self.contrast * matrix, (1 - self.contrast) * float(luma @ mean)
            elif step == 2:
                matrix = self.saturation * matrix + (1 - self.saturation) * luma
            elif self.hue:
                image = _turn_hue(_recolour(image, change), self.hue)
                change, mean = np.hstack([np.eye(3), np.zeros((3, 1))]), np.array(cv2.mean(image)[:3])
            change, mean = matrix @ change, matrix @ mean + offset
            change[:, 3] += offset
        change = np.array(self.tint)[:, None] * change
        change[:, 3] += self.offset
        if self.grey:
            change = np.tile(luma @ change, (3, 1))
        return _recolour(image, change)


def draw_colour(
    rng: np.random.Generator,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    *,
    grey_probability: float = 0.0,
) -> ColourTransform:
    """Draw colour jitter: factors uniform in [max(0, 1 - x), 1 + x], hue in [-hue, hue], random order."""
    if not 0 <= hue <= 0.5:
        raise InputError(f"hue jitter must be within 0..0.5 of the colour circle, got {hue}")
    drawn_brightness, drawn_contrast, drawn_saturation = (
        float(rng.uniform(max(0.0, 1.0 - x), 1.0 + x)) for x in (brightness, contrast, saturation)
    )
    shift = float(rng.uniform(-hue, hue))
    order = tuple(int(step) for step in rng.permutation(4))
    grey = bool(rng.random() < grey_probability)
    return ColourTransform(drawn_brightness, drawn_contrast, drawn_saturation, shift, grey, order)


def draw_light(rng: np.random.Generator, strength: float) -> ColourTransform:
    """Draw a change of light: gain, white balance, saturation and offset; strength 0..1 is the spread of each."""
    red, green, blue = (1 + rng.normal(0, strength, 3) * 0.4 + rng.normal(0, strength)).tolist()
    saturation = float(1 + rng.normal(0, 2 * strength))
    return ColourTransform(saturation=saturation, tint=(red, green, blue), offset=float(rng.normal(0, 60 * strength)))


def jitter_colours(rng: np.random.Generator, image: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """Change the light of an image (H, W, 3), or of a film (T, H, W, 3) as a whole; see `draw_light`."""
    return draw_light(rng, strength).image(image)


def recolour(
    rng: np.random.Generator, image: NDArray[np.uint8], *, strength: float = 0.1, blur: float = 0.15
) -> NDArray[np.uint8]:
    """Change light and colour as weather and cameras do, and sometimes blur. uint8 ([T, ]H, W, 3), the same shape back.

    strength: 0..1, spread of gain, offset, saturation and gamma. blur: probability of a Gaussian blur.
    """
    image = jitter_colours(rng, image, strength)
    gamma = float(np.exp(rng.normal(0, 2 * strength)))
    table = (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)
    image = table[image]
    if rng.random() < blur:
        sigma = float(rng.uniform(0.4, 1.5))
        frames = image.reshape(-1, *image.shape[-3:])
        image = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames]).reshape(image.shape)
    return image


def _recolour(image: NDArray[np.uint8], change: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Apply a 3 x 4 matrix of colours, rounded and clamped to 0..255."""
    if np.array_equal(change, np.hstack([np.eye(3), np.zeros((3, 1))])):
        return image
    return np.asarray(cv2.transform(image, change), np.uint8)


def _turn_hue(image: NDArray[np.uint8], shift: float) -> NDArray[np.uint8]:
    """Shift the hue of uint8 RGB by a part of the circle, in steps of 1/256."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    table = ((np.arange(256) + round(256 * shift)) % 256).astype(np.uint8)
    hsv[..., 0] = table[hsv[..., 0]]
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8)
