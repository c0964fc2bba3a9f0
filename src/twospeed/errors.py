"""Everything twospeed raises on purpose.

    TwospeedError
    ├── InputError (ValueError)          an argument or an input is not what it should be
    │   ├── VideoError                   a video is missing, unreadable, empty, or without an image
    │   ├── MaskError                    a mask has another size, no objects, too many colours
    │   ├── ClipTooShort                 a video has fewer frames than a clip needs
    │   └── DatasetError                 a data set's files or lists are not as its layout says
    ├── CheckpointError (ValueError)     weights that do not fit the network, or cannot be read safely
    ├── WeightsUnavailable (OSError)     weights that are not on this machine and could not be fetched
    └── OutputError (OSError)            results that could not be written (full disk, no permission)

A message says what was wrong with its value, where, and what to do; of one beyond 2,000 letters, which quotes a long
value, the middle is left out, but a CheckpointError lists every key. The command line turns each of these into one line
on stderr, so shortened, and exit code 2; anything else is a fault of ours and exits with 1.
"""


def shortened(text: str) -> str:
    """Leave out the middle of a text beyond 2,000 letters."""
    return text if len(text) <= 2000 else f"{text[:1500]} ... {text[-400:]}"


class TwospeedError(Exception):
    """Root of every error that twospeed raises on purpose.

    option: the Python parameter that the message is about, where there is one. Messages name no command-line flag; the
    command line adds the flag of this parameter.
    """

    def __init__(self, *arguments: object, option: str | None = None) -> None:
        super().__init__(*arguments)
        self.option = option

    def __str__(self) -> str:
        return shortened(super().__str__())


class InputError(TwospeedError, ValueError):
    """An argument or an input is not what it should be."""


class VideoError(InputError):
    """A video is missing, unreadable, empty, or has no image stream."""


class MaskError(InputError):
    """A mask has another size than its frame, no objects, or colours that are not labels."""


class ClipTooShort(InputError):
    """A video has fewer frames than one clip needs."""


class DatasetError(InputError):
    """A data set's files or lists are not as its official layout says."""


class CheckpointError(TwospeedError, ValueError):
    """Weights do not fit the network, or cannot be read without running code from the file."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class WeightsUnavailable(TwospeedError, OSError):
    """Weights are not on this machine and could not be fetched."""


class OutputError(TwospeedError, OSError):
    """A result could not be written."""
