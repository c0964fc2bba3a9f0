"""Generated clips whose masks are known exactly: to train a tracker on, and to show one at work.

`MovingObjects` draws short samples for training, in the spirit of STCN's pretraining on still images (Cheng 2021,
supplement, section F.3.1), but richer: instead of warping one image as a whole, layers of real or procedural texture
move, deform and hide each other over a background that moves too. `render_clip` streams a longer clip of the same make.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from twospeed.data.clips.layers import Image, Layer, Motion, draw_layers, filmed, place_layer, random_motion
from twospeed.data.clips.textures import procedural_texture, random_shape, region_of
from twospeed.data.clips.training_clip import TrainingClip, attempt, following, visible
from twospeed.errors import InputError
from twospeed.transforms.colour import jitter_colours

_OWN = 254  # label of the object that a background's own mask marks


class MovingObjects:
    """Draws clips of layered, moving, deforming objects with exact masks: a `ClipSource`.

    frames: real images, uint8 RGB (h, w, 3), as texture for backgrounds and objects; None: procedural
    textures only. masks: for each image the annotated object, uint8 (h, w), 0 = none; None: shapes are cut
    at random. length: frames of a clip. procedural: share of procedural textures when there are real frames.
    copies: probabilities of an object's having none, one, two, ... look-alikes; followed_copies: of one's being an
    object to follow, too. away: probability that a thing is missing in one of the frames after the first. count:
    clips of an epoch.
    Raises InputError when masks and frames do not belong together.
    """

    def __init__(
        self,
        frames: Sequence[Image] | None = None,
        masks: Sequence[Image] | None = None,
        *,
        length: int = 3,
        procedural: float = 0.1,
        copies: tuple[float, ...] = (0.8, 0.2),
        followed_copies: float = 0.0,
        away: float = 0.0,
        count: int = 1,
        name: str = "generated",
    ) -> None:
        if masks is not None and (frames is None or len(masks) != len(frames)):
            raise InputError(f"{len(masks)} masks for {0 if frames is None else len(frames)} frames: give one for each")
        if frames is not None and len(frames) == 0:
            raise InputError("no frames given as texture; pass None for procedural textures only")
        self.frames, self.masks = frames, masks
        self.length, self.procedural, self.count, self.name = length, procedural, count, name
        self.copies, self.followed_copies, self.away = copies, followed_copies, away

    def __len__(self) -> int:
        return self.count

    def draw(
        self, rng: np.random.Generator, *, index: int | None = None, size: int = 256, objects: int = 2, gap: int = 5
    ) -> TrainingClip:
        """Draw one clip; each object to follow covers 0.3 % of frame 0 or more. index and gap have no meaning here.

        Raises InputError when no object comes into view.
        """
        return attempt(
            lambda: self._attempt(rng, size, objects), "no object was visible; are the images larger than a few pixels?"
        )

    def _attempt(self, rng: np.random.Generator, size: int, objects: int) -> TrainingClip | None:
        source = self._pick(rng)
        film, own_mask = self._background(rng, source, size)  # (T, H, W, 3), (T, H, W)
        layers = self._layers(rng, source, size)
        labels = np.zeros((self.length, size, size), np.uint8)
        if own_mask is not None:
            labels[own_mask > 127] = _OWN
        missing = [int(rng.integers(1, self.length)) if rng.random() < self.away else 0 for _ in layers]
        draw_layers(rng, film, labels, layers, missing)
        shown = visible(labels[0], 0.003)
        if not shown:
            return None
        rng.shuffle(shown)  # at most `objects` of those that frame 0 shows are to be followed
        return following(self._camera(rng, film), labels, shown[:objects])

    def _pick(self, rng: np.random.Generator) -> int | None:
        """Choose a real image's index, or None for a procedural texture."""
        if self.frames is None or rng.random() < self.procedural:
            return None
        return int(rng.integers(len(self.frames)))

    def _background(self, rng: np.random.Generator, source: int | None, size: int) -> tuple[Image, Image | None]:
        """Film an image with a moving camera; with the mask of its own object where that is to be followed."""
        mask = None
        if source is None or self.frames is None:
            image = procedural_texture(rng, size + size // 2, size + size // 2)
        else:
            image = self.frames[source]
            if self.masks is not None and rng.random() < 0.3:
                mask = np.where(self.masks[source] > 0, np.uint8(255), np.uint8(0))
        height, width = image.shape[:2]
        scale = float(np.clip(size / height * np.exp(rng.uniform(0.0, 0.9)), 0.5, 1.5))
        view = size / scale  # side of the view in image pixels
        spare = np.maximum(np.array([width, height]) - view, 0)
        middle = np.array([width, height]) / 2 + (rng.random(2) - 0.5) * spare
        if mask is not None and mask.any():
            ys, xs = np.nonzero(mask)
            middle = np.array([xs.mean(), ys.mean()]) + rng.normal(0, 0.15, 2) * view
        strength = 1.0 if mask is None else 1.5
        motion = random_motion(
            rng, centre=np.array([0, 0]), scale=scale, layer_side=size, reach=0.03 * size, strength=0.5 * strength
        )
        flip = rng.random() < 0.5
        film = filmed(image, motion, middle, size, self.length, flip=flip)
        return film, None if mask is None else filmed(mask, motion, middle, size, self.length, flip=flip)

    def _layers(self, rng: np.random.Generator, source: int | None, size: int) -> list[Layer]:
        """Draw the objects, look-alikes and occluders of a sample, back to front."""
        layers: list[Layer] = []
        label = 0
        for _ in range(int(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25]))):
            label += 1
            layer = self.layer(rng, source, label=label, size=size)
            layers.append(layer)
            for _ in range(int(rng.choice(len(self.copies), p=self.copies))):
                followed = rng.random() < self.followed_copies
                label += followed
                twin = np.dstack([jitter_colours(rng, layer.rgba[..., :3], 0.05), layer.rgba[..., 3]])
                centre, scale = rng.uniform(0.0, 1.0, 2) * size, layer.motion.scale * rng.uniform(0.7, 1.4)
                motion = random_motion(
                    rng, centre=centre, scale=scale, layer_side=max(twin.shape[:2]), reach=0.05 * size
                )
                layers.insert(int(rng.integers(len(layers) + 1)), Layer(twin, motion, label if followed else 0))
        if rng.random() < 0.3:  # something that passes in front
            rgba = self._cutout(rng, None if rng.random() < 0.3 else self._pick(rng), size)
            extent = size * rng.uniform(0.1, 0.4)
            side, centre = max(rgba.shape[:2]), rng.uniform(0.0, 1.0, 2) * size
            motion = random_motion(rng, centre=centre, scale=extent / side, layer_side=side, reach=0.12 * size)
            layers.append(Layer(rgba, motion))
        return layers

    def layer(self, rng: np.random.Generator, neighbour: int | None, *, label: int, size: int) -> Layer:
        """Draw one moving cut-out for a sample of size x size pixels.

        neighbour: index of the image that it should resemble at times, or None.
        """
        rgba = self._cutout(rng, neighbour, size)
        side = max(rgba.shape[:2])
        extent = size * float(np.exp(rng.uniform(np.log(0.2), np.log(1.1))))
        centre = rng.uniform(0.1, 0.9, 2) * size
        motion = random_motion(rng, centre=centre, scale=extent / side, layer_side=side, reach=0.05 * size)
        blur = float(np.linalg.norm(motion.velocity)) * 0.4 if rng.random() < 0.2 else 0.0
        shadow = rng.uniform(0.2, 0.6) if rng.random() < 0.25 else 0.0
        return Layer(rgba, motion, label, shadow, min(blur, 15))

    def _cutout(self, rng: np.random.Generator, neighbour: int | None, size: int) -> Image:
        """Cut an object: uint8 RGBA. Any texture may become an object, so that matching is learned, not objects.

        neighbour: the background's image; a third of the cut-outs come from it, to look alike. size: side
        of the sample.
        """
        source = neighbour if rng.random() < 0.33 else self._pick(rng)
        if source is None or self.frames is None:
            side = int(rng.integers(64, 160))
            image, alpha = procedural_texture(rng, side, side), random_shape(rng, side)
        else:
            image, alpha = self._photographed(rng, source, size)
        image = jitter_colours(rng, image, 0.12)
        if rng.random() < 0.5:
            image, alpha = image[:, ::-1], alpha[:, ::-1]
        soft = int(rng.integers(0, 3))
        if soft:
            alpha = cv2.blur(np.ascontiguousarray(alpha), (2 * soft - 1, 2 * soft - 1))
        return np.dstack([image, alpha])

    def _photographed(self, rng: np.random.Generator, source: int, size: int) -> tuple[Image, Image]:
        """Cut an annotated object, a shape or an edge-following region out of a real image: RGB and alpha."""
        assert self.frames is not None
        image = self.frames[source]
        height, width = image.shape[:2]
        if self.masks is not None and rng.random() < 0.4:
            mask = self.masks[source]
            ys, xs = np.nonzero(mask[::4, ::4])
            if len(ys) > 20:
                top, left = max(int(ys.min()) * 4 - 6, 0), max(int(xs.min()) * 4 - 6, 0)
                bottom, right = min(int(ys.max()) * 4 + 10, height), min(int(xs.max()) * 4 + 10, width)
                shrink = min(1.0, size / max(bottom - top, right - left))
                target = (max(8, round((right - left) * shrink)), max(8, round((bottom - top) * shrink)))
                alpha = np.where(mask[top:bottom, left:right] > 0, np.uint8(255), np.uint8(0))
                piece = cv2.resize(image[top:bottom, left:right], target, interpolation=cv2.INTER_AREA)
                return piece, cv2.erode(cv2.resize(alpha, target), np.ones((3, 3), np.uint8))
        side = int(min(height, width, rng.integers(64, 224)))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        piece = image[top : top + side, left : left + side]
        alpha = region_of(rng, piece) if rng.random() < 0.4 else random_shape(rng, side)
        return piece, alpha

    def _camera(self, rng: np.random.Generator, film: Image) -> Image:
        """Change exposure over the whole film and over time; now and then blur and noise, as cameras do."""
        gains = 1 + rng.normal(0, 0.1) + np.cumsum(rng.normal(0, 0.03, len(film)))
        offsets = rng.normal(0, 6) + rng.normal(0, 2, (len(film), 3))
        noise = rng.normal(0, rng.uniform(2, 7), film.shape[1:]).astype(np.int8) if rng.random() < 0.15 else None
        blur = rng.uniform(0.5, 1.2) if rng.random() < 0.15 else 0.0
        ramp = np.arange(256)[:, None]
        for frame, gain, offset in zip(film, gains, offsets, strict=True):
            table = np.clip(ramp * gain + offset, 0, 255).astype(np.uint8)[:, None]  # (256, 1, 3)
            cv2.LUT(frame, table, dst=frame)
            if blur:
                cv2.GaussianBlur(frame, (0, 0), blur, dst=frame)
            if noise is not None:
                frame[:] = np.clip(frame.astype(np.int16) + noise, 0, 255)
        return film


