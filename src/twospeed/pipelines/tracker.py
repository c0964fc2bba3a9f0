"""Track objects: first masks in, masks of every frame out, one frame at a time.

The expensive part (remembering a frame) runs every n-th frame, the cheap part (reading the memory) on all others.
Source: STCN (Cheng 2021) and its supplement, section B; protocols: DAVIS (masks on frame 0) and YouTube-VOS (objects
appear at any frame) are one `step`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError, MaskError
from twospeed.models.banks import MemoryBank, ObjectBanks
from twospeed.models.protocol import MASK_MEMORY, MaskMemoryNetwork, input_scale, sees_last_frame
from twospeed.ops import on_numpy
from twospeed.ops.pad import Padding, padding_for, unpad
from twospeed.pipelines.given_masks import STRIDE, VOID, FrameMasks, check_count, checked_labels, frame_masks
from twospeed.pipelines.inputs import Array, Device, Image, Model, Precision, arrays_of, network_for, optimised, place
from twospeed.pipelines.tracker_state import checksum, read_state, write_state
from twospeed.pipelines.video_tracker import Labels, VideoTracker, name_of, needs_masks
from twospeed.results import Frame, ObjectMasks, OnProgress
from twospeed.weights.catalog import DEFAULT_TRACKER

if TYPE_CHECKING:
    from twospeed.pipelines.find_frames import Map, SeenFrame
    from twospeed.pipelines.finetune_tracker import TrackerFineTuning
    from twospeed.pipelines.look_ahead import LookAhead
    from twospeed.pipelines.redetect import Redetector

AGREES = 0.92  # IoU with a correction from which the memory was right
MOST_PIXELS = 4  # times size squared: wider images are scaled down further
# Small videos are enlarged this much at most. At twice their size, the seven girls of DAVIS-2017's `schoolgirls`
# (432x240) have a mean J of 0.475 in the place of 0.390 (track_nano); enlarging thumbnails only takes time
MOST_ENLARGED = 2
EVEN = 1e-3  # added to each object's probability where a finder's map is divided among them: all may be near 0
THUMBNAIL = 160  # shorter side in pixels; smaller videos are not enlarged
_PARTS = 8  # in which two threads read the memory
_OBJECTS_AT_ONCE = 8  # decoded together; bounds the memory that many objects take


@dataclass
class _State:
    """All that a tracker knows of the video so far. since_memory: frames since the last one that was remembered."""

    bank: MemoryBank | ObjectBanks
    object_ids: tuple[int, ...] = ()
    gone: frozenset[int] = frozenset()
    frame_index: int = 0
    since_memory: int = 0
    image_size: tuple[int, int] | None = None
    last: tuple[Array, Array] | None = None  # key (1, C, h, w) and masks (K, H', W') of the frame before
    replayed: tuple[Array, Array] | None = None  # that frame where it was replayed: image, masks (K, H, W)
    small: Array | None = None  # the frame before, as `ops.cuts` compares it


class Seen(NamedTuple):
    """What a network sees in a frame whatever was before: prepared (1, 3, H, W), its border, and its features.

    small: the frame as the finder sees it.
    """

    network: Any
    frame: Array
    padding: Padding
    features: Any
    small: SeenFrame | None = None


class Tracker(VideoTracker):
    """Follow objects from the masks of the frames where they are given.

    model_or_name: a network that offers `models.protocol.MaskMemoryNetwork`, or a catalogue name (then with its default
    weights, or `weights`), or the folder of an exported model, which runs without torch (its precision is fixed, it
    takes no kernel_sigma and no finetune). memory_every: every how many frames one is remembered. include_last: also
    remember the last frame until the next (STM). top_k: memory matches kept per cell; None keeps all.
    max_memory_frames: bound on the frames remembered (annotated ones stay for good); None lets memory grow with the
    video. max_objects: most objects followed at once; None: 254, or as many as memory is enough for. size: shorter side
    in pixels at which the network works: smaller videos are enlarged to it, but at most twice, and those below 160
    pixels not at all, unless `upscale`; no image has more than 4 size^2 pixels, so that very wide ones shrink further;
    None takes the input's own size. Of either, a network with `input_scale` sees that share. kernel_sigma: Gaussian of
    kernelized reading, in cells (7 at size 600 is the published multi-scale setting). precision: "bf16" autocasts the
    convolutions, "auto" does where the device is made for it. device: None chooses CUDA if present. finetune: fine-tune
    on synthetic motion of the first masks for so many iterations, or as the settings say, before tracking; on_progress
    is called after each of them, and while weights are downloaded. finder: a network that finds primary objects
    (`find_nano`), or its name: it corrects masks of which it is surer, where what was marked is what it finds
    (`pipelines.redetect`); "default" is find_nano for `track_small` and `track_nano`, None for others and for exported
    models.

    Memory use does not depend on how many frames have passed, but for remembered frames when max_memory_frames is None.
    A tracker is for one thread at a time. Raises InputError for options that make no sense.
    """

    needs_masks = True

    def __init__(
        self,
        model_or_name: Model = DEFAULT_TRACKER,
        memory_every: int = 5,
        include_last: bool = False,
        top_k: int | None = 20,
        max_memory_frames: int | None = None,
        size: int | None = 480,
        *,
        upscale: bool = False,
        weights: Any = "default",
        device: Device = None,
        kernel_sigma: float | None = None,
        precision: Precision = "fp32",
        cuts: bool = True,
        finder: Model | None = "default",
        max_objects: int | None = None,
        finetune: int | TrackerFineTuning | None = None,
        on_progress: OnProgress | None = None,
    ):
        super().__init__()
        for name, value in {
            "memory_every": memory_every,
            "top_k": top_k,
            "max_memory_frames": max_memory_frames,
            "max_objects": max_objects,
        }.items():
            if value is not None and not (isinstance(value, int | np.integer) and value >= 1):
                raise InputError(f"{name} is {value}; give a whole number, 1 or more", option=name)
        if size is not None and not (isinstance(size, int | np.integer) and size >= STRIDE):
            raise InputError(
                f"size is {size}; the network needs a shorter side of {STRIDE} pixels or more", option="size"
            )
        self.device, self.precision, self._dtype = place(model_or_name, device, precision)
        if not needs_masks(model_or_name):
            raise InputError(
                f"{name_of(model_or_name)} finds objects without masks; use UnsupervisedTracker, or choose "
                "track_nano, stcn or stm"
            )
        network, _ = network_for("track", model_or_name, weights, MASK_MEMORY, on_progress)
        self._arrays = arrays_of(network)
        if self._arrays is on_numpy:
            finder = None if finder == "default" else finder
            for option, given in {"kernel_sigma": kernel_sigma, "finetune": finetune, "finder": finder}.items():
                if given is not None:
                    raise InputError(f"{option} is {given}, which an exported model does not take", option=option)
        self._given: Any = network.eval().to(self.device)
        if isinstance(finetune, int):
            from twospeed.pipelines.finetune_tracker import TrackerFineTuning  # imports torch

            self.finetune: TrackerFineTuning | None = TrackerFineTuning(iterations=finetune)
        else:
            self.finetune = finetune
        self.on_progress = on_progress
        self.memory_every, self.include_last, self.top_k = memory_every, include_last, top_k
        self.max_memory_frames, self.kernel_sigma = max_memory_frames, kernel_sigma
        self.max_objects = max_objects
        self.size, self.upscale, self.cuts = size, upscale, cuts
        self._untuned = self._fast(self._given)
        self._looking: tuple[Any, Any] | None = None  # the network, and its twin for another thread
        self._ahead: LookAhead[Seen] | None = None  # while frames are looked at in advance
        self._redetector = self._redetector_of(finder)
        self.reset()

    def _redetector_of(self, finder: Model | None) -> Redetector | None:
        if finder == "default":
            finder = getattr(self._given, "finder", None)
        if finder is None:
            return None
        from twospeed.pipelines.redetect import redetector  # imports torch

        return redetector(finder, self.device)

    def _fast(self, network: Any) -> MaskMemoryNetwork:
        return optimised(network, self._dtype)

    def _autocast(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._arrays.autocast(self.device, self._dtype, self.model)
        return context

    def reset(self) -> None:
        """Forget the video: objects, memory, what was learned of it, and frame count."""
        self._tuned: Any = None  # a copy of the network that has learned this video's first masks
        self.model = self._untuned
        self.restart()

    def restart(self) -> None:
        """Forget the video, but for what was learned of it."""
        self._state = _State(self._new_bank())
        if self._redetector is not None:
            self._redetector.reset()

    def learn(self, image: Image, masks: Labels) -> None:
        """Fine-tune on a frame and its masks, as the options say, before any is given to `step`. Raises as `step`."""
        if self.finetune is not None:
            with self._alone(), self._arrays.inference():
                pixels = self._image(image)
                self._learn(pixels, self._labels(masks, (pixels.shape[-2], pixels.shape[-1])), self.finetune)

    def _new_bank(self) -> MemoryBank | ObjectBanks:
        bank = ObjectBanks if self.model.keys_per_object else MemoryBank
        return bank(
            top_k=self.top_k,
            similarity=self.model.similarity,
            max_frames=self.max_memory_frames,
            kernel_sigma=self.kernel_sigma,
            read=getattr(self.model, "read", None),
        )

    @property
    def finder(self) -> Any:
        """The network that corrects masks, None where none does."""
        return None if self._redetector is None else self._redetector.finder

    @property
    def needs_every_frame(self) -> bool:
        """Whether masks also depend on frames that are not remembered."""
        return self._redetector is not None or sees_last_frame(self.model)

    @property
    def memory_frames(self) -> int:
        """How many frames are remembered at present."""
        return self._state.bank.frames

    def step(
        self,
        image: Image,
        masks: Labels | None = None,
        *,
        gone: Collection[int] = (),
        time_s: float = 0.0,
        seen: Seen | None = None,
    ) -> ObjectMasks:
        """Take the next frame, with masks where they are known, and return where every object is.

        image: uint8 (H, W, 3) RGB, numpy or tensor; or a float tensor (3, H, W) in 0..1. masks: integer labels (H, W),
        0 = background; labels not seen before are new objects, known ones are corrected; 255 is void: no object, pixels
        that keep the prediction. gone: ids of objects that are absent from this frame on, until masks show them again.
        time_s is passed on to the result. seen: what `look` returned for the image.

        Raises MaskError for masks of another size, not of integers, without any object in the first call, of a smoothed
        image, or with more objects than max_objects or than memory is enough for; InputError for an image of another
        kind, of another size than the frames before, or with values outside of 0..1, for ids in gone that are not
        known, and for a second thread. After these, the tracker is as it was.
        """
        with self._alone(), self._arrays.inference():
            pixels = self._image(image := self._arrays.as_array(image))
            size = (pixels.shape[-2], pixels.shape[-1])
            prompt = self._given_masks(masks, gone, size)
            self._learn_first(pixels, prompt)
            self._look_for_cut(image)
            self._see(image, seen)
            probabilities, padding = self._segment(pixels, prompt, seen)
            if self._redetector is not None and prompt.labels is not None:
                self._redetector.mark(self._arrays.to_numpy(unpad(probabilities, padding)[0] < 0.5))
            return self._finished(unpad(probabilities, padding), size, time_s, prompt)

    def look(self, image: Image) -> Seen:
        """Compute what `step` needs of a frame and what no frame before it changes: about half of the work.

        Another thread may do so while this one tracks the frame before. image: as `step`. Raises InputError as `step`.
        """
        if self._looking is None or self._looking[0] is not self.model:
            self._looking = self.model, self._arrays.twin(self.model)
        of, network = self._looking
        with self._arrays.inference(), self._autocast():
            frame, padding = self._prepare(self._arrays.image_array(image, self.device)[None])
            return Seen(of, frame, padding, network.encode_key(frame), self._small(self._arrays.as_array(image)))

    def seen_ahead(
        self, frames: Iterable[Frame], *, in_advance: bool | None = None
    ) -> Iterator[tuple[Frame, dict[str, Any]]]:
        """Yield frames with `seen` for `step`: a thread looks at each while this one tracks the frame before.

        On several cores of a CPU, which the two threads share until the end; not for networks that are not of this
        package. in_advance: whether frames may be read before their turn; None: as `may_read_ahead` says.
        """
        from twospeed.video.reader import may_read_ahead

        if self._untuned is self._given or not (may_read_ahead(frames) if in_advance is None else in_advance):
            yield from super().seen_ahead(frames)
            return
        from twospeed.ops.side_by_side import pieces_at_once, workers  # torch: not of exported networks
        from twospeed.pipelines.look_ahead import LookAhead

        if pieces_at_once(self.device) < 2:
            yield from super().seen_ahead(frames)
            return
        frames = iter(frames)
        if self.finetune is not None:  # by all threads, and another network than it sees frames afterwards
            for frame in frames:
                yield frame, {}
                if self._tuned is not None:
                    break
        with workers(1, beside_this=True) as pool:
            self._ahead = LookAhead(lambda frame: self.look(frame.image), pool)
            try:
                for frame, seen in self._ahead.frames(frames):
                    yield frame, {"seen": seen}
            finally:
                self._ahead = None

    def annotate(self, image: Image, masks: Labels) -> None:
        """Remember a frame of the video, of any time, with its masks, without moving to the next frame.

        image, masks: as `step`; objects that masks do not hold stay unknown on this frame. Where masks differ from what
        the memory says, they win as in `step`: give the frames that matter most last. Raises as `step`.
        """
        with self._alone(), self._arrays.inference():
            pixels = self._image(image)
            size = (pixels.shape[-2], pixels.shape[-1])
            prompt = self._given_masks(masks, (), size)
            if not prompt.ids:
                raise MaskError("the mask of an annotated frame holds no object, every pixel is 0 (background)")
            self._learn_first(pixels, prompt)
            self._segment(pixels, replace(prompt, alone=True))
            self._state.image_size = size

    def remember(self, image: Image, masks: Labels) -> None:
        """Remember a frame with its masks beside all that is remembered, whatever that says of it.

        For masks that are themselves a guess, of which none is to overrule the others. image, masks: as `step`; objects
        that masks do not hold are not in this frame. Raises as `step`.
        """
        arrays = self._arrays
        with self._alone(), arrays.inference():
            state, pixels = self._state, self._image(image)
            size = (pixels.shape[-2], pixels.shape[-1])
            prompt = self._given_masks(masks, (), size)
            ids = state.object_ids + tuple(i for i in prompt.ids if i not in state.object_ids)
            frame, padding = self._prepare(pixels)
            planes = self._planes(arrays.one_hot(self._labels(masks, size), ids), frame, padding)
            if not self.model.masks_as_given:
                planes = arrays.aggregate(planes)[1:]
            with self._autocast():
                features = self.model.encode_key(frame)
                self._remember(frame, features, planes, padding, given=True)
            if sees_last_frame(self.model):
                state.last, state.replayed = (arrays.contiguous(features.key), arrays.contiguous(planes)), None
            state.object_ids, state.image_size = ids, size

    @property
    def absent(self) -> frozenset[int]:
        """Ids of the objects that are declared gone at present; may be set, where no frame of theirs is to be kept."""
        return self._state.gone

    @absent.setter
    def absent(self, ids: Collection[int]) -> None:
        self._state.gone = frozenset(ids)

    def replay(
        self, image: Image, labels: NDArray[np.uint8], masks: Labels | None = None, *, time_s: float = 0.0
    ) -> ObjectMasks:
        """Take the next frame as `step`, but with the labels that an earlier run gave it, to continue where that ended.

        image, masks, time_s: as `step`, which is what runs where masks are given or no object is known. labels: uint8
        (H, W), the earlier result. Nothing is computed but what the memory needs; it differs from the earlier run's in
        that masks are remembered as they were written, not as probabilities: `load_state` has no such difference.
        Raises as `step`.
        """
        if masks is not None or not self._state.object_ids:
            return self.step(image, masks, time_s=time_s)
        with self._alone(), self._arrays.inference():
            state = self._state
            pixels = self._image(image := self._arrays.as_array(image))
            size = (pixels.shape[-2], pixels.shape[-1])
            known = self._arrays.one_hot(self._labels(labels, size), state.object_ids)  # (K, H, W)
            self._look_for_cut(image)
            self._see(image)
            if state.since_memory + 1 >= self.memory_every or self.include_last:
                frame, padding = self._prepare(pixels)
                with self._autocast():
                    self._remember(frame, self.model.encode_key(frame), self._planes(known, frame, padding), padding)
            else:
                state.since_memory += 1
            # A copy: a caller may use the memory of an image again
            state.replayed = (self._arrays.contiguous(pixels), known) if sees_last_frame(self.model) else None
            return self._finished(self._with_background(known), size, time_s)

    def save_state(self, path: str | Path) -> None:
        """Write all that the tracker knows of the video to a file, from which `load_state` continues exactly.

        The file is a `.safetensors` file: the memory, and what was learned of the first masks. Raises OutputError.
        """
        state = self._state
        bank, slots = state.bank.state()
        arrays = {f"bank.{name}": value for name, value in bank.items()}
        if (last := self._last()) is not None:
            arrays |= {"last.key": last[0], "last.masks": last[1]}
        if state.small is not None:
            arrays["small"] = state.small
        seen: dict[str, Any] = {}
        if self._redetector is not None:
            found, seen = self._redetector.state()
            arrays |= {f"finder.{name}": self._arrays.as_array(value) for name, value in found.items()}
        if self._tuned is not None:
            arrays |= {f"network.{name}": value for name, value in self._tuned.state_dict().items()}
        kept = {name: getattr(state, name) for name in ("object_ids", "frame_index", "since_memory", "image_size")}
        kept |= {"gone": sorted(state.gone), "slots": slots, "finder": seen}
        write_state(Path(path), arrays, self._options(), kept, self._arrays)

    def load_state(self, path: str | Path) -> None:
        """Continue where another tracker of the same network and options was when it wrote this file.

        Raises InputError for a file that is missing or holds something else, or that was written by another network or
        with other options; the tracker is then as it was.
        """
        arrays, kept = read_state(Path(path), self._options(), self.device, self._arrays)
        learned = {name[8:]: value for name, value in arrays.items() if name.startswith("network.")}
        tuned = fast = None
        if learned:
            tuned = _with_weights(self._given, learned)
            fast = self._fast(tuned)
        bank = self._new_bank()
        bank.restore({name[5:]: value for name, value in arrays.items() if name.startswith("bank.")}, kept["slots"])
        if self._redetector is not None:
            found = {n[7:]: self._arrays.to_numpy(value) for n, value in arrays.items() if n.startswith("finder.")}
            self._redetector.restore(found, kept["finder"])
        size = kept["image_size"]
        last = (arrays["last.key"], arrays["last.masks"]) if "last.key" in arrays else None
        self._tuned, self.model = tuned, fast or self._untuned
        self._state = _State(
            bank,
            object_ids=tuple(kept["object_ids"]),
            gone=frozenset(kept["gone"]),
            frame_index=kept["frame_index"],
            since_memory=kept["since_memory"],
            image_size=None if size is None else (size[0], size[1]),
            last=last,
            small=self._arrays.on_host(arrays["small"]) if "small" in arrays else None,
        )

    def _options(self) -> dict[str, Any]:
        """What two trackers must share for one to continue where the other was."""
        names = ("memory_every", "include_last", "top_k", "max_memory_frames", "size", "upscale", "kernel_sigma")
        return {
            "network": checksum(self._given),
            **{name: getattr(self, name) for name in (*names, "precision", "cuts")},
            "finetune": None if self.finetune is None else asdict(self.finetune),
            "finder": None if self.finder is None else checksum(self.finder),
        }

    def _learn(self, given: Array, labels: Array, settings: TrackerFineTuning) -> None:
        """Continue with a copy of the network that was fine-tuned on these masks, at the size at which it works."""
        from torch.nn import functional as F

        from twospeed.pipelines.finetune_tracker import fine_tune_tracker

        wanted = self._working_size(given.shape[-2:])
        pixels = F.interpolate(given.float(), wanted, mode="bilinear", antialias=True)
        labels = F.interpolate(labels.where(labels != VOID, 0)[None, None].byte(), wanted, mode="nearest")[0, 0]
        scaled = pixels if self._arrays.is_8_bit(given) else 255 * pixels
        image = scaled[0].permute(1, 2, 0).round().clamp(0, 255).byte()
        tuned = fine_tune_tracker(
            self._given, image.cpu().numpy(), labels.cpu().numpy(), settings, on_progress=self.on_progress
        )
        self._tuned, self.model = tuned, self._fast(tuned)

    def _learn_first(self, pixels: Array, prompt: FrameMasks) -> None:
        """Fine-tune on the first masks, where that is wanted and not done."""
        if self.finetune is not None and prompt.labels is not None and self._tuned is None:
            self._learn(pixels, prompt.labels, self.finetune)

    def _segment(self, pixels: Array, prompt: FrameMasks, seen: Seen | None = None) -> tuple[Array, Padding]:
        """Segment a frame, and remember it when it is due. Shapes: (1, 3, h, w) -> padded (K+1, H, W)."""
        if seen is None or seen.network is not self.model:  # it may have learned this frame's masks since
            seen = Seen(self.model, *self._prepare(pixels), None)
        with self._autocast():
            return self._advance(seen, prompt), seen.padding

    def _look_for_cut(self, image: Array) -> None:
        """Forget all frames but annotated ones where a cut lies between the frame before and this one.

        image: as given.
        """
        if not self.cuts:
            return
        state, small = self._state, self._arrays.cut_sample(image)
        if state.small is not None and self._arrays.is_cut(state.small, small):
            state.bank.forget_passing()
            if (last := self._last()) is not None:
                state.last = (last[0], self._arrays.zeros(last[1], *last[1].shape))
            if self._redetector is not None:
                self._redetector.reset()
        state.small = small

    def _see(self, image: Array, seen: Seen | None = None) -> None:
        """Show a frame to the finder. image: as given."""
        if self._redetector is not None:
            small = self._small(image) if seen is None else seen.small
            assert small is not None
            self._redetector.see(small)

    def _small(self, image: Array) -> SeenFrame | None:
        """Return a frame as the finder sees it, None where there is none. image: as given."""
        if self._redetector is None:
            return None
        if not self._arrays.is_8_bit(image):
            image = (image * 255).round().clip(0, 255).byte().permute(1, 2, 0)
        return self._redetector.scaled(self._arrays.to_numpy(image))

    def _redetected(self, predicted: Array, present: Sequence[int], padding: Padding, draw: Callable[[], Map]) -> Array:
        """Correct masks (K, H, W) that do not overlap by what the finder says of the objects of these rows."""
        arrays = self._arrays
        assert self._redetector is not None
        rows = predicted[present]
        followed = arrays.to_numpy(unpad(rows.sum(0), padding)).astype(np.float32, copy=False)
        if (found := self._redetector.correct(followed, draw)) is None:
            return predicted
        together = arrays.pad(arrays.on_device(arrays.as_array(found), self.device)[None], padding)
        shares = rows + EVEN
        corrected = arrays.zeros(predicted, *predicted.shape)
        corrected[present] = together * shares / shares.sum(0)
        return corrected

    def _advance(self, seen: Seen, prompt: FrameMasks) -> Array:
        """Segment one prepared frame and remember it when it is due. Shapes: (1, 3, H, W) -> (K+1, H, W)."""
        state, model, arrays, frame, padding = self._state, self.model, self._arrays, seen.frame, seen.padding
        object_ids = state.object_ids + tuple(i for i in prompt.ids if i not in state.object_ids)
        if not object_ids:
            return arrays.zeros(frame, 1, *frame.shape[-2:]) + 1
        gone = (state.gone | prompt.gone) - set(prompt.ids)
        features = model.encode_key(frame) if seen.features is None else seen.features
        predicted = arrays.zeros(frame, len(state.object_ids), *frame.shape[-2:])  # (K, H, W), of those known so far
        if state.object_ids:
            present = [row for row, i in enumerate(object_ids) if i not in gone]
            remembers = prompt.labels is None and state.since_memory + 1 >= self.memory_every
            draw = self._redetector.drawing() if self._redetector and remembers and present else None
            drawn = self._ahead.later(draw) if self._ahead and draw else None
            readout = self._recall(features.key[0])  # (K, V, h, w)
            if (last := self._last()) is not None and sees_last_frame(model):
                readout = model.recall_recent(readout[None], features.key, last[0], last[1][None])[0]
            parts = [readout[i : i + _OBJECTS_AT_ONCE] for i in range(0, len(readout), _OBJECTS_AT_ONCE)]
            logits = [model.decode(part[None], features)[0] for part in parts]
            predicted = arrays.sigmoid(arrays.as_float(arrays.cat(logits)))
            for i in gone & set(state.object_ids):
                predicted[object_ids.index(i)] = 0
            predicted = arrays.aggregate(predicted)[1:]
            if draw is not None:
                predicted = self._redetected(predicted, present, padding, draw if drawn is None else drawn.result)
            if drawn is not None:
                drawn.drop()  # the finder is for one thread at a time
        if prompt.labels is not None:
            predicted, wrong = self._annotated(predicted, object_ids, prompt, prompt.labels, padding)
            state.bank.forget(wrong)
        if prompt.labels is not None and not model.masks_as_given:
            probabilities = arrays.aggregate(predicted)
        else:
            probabilities = self._with_background(predicted)
        given = bool(prompt.ids or prompt.gone)
        if given or state.since_memory + 1 >= self.memory_every or self.include_last:
            hidden = [row for row, i in enumerate(object_ids) if prompt.alone and i not in prompt.ids]
            self._remember(frame, features, probabilities[1:], padding, given=given, hidden=hidden)
        else:
            state.since_memory += 1
        if sees_last_frame(model):
            # As it is after loading: the layout in memory decides how sums are rounded
            state.last, state.replayed = (arrays.contiguous(features.key), arrays.contiguous(probabilities[1:])), None
        state.object_ids, state.gone = object_ids, gone
        return probabilities

    def _recall(self, key: Array) -> Array:
        """Read the memory, a few rows at a time where another thread may help. Shapes: (C, h, w) -> (K, V, h, w)."""
        if self._ahead is None or self.kernel_sigma is not None:
            return self._state.bank.read(key)

        def read(part: Array) -> Array:
            with self._arrays.inference(), self._autocast():
                return self._state.bank.read(part)

        step = -(-key.shape[-2] // _PARTS)
        parts = [key[:, row : row + step] for row in range(0, key.shape[-2], step)]
        return self._arrays.cat(self._ahead.share(read, parts), -2)

    def _with_background(self, masks: Array) -> Array:
        """Shapes: masks that do not overlap (K, H, W) -> (K+1, H, W), the background first."""
        return self._arrays.cat([1 - masks.sum(0)[None], masks])

    def _last(self) -> tuple[Array, Array] | None:
        """Return key (1, C, h, w) and masks (K, H', W') of the frame before, for networks that see it."""
        state = self._state
        if state.replayed is not None:  # of several replayed frames only the last is ever looked at
            frame, padding = self._prepare(state.replayed[0])
            with self._arrays.inference(), self._autocast():
                key = self.model.encode_key(frame).key
            state.last, state.replayed = (key, self._planes(state.replayed[1], frame, padding)), None
        return state.last

    def _remember(
        self,
        frame: Array,
        features: Any,
        masks: Array,
        padding: Padding,
        *,
        given: bool = False,
        hidden: Collection[int] = (),
    ) -> None:
        """Add a frame to the bank: for good where masks were given, until the next one where it is only the last.

        hidden: rows of objects of which it says nothing.
        """
        state = self._state
        stays = given or state.since_memory + 1 >= self.memory_every
        if self.model.masks_as_given:
            masks = self._arrays.pad(unpad(masks, padding), padding)  # nothing in the border (STM's authors' code)
        keys, values = self.model.encode_memory(frame, features, masks[None])
        state.bank.add(keys[0], values[0], permanent=given, temporary=not stays, hidden=hidden)
        state.since_memory = 0 if stays else state.since_memory + 1

    def _annotated(
        self, predicted: Array, object_ids: tuple[int, ...], prompt: FrameMasks, labels: Array, padding: Padding
    ) -> tuple[Array, list[int]]:
        """Put given masks in the place of predictions, and clear the others under them (YouTube-VOS protocol).

        Shapes: predicted (K, H, W) of the objects known before -> (K', H, W) of object_ids. Also returns the rows of
        the objects whose prediction was wrong.
        """
        planes = self._planes(self._arrays.one_hot(labels, (*prompt.ids, VOID)), predicted, padding)
        given, void = planes[:-1] > 0.5, planes[-1] > 0.5
        known = self._arrays.zeros(predicted, len(object_ids), *predicted.shape[-2:])
        known[: len(predicted)] = predicted * ~given.any(0)
        wrong = []
        for plane, object_id in zip(given, prompt.ids, strict=True):
            row = object_ids.index(object_id)
            if row < len(predicted):
                found = (predicted[row] > 0.5) & ~void
                if int((found & plane).sum()) < AGREES * int((found | plane).sum()):
                    wrong.append(row)
            known[row] = void * known[row] + ~void * plane if prompt.has_void else plane
        for object_id in prompt.gone:
            known[object_ids.index(object_id)] = 0
        return known, wrong

    def _planes(self, planes: Array, frame: Array, padding: Padding) -> Array:
        """Bring masks of the image's size to that of the prepared frame. Shapes: (K, H, W) -> (K, H', W')."""
        height, width = frame.shape[-2:]
        left, right, top, bottom = padding
        inner = (height - top - bottom, width - left - right)
        return self._arrays.pad(self._arrays.resize(planes, inner, "nearest"), padding)

    def _image(self, image: Image) -> Array:
        """Any accepted image -> (1, 3, H, W) on the device, of the size that all frames share: uint8 stays uint8."""
        state, x = self._state, self._arrays.image_array(image, self.device)
        height, width = x.shape[-2:]
        if state.image_size not in (None, (height, width)):
            raise InputError(
                f"frame {state.frame_index} is {width}x{height}, the frames before it {state.image_size[1]}x"
                f"{state.image_size[0]}; reset the tracker, or rescale the frames"
            )
        return x[None]

    def _given_masks(self, masks: Labels | None, gone: Collection[int], size: tuple[int, int]) -> FrameMasks:
        """Check masks and gone against what is known."""
        state = self._state
        labels = None if masks is None else self._labels(masks, size)
        first = state.frame_index == 0
        given = frame_masks(labels, frozenset(int(i) for i in gone), state.object_ids, self._arrays, first=first)
        if new := set(given.ids) - set(state.object_ids):
            check_count(
                len(state.object_ids) + len(new),
                size,
                self._working_size(size),
                most=self.max_objects,
                frames=self.max_memory_frames,
                device=self.device,
            )
        return given

    def _labels(self, masks: Labels, size: tuple[int, int]) -> Array:
        return checked_labels(masks, size, self._arrays, self.device)

    def _prepare(self, image: Array) -> tuple[Array, Padding]:
        """Scale, normalise, pad with zeros to the stride. Shapes: (1, 3, H, W) -> (1, 3, H', W')."""
        # Bicubic without antialiasing, as the authors' YouTube-VOS loader. They normalise first, which is the same, but
        # takes longer on the larger image
        x = self._arrays.resize(self._arrays.as_float(image), self._working_size(image.shape[-2:]), "bicubic")
        x = self.model.normalise(x / 255 if self._arrays.is_8_bit(image) else x)
        padding = padding_for(x.shape[-2], x.shape[-1], STRIDE)
        return self._arrays.for_network(self._arrays.pad(x, padding)), padding

    def _working_size(self, size: Sequence[int]) -> tuple[int, int]:
        """The height and width at which the network works, before padding, for images of this one."""
        height, width = size
        scale = 1.0
        if self.size is not None:
            scale = self.size / min(height, width)
            if not self.upscale:
                scale = min(scale, MOST_ENLARGED if min(height, width) >= THUMBNAIL else 1)
            scale = min(scale, (MOST_PIXELS * self.size**2 / (height * width)) ** 0.5)
        scale *= input_scale(self._given)
        return max(1, int(height * scale + 1e-9)), max(1, int(width * scale + 1e-9))

    def _finished(
        self, scores: Array, size: tuple[int, int], time_s: float, prompt: FrameMasks | None = None
    ) -> ObjectMasks:
        """Make the frame's result, and count it. Shapes: (K+1, h, w), of the network's size without padding.

        Labels that were given stay as they are: at the network's size they have lost their fine outlines.
        """
        state, arrays, scores = self._state, self._arrays, self._arrays.as_float(scores)

        def resized(scores: Array) -> Array:  # the same numbers for labels and for probabilities
            return arrays.resize(scores, size, "bilinear")

        kept, best = arrays.HostCopy(scores), arrays.HostCopy(arrays.best_class(resized(scores)))
        labels = best.numpy()
        if state.object_ids != tuple(range(1, len(scores))):
            labels = np.array([0, *state.object_ids], np.uint8)[labels]
        given, object_ids = None, state.object_ids
        if prompt is not None and prompt.labels is not None:
            given = arrays.to_numpy(prompt.labels)
            labels[np.isin(labels, prompt.ids) & (given != VOID)] = 0
            np.copyto(labels, given, where=np.isin(given, prompt.ids), casting="unsafe")

        def probabilities() -> NDArray[np.float32]:
            planes: NDArray[np.float32] = arrays.to_numpy(resized(kept.tensor()))
            return planes if given is None else _most_likely(planes.copy(), labels, object_ids)

        result = ObjectMasks(
            labels=labels,
            probabilities=probabilities,
            object_ids=object_ids,
            frame_index=state.frame_index,
            time_s=time_s,
            confidence=lambda: _soft_overlap(kept.numpy()),
        )
        state.image_size = size
        state.frame_index += 1
        return result


def _most_likely(
    planes: NDArray[np.float32], labels: NDArray[np.uint8], object_ids: Sequence[int]
) -> NDArray[np.float32]:
    """Make labels (H, W) the likeliest in probabilities (K+1, H, W): what was likelier changes places with them."""
    rows = np.zeros(VOID, np.intp)
    rows[[0, *object_ids]] = range(len(planes))
    likeliest, wanted = planes.argmax(0), rows[labels]
    ys, xs = np.nonzero(likeliest != wanted)
    ours, others = (wanted[ys, xs], ys, xs), (likeliest[ys, xs], ys, xs)
    planes[ours], planes[others] = planes[others], planes[ours]
    planes[:, ys, xs] *= 0.999  # both may have been as likely
    planes[ours] += 0.001
    return planes


def _soft_overlap(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """`ObjectMasks.confidence` of probabilities (K+1, h, w)."""
    winners = on_numpy.best_class(scores)
    overlaps = []
    for number, mine in enumerate(scores[1:], 1):
        won = (winners == number).view(np.uint8)
        count = cv2.countNonZero(won)
        inside = cv2.mean(mine, won)[0] * count  # sum of p [L = k], in float64
        overlaps.append(inside / max(cv2.sumElems(mine)[0] + count - inside, 1e-12))
    return np.array(overlaps, np.float32)


def _with_weights(network: Any, weights: Mapping[str, Array]) -> Any:
    """Return a copy of a network with other weights."""
    copied = copy.deepcopy(network)
    copied.load_state_dict(dict(weights))
    return copied
