"""Does a detector learn what people do, and does it need to look around? Train it with and without its context branch.

    python -m experiments.figures_task OUT [--keyframes 800] [--iterations 150] [--turns 2]

writes the set of `experiments.figures_set` to OUT/set, trains the same narrow SlowFast detector with the context branch
(OUT/context_1, ...) and without it (OUT/plain_1, ...) by the recipe that trains on AVA, and writes both validation
curves to OUT/curves.csv and OUT/curves.png. Minutes on a CPU; docs/experiments/figures_task.md shows a run.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from experiments.figures_set import ACTIONS, HEIGHT, OWN, RELATED, WIDTH, write_figures_set
from twospeed.evaluation.ava import keyframe_ap
from twospeed.models.slowfast.detection import RegionHead
from twospeed.models.slowfast.network import SlowFast, initialise
from twospeed.recipes.slowfast_ava import SlowFastAvaConfig, Validation, read_training, read_validation, train

SHORT_SIDE = 24  # pixels at which the networks look
NETWORKS = ("context", "plain")


def network(name: str, *, width: int = 8) -> SlowFast:
    """One block a stage, 4 frames of which the Slow pathway sees 1; "context" has the context branch, "plain" not.

    res5 is not dilated here, so that what a box's features see ends before the next figure.
    """
    detector = SlowFast(
        len(ACTIONS),
        depths=(1, 1, 1, 1),
        width=width,
        beta_inverse=2,
        alpha=4,
        frames=4,
        frame_stride=4,
        res5_stride=1,
        res5_dilation=1,
        crop_size=None,
        dropout=0.0,
        zero_init_final_bn=False,
    )
    detector.head = RegionHead(
        detector.feature_channels,
        len(ACTIONS),
        roi_aligned=True,
        context=name == "context",
        context_channels=64,
        dropout=0.0,
    )
    initialise(detector.head.projection)  # the context branch starts louder: its inner layers learn from the start
    return detector


def multiply_adds(detector: SlowFast) -> int:
    """Of one clip with three boxes: convolutions, products and the classifier."""
    width = SHORT_SIDE * WIDTH // HEIGHT
    clip, boxes = torch.zeros(1, 3, detector.frames, SHORT_SIDE, width), torch.tensor([[8.0, 4.0, 18.0, 20.0]] * 3)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector.eval()(clip, [boxes])
    return counter.get_total_flops() // 2


def config(out: Path, name: str, turn: int, iterations: int, seed: int) -> SlowFastAvaConfig:
    """The AVA recipe for small wide images, whole; no flips, as left and right are actions here.

    Each turn starts from the weights of the one before, with the same schedule of the learning rate.
    """
    return SlowFastAvaConfig(
        data=out / "set",
        num_classes=len(ACTIONS),
        weights=None if turn == 1 else str(out / f"{name}_{turn - 1}" / "weights.safetensors"),
        workers=0,
        short_side=(SHORT_SIDE, SHORT_SIDE),
        crop=None,
        flip_probability=0.0,
        iterations=iterations,
        batch=16,
        batch_per_forward=16,
        bn_clips=16,
        lr=0.05,
        lr_batch=16,
        lr_boundaries=(iterations * 17 // 20, iterations * 19 // 20),
        warm_up_steps=iterations // 10,
        warm_up_lr=0.005,
        nesterov=True,
        weight_decay=1e-4,
        validate_every=max(iterations // 2, 1),
        val_every_s=1,
        precise_bn_batches=5,
        test_short_side=SHORT_SIDE,
        device="cpu",
        seed=seed + turn - 1,
        out=out / f"{name}_{turn}",
    )


def chance(validation: Validation, seed: int) -> dict[int, float]:
    """Return the AP of each action for random scores on the same boxes."""
    rng = np.random.default_rng(seed)
    scores = [rng.random((len(keyframe), len(ACTIONS))) for keyframe in validation.keyframes]
    return keyframe_ap(validation.truth, validation.keyframes, scores, list(ACTIONS)).by_class


def alone(settings: SlowFastAvaConfig, validation: Validation, seed: int) -> dict[int, float]:
    """Return the AP of one who knows what each figure does itself and nothing of the others.

    Scores are how often figures with this action of their own have each action in the training set.
    """
    counts: NDArray[np.float64] = np.zeros((len(ACTIONS) + 1, len(ACTIONS)))
    for keyframe in read_training(settings):
        for actions in keyframe.actions:
            for action in actions:
                counts[_own(actions), action - 1] += 1
    seen = counts[list(OWN), [action - 1 for action in OWN]]
    counts[list(OWN)] /= np.maximum(seen, 1)[:, None]
    rng = np.random.default_rng(seed)
    scores = [
        np.array([counts[_own(actions)] for actions in keyframe.actions]) + 1e-6 * rng.random((len(keyframe), 1))
        for keyframe in validation.truth
    ]
    return keyframe_ap(validation.truth, validation.truth, scores, list(ACTIONS)).by_class


def _own(actions: Sequence[int]) -> int:
    return next(action for action in actions if action in OWN)


def mean(by_action: dict[int, float], actions: Sequence[int]) -> float:
    """Return the mean AP over some actions."""
    return float(np.mean([by_action[action] for action in actions]))


def read_curve(run: Path) -> list[tuple[int, dict[int, float]]]:
    """Return (iteration, {action: AP}) of each validation."""
    with (run / "validation.csv").open(newline="") as file:
        return [
            (int(row["step"]), {action: float(row[f"AP_{action}"]) for action in ACTIONS})
            for row in csv.DictReader(file)
        ]


def draw(curves: dict[str, list[tuple[int, dict[int, float]]]], limits: dict[str, float], path: Path) -> None:
    """Draw mAP by iteration, of what figures do themselves and of what others decide."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    parts = {"what a figure does itself": OWN, "what another figure decides": RELATED}
    names = {"context": "with context branch", "plain": "without"}
    for axis, (title, actions) in zip(axes, parts.items(), strict=True):
        for name, points in curves.items():
            steps, values = [step for step, _ in points], [mean(by_action, actions) for _, by_action in points]
            axis.plot(steps, values, "o-", label=names[name])
        axis.axhline(limits[f"chance, {title}"], color="grey", linestyle=":", label="chance")
        axis.set(title=title, xlabel="iterations of 16 clips", ylim=(0, 1), xlim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].axhline(limits["alone"], color="black", linestyle="--", linewidth=1, label="best without seeing others")
    axes[0].set_ylabel("validation mAP")
    axes[1].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--keyframes", type=int, default=800, help="training keyframes")
    parser.add_argument("--iterations", type=int, default=150, help="of 16 clips, in each turn")
    parser.add_argument("--turns", type=int, default=2, help="schedules, one after another")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    out: Path = chosen.out
    if not (out / "set" / "set.json").is_file():  # a finished set, and finished runs, are kept
        write_figures_set(out / "set", keyframes=chosen.keyframes, val_keyframes=200, seed=chosen.seed, images=True)
    curves: dict[str, list[tuple[int, dict[int, float]]]] = {name: [] for name in NETWORKS}
    for turn in range(1, chosen.turns + 1):
        for name in NETWORKS:
            torch.manual_seed(chosen.seed)
            detector = network(name)
            if turn == 1:
                size = sum(p.numel() for p in detector.parameters())
                print(
                    f"{name}: {multiply_adds(detector) / 1e6:.1f} M multiply-adds a clip, {size / 1e6:.2f} M parameters"
                )
            settings = config(out, name, turn, chosen.iterations, chosen.seed)
            if not (settings.out / "weights.safetensors").is_file():
                train(settings, network=detector)
            before = (turn - 1) * chosen.iterations
            curves[name] += [(before + step, by_action) for step, by_action in read_curve(settings.out)]
    validation = read_validation(settings)
    assert validation is not None
    by_chance, best_alone = chance(validation, chosen.seed), alone(settings, validation, chosen.seed)
    columns = {"chance": by_chance, "alone": best_alone, **{name: points[-1][1] for name, points in curves.items()}}
    print("".join(f"{name:>10}" for name in ("", *columns)))
    for action, title in ACTIONS.items():
        print(f"{action:>10}" + "".join(f"{found[action]:10.3f}" for found in columns.values()) + f"  {title}")
    for title, actions in (("itself", OWN), ("others", RELATED), ("mAP", tuple(ACTIONS))):
        print(f"{title:>10}" + "".join(f"{mean(found, actions):10.3f}" for found in columns.values()))
    with (out / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["iteration", "network", "mAP", "itself", "others", *(f"AP_{action}" for action in ACTIONS)])
        for name, points in curves.items():
            for step, found in points:
                means = [mean(found, actions) for actions in (tuple(ACTIONS), OWN, RELATED)]
                writer.writerow([step, name, *(f"{value:.4f}" for value in [*means, *found.values()])])
    limits = {
        "chance, what a figure does itself": mean(by_chance, OWN),
        "chance, what another figure decides": mean(by_chance, RELATED),
        "alone": mean(best_alone, RELATED),
    }
    draw(curves, limits, out / "curves.png")


if __name__ == "__main__":
    main()
