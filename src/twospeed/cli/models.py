"""`twospeed models`: the models that exist, and what is known of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from twospeed.cli.options import Json
from twospeed.cli.printing import print_json, print_line


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One model, described in full. [default: all, a line each]")
    ] = None,
    task: Annotated[
        Literal["classify", "detect", "track", "segment"] | None, typer.Option(help="List the models of one task.")
    ] = None,
    json_output: Json = False,
) -> None:
    """List the models, or describe one: parameters, multiply-adds, weights, licence, published scores.

    `twospeed models --task track` lists the models that track; `twospeed models stcn` describes one.
    """
    from twospeed.weights.catalog import CATALOG, find, list_models

    if name is not None:
        facts = _facts(find(name))
        if json_output:
            print_json(facts)
        else:
            width = max(len(key) for key in facts)
            for key, value in facts.items():
                print_line(f"{key:<{width}}  {value}")
        return
    names = list_models(task)
    if json_output:
        print_json([{"name": n, "task": CATALOG[n].task, "summary": CATALOG[n].summary} for n in names])
        return
    width = max(len(n) for n in names)
    for n in sorted(names, key=lambda n: (CATALOG[n].task, n)):
        print_line(f"{CATALOG[n].task:<9} {n:<{width}}  {CATALOG[n].summary}")


def _facts(entry: Any) -> dict[str, str]:
    from twospeed.weights.catalog import published_for
    from twospeed.weights.cost import cost_of

    cost = cost_of(entry.name)
    weights = entry.weights
    facts = {
        "name": entry.name,
        "task": entry.task,
        "summary": entry.summary,
        "paper": entry.paper,
        "parameters": f"{cost.parameters:,}",
        "multiply-adds": f"{cost.gmacs:.2f} G for {cost.what}",
    }
    if weights is None:
        facts["weights"] = "none to download; give a checkpoint with --weights"
    else:
        facts["weights"] = f"{weights.file}, " + (
            "shipped with twospeed" if weights.url is None else f"from {weights.url}"
        )
        facts["weights licence"] = weights.licence or "as its authors state"
        facts["trained on"] = weights.trained_on or "as its authors state"
        facts["checksum"] = f"sha256 {weights.sha256}" if weights.sha256 else "not published"
    pre = entry.preprocessing
    facts["preprocessing"] = f"{pre.input_order.upper()}, mean {pre.mean}, std {pre.std}" + (
        f", shorter side {pre.short_side}" if pre.short_side else ""
    )
    if pre.frames:
        facts["clip"] = f"{pre.frames} frames, every {pre.stride}"
    for benchmark, score in entry.scores.items():
        facts[benchmark] = score
    for number, file in enumerate(published_for(entry.name), 1):
        facts[f"also published ({number})"] = f"{file.what}: {file.url}"
    return facts
