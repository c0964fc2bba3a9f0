"""`twospeed convert`: the authors' checkpoint -> one safe file in our naming."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twospeed.errors import CheckpointError, InputError


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="The authors' checkpoint (.pth, .pyth, .pkl, .tar) or a .safetensors.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .safetensors file to write.")],
    model: Annotated[str | None, typer.Option(help="Model name; recognised from the keys if left out.")] = None,
) -> None:
    """Convert a checkpoint to a .safetensors file that loads at once, anywhere, without running code from it.

    Every key is checked against the network first. Where the file came from (name and SHA-256) is kept in its metadata.

    `twospeed convert stcn.pth -o stcn.safetensors`, then `twospeed track clip.mp4 --mask first.png --model stcn
    --weights stcn.safetensors`.
    """
    from twospeed.weights.imports import read_state
    from twospeed.weights.load import create_model, recognise, save_model
    from twospeed.weights.store import sha256

    if output.suffix != ".safetensors":
        raise InputError(f"-o is {output}; the file to write must end in .safetensors")
    state, metadata = read_state(checkpoint)
    name = model or metadata.get("model") or recognise(state)
    if name is None:
        raise CheckpointError(
            f"{checkpoint}: its {len(state)} keys (such as {next(iter(state))!r}) belong to no family known here; "
            "say which model it is with --model"
        )
    network = create_model(name, checkpoint)
    save_model(
        network, output, model_name=name, source={"source": checkpoint.name, "source_sha256": sha256(checkpoint)}
    )
    parameters = sum(p.numel() for p in network.parameters())
    typer.echo(f"{output}: {name}, {parameters:,} parameters from {checkpoint}", err=True)
