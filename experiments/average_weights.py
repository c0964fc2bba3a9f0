"""The mean of the weights of several trainings of one network, where each started from the one before.

    python -m experiments.average_weights FIRST.safetensors SECOND.safetensors ... -o OUT.safetensors

Such weights lie close together; their mean is often better than each of them (Wortsman et al., "Model soups",
2022).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from twospeed import create_model
from twospeed.errors import InputError
from twospeed.weights.load import model_of, save_model


def average(files: Sequence[Path], out: Path) -> None:
    """Write the mean of the files' weights, in half precision; counts of batches are those of the last file.

    Raises InputError for files of different networks, or fewer than two; CheckpointError for one that cannot be read.
    """
    names = {model_of(file) for file in files}
    if len(names) != 1 or len(files) < 2:
        raise InputError(f"needs two or more files of one network, got {len(files)} of {', '.join(sorted(names))}")
    (name,) = names
    network = create_model(name, files[-1])
    states = [create_model(name, file).state_dict() for file in files]
    mean = {
        key: torch.stack([state[key] for state in states]).mean(0) if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    network.load_state_dict(mean)
    save_model(network, out, model_name=name, source={"mean_of": str(len(files))}, half_precision=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    chosen = parser.parse_args()
    average(chosen.files, chosen.out)


if __name__ == "__main__":
    main()
