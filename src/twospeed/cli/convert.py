"""`twospeed convert`: the authors' checkpoint -> a .safetensors file in twospeed's naming."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twospeed.cli.options import check_weights, option
from twospeed.cli.printing import print_note
from twospeed.errors import InputError
from twospeed.files import remove_leftovers


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="The authors' checkpoint (.pth, .pyth, .pkl, .tar), or a .safetensors file."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The .safetensors file to write.")],
    model: Annotated[str | None, option("NAME", "Model. [default: recognised from the names of the weights]")] = None,
) -> None:
    """Convert a checkpoint to a .safetensors file, which loads fast and cannot run code.

    Every name and shape is checked against the network first. The name and SHA-256 of the checkpoint are kept in the
    file's metadata.

    `twospeed convert stcn.pth -o stcn.safetensors`, then `twospeed track clip.mp4 --mask first.png --model stcn
    --weights stcn.safetensors`.
    """
    check_weights([str(checkpoint)])
    if output.suffix != ".safetensors":
        raise InputError(f"-o is {output}; the file to write must end in .safetensors")
    from twospeed.weights.load import create_model, model_of, save_model
    from twospeed.weights.store import sha256

    name = model or model_of(checkpoint)
    network = create_model(name, checkpoint)
    remove_leftovers(output)
    save_model(
        network, output, model_name=name, source={"source": checkpoint.name, "source_sha256": sha256(checkpoint)}
    )
    parameters = sum(p.numel() for p in network.parameters())
    print_note(f"{output}: {name}, {parameters:,} parameters from {checkpoint}")
