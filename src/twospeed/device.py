"""Where a network runs: what was asked for, if it is there."""

from __future__ import annotations

import torch

from twospeed.errors import InputError


def chosen_device(wanted: str | torch.device | None) -> torch.device:
    """Return the device asked for; None takes CUDA if it is there. Raises InputError for one that cannot be used."""
    try:
        device = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type not in ("cpu", "meta"):
            torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # as torch says that it has no such device
        why = str(error).splitlines()[0][:100]
        raise InputError(f"device {str(wanted)!r} cannot be used here ({why}); choose cpu, or leave it out") from error
    return device
