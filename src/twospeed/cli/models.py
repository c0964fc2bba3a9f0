"""`twospeed models`: what exists."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def models(
    name: Annotated[str | None, typer.Argument(help="One model: tell all that is known of it.")] = None,
    task: Annotated[str | None, typer.Option(help="Only classify, detect, track or segment.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print as JSON on stdout.")] = False,
) -> None:
    """List the models, or tell all about one: parameters, multiply-adds, weights, licence, published scores."""
    from twospeed.cli.job import print_json
    from twospeed.weights.catalog import CATALOG, find, list_models

    if name is not None:
        facts = _facts(find(name))
        if json_output:
            print_json(facts)
        else:
            width = max(len(key) for key in facts)
            for key, value in facts.items():
                typer.echo(f"{key:<{width}}  {value}")
        return
    names = list_models(task)  # type: ignore[arg-type]  # checked there
    if json_output:
        print_json([{"name": n, "task": CATALOG[n].task, "summary": CATALOG[n].summary} for n in names])
        return
    width = max(len(n) for n in names)
    for n in sorted(names, key=lambda n: (CATALOG[n].task, n)):
        typer.echo(f"{CATALOG[n].task:<9} {n:<{width}}  {CATALOG[n].summary}")


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
