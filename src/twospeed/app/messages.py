"""What the page may send, checked before anything else sees it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Coordinate = Annotated[float, Field(ge=-16384, le=32768, allow_inf_nan=False)]
FrameIndex = Annotated[int, Field(ge=0, le=100_000_000)]
ObjectId = Annotated[int, Field(ge=1, le=254)]
Point = tuple[Coordinate, Coordinate, Literal[1, -1]]


class Message(BaseModel):
    """What all share: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Login(Message):
    """A token for the cookie."""

    token: str = Field(max_length=200)


class OpenVideo(Message):
    """A video of the listing, or a finished run, by its id."""

    video: str | None = Field(None, max_length=64)
    run: str | None = Field(None, max_length=64)

    @model_validator(mode="after")
    def _names_one(self) -> OpenVideo:
        if (self.video is None) == (self.run is None):
            raise ValueError("name a video or a run")
        return self


class Locate(Message):
    """Where a project's video is now. anyway: take it although it is not the same file."""

    video: str = Field(max_length=64)
    anyway: bool = False


class NewObject(Message):
    """A new object."""

    name: str = Field("", max_length=80)


class ObjectChanges(Message):
    """Changes of an object; what is left out stays."""

    name: str | None = Field(None, max_length=80)
    colour: str | None = Field(None, pattern=r"^#[0-9A-Fa-f]{6}$")
    hidden: bool | None = None
    locked: bool | None = None
    position: int | None = Field(None, ge=0, le=1000)


class Marks(Message):
    """An object's marks on a frame: all of them, each time. preview: compute the mask, keep nothing."""

    frame: FrameIndex
    object: ObjectId
    points: list[Point] = Field([], max_length=200)
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None
    polygon: list[tuple[Coordinate, Coordinate]] = Field([], max_length=5000)
    base_rev: int | None = Field(None, ge=0)
    preview: bool = False


class Range(Message):
    """In and out points."""

    first: FrameIndex
    last: FrameIndex


class NewJob(Message):
    """A job. frame: the playhead. through: pass keyframes instead of ending before the next."""

    kind: Literal["track", "stale", "resume", "find", "classify", "detect", "segment"]
    direction: Literal["forward", "backward", "both"] = "forward"
    frame: FrameIndex = 0
    through: bool = False
    model: str | None = Field(None, max_length=80)
    weights: str | None = Field(None, max_length=1000)
    size: int | None = Field(None, ge=16, le=4096)
    finetune: int | None = Field(None, ge=1, le=5000)


class NewExport(Message):
    """An export of the range between in and out.

    soft: smooth the edges of cut-outs. layers: a file for each object. premultiplied: store colours times alpha.
    background: colour behind the objects. threshold: least probability of actions.
    """

    kind: str = Field(alias="as", max_length=40)
    objects: list[ObjectId] = Field([], max_length=254)
    soft: bool = False
    layers: bool = False
    premultiplied: bool = False
    background: str = Field("#00ff00", pattern=r"^#[0-9A-Fa-f]{6}$")
    threshold: float = Field(0.3, gt=0, le=1)