def render_clip(
    seed: int, frames: int = 60, height: int = 240, width: int = 426, objects: int = 3
) -> Iterator[tuple[Image, Image]]:
    """Yield a clip frame by frame: image uint8 RGB (height, width, 3) and its labels uint8 (height, width).

    Textured objects 1..objects swim, turn, deform and pass in front of each other over a textured ground
    under a moving camera; every object is visible in the first frame. The same seed gives the same clip;
    memory does not grow with `frames`. Raises InputError for sizes below 32 pixels, no frames, or objects
    outside 1..12.
    """
    if frames < 1 or min(height, width) < 32 or not 1 <= objects <= 12:
        raise InputError(
            f"cannot render {frames} frames of {width}x{height} with {objects} objects: "
            "give at least 1 frame, 32x32 pixels and 1 to 12 objects"
        )
    return _film(np.random.default_rng(seed), frames, height, width, objects)


def _film(
    rng: np.random.Generator, frames: int, height: int, width: int, objects: int
) -> Iterator[tuple[Image, Image]]:
    margin = int(0.25 * max(height, width))
    hues = (rng.random() + np.arange(objects + 1) / (objects + 1)) % 1.0  # every object and the ground its own hue
    ground = procedural_texture(rng, height + 2 * margin, width + 2 * margin, kind="cloud", hue=float(hues[-1]))
    ground = (ground * 0.65 + 30).astype(np.uint8)  # calmer than the objects
    camera_rate, camera_phase = rng.uniform(0.05, 0.09), rng.uniform(0, 2 * np.pi)
    layers = [_swimmer(rng, label, float(hues[label - 1]), height, width, objects) for label in range(1, objects + 1)]
    for t in range(frames):
        swing = camera_rate * t + camera_phase
        angle, zoom = 0.04 * np.sin(swing * 0.7), 1.08 + 0.06 * np.sin(swing * 0.5)
        turn = cv2.getRotationMatrix2D((ground.shape[1] / 2, ground.shape[0] / 2), np.degrees(angle), zoom)
        turn[:, 2] -= np.array([margin, margin]) + 0.5 * margin * np.array([np.sin(swing), np.cos(swing * 0.8)])
        image = np.asarray(cv2.warpAffine(ground, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101), np.uint8)
        labels = np.zeros((height, width), np.uint8)
        for layer in layers:
            place_layer(image, labels, layer, t)
        yield image, labels


