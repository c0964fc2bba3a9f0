"""A generated set in AVA's own layout: several figures in each image, whose motion decides what they do.

    python -m experiments.figures_set OUT --keyframes 1000 --val-keyframes 200

writes OUT/annotations (csv files, exclusions, label map, boxes of a pretended person detector) and OUT/videos, or with
--images OUT/frames and OUT/frame_lists. Two or three figures stand far apart in a wide image. Colours, shapes, arms
and places are drawn the same way for every action, so that the keyframe itself gives no hint:

    1 stand   2 go left   3 go right   4 jump   5 wave           what a figure does itself: one of these
    6 is called       another figure waves                       what depends on another one, out of a small network's
    7 answers         it jumps while another waves               sight: three more, where they apply
    8 meets           another goes the other way

Every keyframe is a scene of one second, as if the film were cut there. At most one figure waves.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from experiments.motion_set import RATE, Video, write_clip
from twospeed.data.benchmarks.ava import FIRST_SECOND, second_text
from twospeed.data.clips.textures import procedural_texture
from twospeed.errors import InputError, OutputError

ACTIONS = {
    1: "stand",
    2: "go left",
    3: "go right",
    4: "jump",
    5: "wave",
    6: "is called (another waves)",
    7: "answers (jumps, another waves)",
    8: "meets (another goes the other way)",
}
STAND, LEFT, RIGHT, JUMP, WAVE, CALLED, ANSWERS, MEETS = ACTIONS
OWN = (STAND, LEFT, RIGHT, JUMP, WAVE)  # what a figure does itself
RELATED = (CALLED, ANSWERS, MEETS)  # what another figure decides as well

HEIGHT, WIDTH = 32, 192  # pixels
PLACES = (20.0, 96.0, 172.0)  # middles of where figures stand, along the image
BODY_WIDTH, BODY_HEIGHT = 10.0, 20.0  # of a figure of size 1, in pixels
FIRST_KEYFRAME = 902  # as in AVA; frames begin at second 900
KEYFRAMES_PER_VIDEO = 20
SUBPIXEL_BITS = 4


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a scene. own: its action. x, y: middle at the keyframe, pixels. size: a factor. phase, speed: of
    its motion, 0..1. arms: radians at the keyframe. colours: of backbone, band and head, RGB.
    """

    own: int
    x: float
    y: float
    size: float
    phase: float
    speed: float
    arms: tuple[float, float]
    colours: tuple[tuple[int, int, int], ...]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The figure at the keyframe, xyxy in pixels."""
        half_width, half_height = 0.5 * self.size * (BODY_WIDTH + 4), 0.5 * self.size * BODY_HEIGHT
        return self.x - half_width, self.y - half_height, self.x + half_width, self.y + half_height

    def shift(self, tenths: float) -> tuple[float, float, float]:
        """Where it is so many tenths of a second after the keyframe: (x, y) in pixels and the turn of its arms."""
        x0, y0, turn0 = self._at(0.0)
        x, y, turn = self._at(tenths)
        return x - x0, y - y0, turn - turn0

    def _at(self, tenths: float) -> tuple[float, float, float]:
        cycles = tenths / (4.2 - 1.2 * self.speed) + self.phase  # 3 to 4.2 tenths each
        if self.own in (LEFT, RIGHT):
            return (1 if self.own == RIGHT else -1) * (1.4 + 0.6 * self.speed) * tenths, 0.0, 0.0
        if self.own == JUMP:
            return 0.0, -8.0 * self.size * abs(np.sin(np.pi * cycles)), 0.0
        if self.own == WAVE:
            return 3.5 * self.size * np.sin(2 * np.pi * cycles), 0.0, 1.2 * np.sin(2 * np.pi * cycles)
        return 0.0, 0.0, 0.0


def draw_scene(rng: np.random.Generator, own: Sequence[int] = OWN) -> list[Figure]:
    """Draw who is in a scene and what each does; only these of `OWN` happen."""
    places = sorted(rng.permutation(len(PLACES))[: rng.integers(2, len(PLACES) + 1)].tolist())
    waver = int(rng.choice(places)) if rng.random() < 0.5 and WAVE in own else None
    others = [action for action in own if action != WAVE]
    return [_figure(rng, WAVE if place == waver else int(rng.choice(others)), PLACES[place]) for place in places]


def _figure(rng: np.random.Generator, own: int, place: float) -> Figure:
    hsv = np.array([[(rng.integers(180), 200, value) for value in (240, rng.integers(60, 140), 255)]], np.uint8)
    colours = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]  # (3, 3)
    return Figure(
        own=own,
        x=place + rng.uniform(-2, 2),
        y=HEIGHT / 2 + rng.uniform(-1, 3),
        size=rng.uniform(0.8, 1.0),
        phase=rng.random(),
        speed=rng.random(),
        arms=(rng.uniform(-1, 1), rng.uniform(-1, 1)),
        colours=tuple((int(red), int(green), int(blue)) for red, green, blue in colours),
    )


def actions_of(figures: Sequence[Figure]) -> list[tuple[int, ...]]:
    """Return what each figure of a scene does, ids ascending: its own action and those that others decide."""
    result = []
    for figure in figures:
        others = {other.own for other in figures if other is not figure}
        found = {figure.own}
        if WAVE in others:
            found |= {CALLED, ANSWERS} if figure.own == JUMP else {CALLED}
        if (figure.own == LEFT and RIGHT in others) or (figure.own == RIGHT and LEFT in others):
            found.add(MEETS)
        result.append(tuple(sorted(found)))
    return result


def render(rng: np.random.Generator, figures: Sequence[Figure], frames: int = RATE) -> Video:
    """Draw a scene before a texture: uint8 (frames, HEIGHT, WIDTH, 3), RGB; the keyframe is number frames // 2."""
    texture = procedural_texture(rng, HEIGHT, WIDTH).astype(np.float32)
    ground = np.clip(90 + 0.35 * (texture - texture.mean(axis=(0, 1))), 0, 255).astype(np.uint8)
    video = np.repeat(ground[None], frames, axis=0)
    for t in range(frames):
        for figure in figures:
            _draw(video[t], figure, 10.0 * (t - frames // 2) / RATE)
    return video


def _draw(image: NDArray[np.uint8], figure: Figure, tenths: float) -> None:
    dx, dy, turn = figure.shift(tenths)
    x, y, size = figure.x + dx, figure.y + dy, figure.size
    backbone, band, head = figure.colours

    def point(across: float, down: float) -> tuple[int, int]:
        """Pixels from the figure's middle -> OpenCV's fixed-point pixel centres."""
        return tuple(round((value - 0.5) * 2**SUBPIXEL_BITS) for value in (x + size * across, y + size * down))

    def length(pixels: float) -> int:
        return round(size * pixels * 2**SUBPIXEL_BITS)

    drawn = {"lineType": cv2.LINE_AA, "shift": SUBPIXEL_BITS}
    for side, angle in zip((-1, 1), figure.arms, strict=True):
        hand = (side * (3 + 5 * np.cos(angle + turn)), -2 - 5 * np.sin(angle + turn))
        cv2.line(image, point(side * 3, -2), point(*hand), head, 2, **drawn)
    cv2.ellipse(image, point(0, 3), (length(4.5), length(7)), 0, 0, 360, backbone, -1, **drawn)
    cv2.ellipse(image, point(0, 4), (length(4.2), length(2)), 0, 0, 360, band, -1, **drawn)
    cv2.circle(image, point(0, -6.5), length(3.2), head, -1, **drawn)


def write_figures_set(
    out: Path,
    *,
    keyframes: int = 1000,
    val_keyframes: int = 200,
    seed: int = 0,
    images: bool = False,
    own: Sequence[int] = OWN,
) -> None:
    """Write the whole set. Keyframe i of a split depends on (seed, split, i) alone.

    images: frames and frame lists instead of videos. own: what figures may do themselves. Raises InputError for
    numbers and actions that make no set, OutputError where it cannot be written.
    """
    if not set(own) <= set(OWN) or not set(own) - {WAVE}:
        raise InputError(f"own={list(own)}: choose from {list(OWN)}, at least one besides {WAVE}")
    if min(keyframes, val_keyframes) < 1:
        raise InputError(f"needs at least 1 keyframe in each part, got {keyframes=}, {val_keyframes=}")
    try:
        (out / "annotations").mkdir(parents=True, exist_ok=True)
        (out / ("frames" if images else "videos")).mkdir(exist_ok=True)
        items = (f'item {{\n  name: "{name}"\n  id: {number}\n}}\n' for number, name in ACTIONS.items())
        (out / "annotations" / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text("".join(items))
        for split, (part, count) in enumerate((("train", keyframes), ("val", val_keyframes))):
            _write_part(out, part, [seed, split], count, images, own)
        about = {"keyframes": keyframes, "val_keyframes": val_keyframes, "seed": seed, "images": images}
        (out / "set.json").write_text(json.dumps(about, indent=2) + "\n")
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{out}: the set cannot be written ({error})") from error


def _write_part(out: Path, part: str, seed: list[int], count: int, images: bool, own: Sequence[int]) -> None:
    annotated, predicted, excluded, listed = [], [], [], ["original_vido_id video_id frame_id path labels"]
    for number, begin in enumerate(range(0, count, KEYFRAMES_PER_VIDEO)):
        video = f"{part}_{number:04d}"
        before = (FIRST_KEYFRAME - FIRST_SECOND) * RATE - RATE // 2
        scenes = [np.zeros((before, HEIGHT, WIDTH, 3), np.uint8)]
        inside = range(begin, min(begin + KEYFRAMES_PER_VIDEO, count))
        for second, keyframe in enumerate(inside, FIRST_KEYFRAME):
            rng = np.random.default_rng([*seed, keyframe])
            figures = draw_scene(rng, own)
            scenes.append(render(rng, figures))
            where = f"{video},{second_text(second)}"
            for person, (figure, actions) in enumerate(zip(figures, actions_of(figures), strict=True)):
                box = _text(np.array(figure.box))
                annotated += [f"{where},{box},{action},{person}\n" for action in actions]
            predicted += [f"{where},{_text(box)},,{score:.6f}\n" for box, score in _detected(rng, figures)]
        rng = np.random.default_rng([*seed, number, 0])  # nobody is in a video's last scene, which does not count
        end = f"{video},{second_text(FIRST_KEYFRAME + len(inside))}"
        scenes.append(render(rng, []))
        excluded.append(f"{end}\n")
        predicted += [f"{end},{_text(box)},,{score:.6f}\n" for box, score in _detected(rng, [])]
        whole = np.concatenate(scenes)
        if images:
            listed += _write_images(out / "frames" / video, number, whole)
        else:
            write_clip(out / "videos" / f"{video}.mp4", whole)
    notes = out / "annotations"
    (notes / f"ava_{part}_v2.2.csv").write_text("".join(annotated))
    (notes / f"ava_{part}_excluded_timestamps_v2.2.csv").write_text("".join(excluded))
    (notes / f"ava_{part}_predicted_boxes.csv").write_text("".join(predicted))
    if images:
        (out / "frame_lists").mkdir(exist_ok=True)
        (out / "frame_lists" / f"{part}.csv").write_text("\n".join(listed) + "\n")


def _write_images(folder: Path, number: int, video: Video) -> list[str]:
    folder.mkdir(exist_ok=True)
    rows = []
    for i, image in enumerate(video):
        name = f"{folder.name}_{i + 1:06d}.jpg"
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
        (folder / name).write_bytes(data.tobytes())
        rows.append(f'{folder.name} {number} {i} {folder.name}/{name} ""')
    return rows


def _detected(rng: np.random.Generator, figures: Sequence[Figure]) -> list[tuple[NDArray[np.float64], float]]:
    """Pretend a person detector: boxes a little off, now and then none, now and then one where nobody is."""
    found = []
    for figure in figures:
        box = np.array(figure.box)
        size = np.tile(box[2:] - box[:2], 2)
        if rng.random() > 0.02:
            found.append((box + rng.uniform(-0.04, 0.04, 4) * size, float(rng.uniform(0.85, 1.0))))
    if rng.random() < 0.3:
        x, y = rng.uniform(8, WIDTH - 8), rng.uniform(11, HEIGHT - 11)
        found.append((np.array([x - 7, y - 10, x + 7, y + 10]), float(rng.uniform(0.3, 0.85))))
    return found


def _text(box: NDArray[np.float64]) -> str:
    """Write a box, xyxy in pixels, as AVA does: fractions of the image with three decimals."""
    fractions = np.clip(box / np.array([WIDTH, HEIGHT, WIDTH, HEIGHT]), 0, 1)
    return ",".join(f"{value:.3f}" for value in fractions)


def main() -> None:
    """Write the set from the command line."""
    parser = argparse.ArgumentParser(description="Write videos of figures whose motion decides what they do.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--keyframes", type=int, default=1000, help="training keyframes")
    parser.add_argument("--val-keyframes", type=int, default=200, help="validation keyframes")
    parser.add_argument("--images", action="store_true", help="frames and frame lists instead of videos")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    write_figures_set(
        chosen.out,
        keyframes=chosen.keyframes,
        val_keyframes=chosen.val_keyframes,
        seed=chosen.seed,
        images=chosen.images,
    )
    print(f"{chosen.out}: {chosen.keyframes} training and {chosen.val_keyframes} validation keyframes")


if __name__ == "__main__":
    main()