def _swimmer(rng: np.random.Generator, label: int, hue: float, height: int, width: int, objects: int) -> Layer:
    """One object of `render_clip`: a lit, textured body on a path that crosses those of the others."""
    side = 192
    alpha = random_shape(rng, side, kind=["body", "blob", "polygon"][label % 3])
    texture = procedural_texture(rng, side, side, kind=["stripes", "dots", "marble", "tiles"][label % 4], hue=hue)
    # Light from the upper left: distance to the outline as height, its slope as brightness.
    relief = cv2.GaussianBlur(np.sqrt(cv2.distanceTransform(alpha, cv2.DIST_L2, 5)), (0, 0), 3)
    slope = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=5) + cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=5)
    light = np.clip(1.05 + slope / (np.abs(slope).max() + 1e-6) * 0.6, 0.35, 1.5)
    lit = np.clip(texture.astype(np.float32) * light[..., None] * 1.1 + 8, 0, 255).astype(np.uint8)
    extent = min(height, width) * rng.uniform(0.5, 0.68) * min(1.0, (3 / objects) ** 0.5)
    lane = (label - 0.5) / objects
    centre = np.array([width * (0.12 + 0.76 * lane), height * rng.uniform(0.35, 0.65)], np.float32)
    sway = np.array([rng.choice([-1, 1]) * rng.uniform(0.14, 0.22) * width, rng.uniform(0.08, 0.16) * height])
    bend = 0.045 * side
    motion = Motion(
        centre=centre,
        velocity=np.zeros(2, np.float32),
        sway=sway.astype(np.float32),
        rate=rng.uniform(0.07, 0.12),
        phase=rng.uniform(0, 2 * np.pi),
        scale=extent / side,
        growth=0.0,
        pulse=0.12,
        angle=rng.uniform(-0.5, 0.5),
        spin=rng.uniform(-0.02, 0.02),
        swing=0.25,
        shear=0.0,
        still=np.zeros((4, 4, 2), np.float32),
        bending=rng.normal(0, bend, (2, 4, 4, 2)).astype(np.float32),
    )
    return Layer(np.dstack([lit, cv2.GaussianBlur(alpha, (3, 3), 0)]), motion, label, shadow=0.45)
