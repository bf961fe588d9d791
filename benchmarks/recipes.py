"""The policies behind the recipes of hopper, walker2d and halfcheetah, and the card of each data set.

    python benchmarks/recipes.py ship ENV RUN --medium STEP --expert STEP [--snapshots STEP ...] [--note TEXT]
    python benchmarks/recipes.py curves ENV=RUN ... [--episodes 10]
    python benchmarks/recipes.py scores [--episodes 30]
    python benchmarks/recipes.py cards [RECIPE ...] [--steps N] [--times 1]

`ship` copies snapshots of a run of SAC (`leashrl train sac --task ENV --snapshots`) into the package and
says in `policies/runs.json` which is which and how the run was made. `curves` draws the scores of all
snapshots of such runs. `scores` rolls each `medium` and `expert`, drawing actions and taking their means.
`cards` makes each data set in a process of its own, `--times` times, replays at their own size and the
others at `--steps` or theirs, and writes the cards: `policies/cards.json`, `docs/recipes.md` and its
picture. Cards of recipes that are not named stay as they are.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from leashrl.data import RECIPES, load, locomotion
from leashrl.data.recipes import made_with
from leashrl.disk.files import read_json, write_atomically, write_json
from leashrl.report.plots import COLOURS, need_matplotlib
from leashrl.tasks import normalise, task
from leashrl.tasks.making import env_seed

ROOT = Path(__file__).parents[1]
POLICIES = ROOT / "src" / "leashrl" / "data" / "policies"
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "recipes.md"


# --- Policies --------------------------------------------------------------------------


def ship(args: argparse.Namespace) -> None:
    """float16 weights with D4RL's names, from our own layout."""
    config = read_json(args.run / "config.json")
    chosen = sorted({*args.snapshots, args.medium, args.expert})
    folder = POLICIES / args.env
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for step in chosen:
        found = load_file(args.run / "snapshots" / f"step-{step:010d}" / "seed-0.safetensors")
        assert not found["obs_mean"].any() and (found["obs_std"] == 1).all()  # nothing but weights decides
        write_atomically(folder / f"{step:07d}.safetensors", save(converted(found)))
    keep = (
        "batch_size",
        "hidden",
        "gamma",
        "polyak",
        "policy_rate",
        "critic_rate",
        "target_entropy",
        "buffer",
    )
    run = {
        "warmup": config["config"]["warmup"],
        "medium": args.medium,
        "expert": args.expert,
        "snapshots": chosen,
        "made_with": {
            "algorithm": "sac",
            "seed": config["members"][0]["seed"],
            "options": {name: config["config"][name] for name in keep},
            "versions": config["versions"],
        },
    }
    if args.note:
        run["made_with"]["note"] = args.note
    write_json(POLICIES / "runs.json", read_json(POLICIES / "runs.json") | {args.env: run})


def converted(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kernels (in, out) to weights (out, in); log std = multiplier * head + offset becomes one layer."""
    p = {name.removeprefix("params/"): value for name, value in found.items()}
    (mean, log_std), (mean_b, log_std_b) = (np.split(p[f"out/{x}"], 2, axis=-1) for x in ("kernel", "bias"))
    m = p["multiplier"]
    layers = {
        "fc0": (p["hidden/0/kernel"], p["hidden/0/bias"]),
        "fc1": (p["hidden/1/kernel"], p["hidden/1/bias"]),
        "last_fc": (mean, mean_b),
        "last_fc_log_std": (m * log_std, m * log_std_b + p["offset"]),
    }
    out = {f"{name}/weight": kernel.T for name, (kernel, _) in layers.items()}
    out |= {f"{name}/bias": bias for name, (_, bias) in layers.items()}
    return {name: np.ascontiguousarray(value.astype(np.float16)) for name, value in out.items()}


def returns(env: str, actor: locomotion.Actor, episodes: int, drawn: bool, seed: int) -> np.ndarray:
    """Undiscounted sums of rewards of whole episodes, the same ones for every policy."""
    if not drawn:
        actor.draw = lambda rng, dim: np.zeros((locomotion.LIMIT, dim))
    rolled = locomotion.roll(env, actor, episodes * locomotion.LIMIT, env_seed(seed, 0))
    return np.array([next(rolled)["rewards"].sum(dtype=float) for _ in range(episodes)])


def curves(args: argparse.Namespace) -> None:
    """Learning curves: each snapshot's policy, rolled with actions drawn and with their means."""
    rows = []
    for env, _, folder in (text.partition("=") for text in args.runs):
        for path in sorted(Path(folder).glob("snapshots/step-*/seed-0.safetensors")):
            weights = converted(load_file(path))
            step = int(path.parent.name.removeprefix("step-"))
            row = {"task": env, "step": step, "episodes": args.episodes}
            for how in ("drawn", "mean"):
                actor = locomotion.Actor(env, step, weights)
                found = normalise(task(env), returns(env, actor, args.episodes, how == "drawn", seed=1))
                row |= {how: float(found.mean()), f"{how}_std": float(found.std())}
            print(json.dumps(row), flush=True)
            rows.append(row)
    write_json(RESULTS / "sac-curves.json", {"made_with": made_with(RECIPES["hopper-random"]), "rows": rows})
    names = list(dict.fromkeys(row["task"] for row in rows))
    figure = need_matplotlib()(figsize=(3.6 * len(names), 2.8), layout="constrained")
    for axes, env in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for colour, how in zip(COLOURS, ("drawn", "mean"), strict=False):
            own = [row for row in rows if row["task"] == env]
            x, y, std = (np.array([row[key] for row in own]) for key in ("step", how, f"{how}_std"))
            axes.plot(x, y, color=colour, label={"drawn": "actions drawn", "mean": "their means"}[how])
            error = std / math.sqrt(args.episodes)
            axes.fill_between(x, y - error, y + error, color=colour, alpha=0.2, linewidth=0)
        axes.set_title(task(env).env_id, loc="left", fontsize=10)
        axes.set_xlabel("environment steps")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("normalised score")
    figure.axes[0].legend(frameon=False, fontsize=9)
    figure.savefig(ROOT / "docs" / "algorithms" / "sac-curves.png", dpi=130)


def scores(args: argparse.Namespace) -> None:
    rows = []
    for env, run in locomotion.runs().items():
        for kind in ("medium", "expert"):
            for how in ("drawn", "mean"):
                actor = locomotion.Actor(env, run[kind])
                # other episodes than those of the curves, by which policies were chosen
                found = returns(env, actor, args.episodes, how == "drawn", seed=2)
                score = normalise(task(env), found)
                rows.append(
                    {
                        "policy": f"{env}-{kind}",
                        "step": run[kind],
                        "actions": how,
                        "score": float(score.mean()),
                        "standard_error": float(score.std(ddof=1) / math.sqrt(len(score))),
                        "min": float(score.min()),
                        "max": float(score.max()),
                        "returns": found.tolist(),
                    }
                )
                print(json.dumps({k: v for k, v in rows[-1].items() if k != "returns"}), flush=True)
    about = made_with(RECIPES["hopper-random"])
    write_json(RESULTS / "policies.json", {"episodes": args.episodes, "made_with": about, "rows": rows})


# --- Cards -----------------------------------------------------------------------------


def made(recipe: str, path: Path, steps: int) -> tuple[float, float]:
    """Seconds and peak megabytes of `leashrl data make` in a fresh process."""
    argv = [sys.executable, "-m", "leashrl", "data", "make", recipe, "--out", str(path)]
    argv += ["--steps", str(steps), "--json"]
    began = time.perf_counter()
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{recipe}: `leashrl data make` failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def card(recipe: str, steps: int | None, times: int) -> dict[str, Any]:
    measured, hashes = [], set()
    if steps is None or recipe.endswith("replay"):
        steps = RECIPES[recipe].default_steps
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{recipe}.hdf5"
        for _ in range(times):
            path.unlink(missing_ok=True)
            measured.append(made(recipe, path, steps))
            hashes.add(load(path).hash)
        data, megabytes = load(path), path.stat().st_size / 1e6
    if len(hashes) > 1:
        sys.exit(f"{recipe}: {times} processes made {len(hashes)} different data sets")
    found = data.returns()[:-1]  # the last episode is a cut
    score = normalise(task(RECIPES[recipe].task), found)
    lengths = [episode.stop - episode.start for episode in data.episodes()[:-1]]
    counts, edges = np.histogram(score, bins=60, range=(-10, 130))
    return {
        "steps": len(data),
        "seed": 0,
        "hash": hashes.pop(),
        "made_with": made_with(RECIPES[recipe]),
        "processes": times,
        "seconds": min(s for s, _ in measured),
        "peak_mb": max(m for _, m in measured),
        "file_mb": megabytes,
        "episodes": len(found),
        "length": float(np.mean(lengths)),
        "score": float(score.mean()),
        "score_std": float(score.std()),
        "score_min": float(score.min()),
        "score_max": float(score.max()),
        "histogram": {"edges": [edges[0], edges[-1]], "counts": counts.tolist()},
    }


def cards(args: argparse.Namespace) -> None:
    names = [f"{env}-{kind}" for env in locomotion.ENVIRONMENTS for kind in locomotion.kinds(env)]
    for name in args.recipes or names:
        found = card(name, args.steps, args.times)
        print(name, {k: v for k, v in found.items() if k != "histogram"}, file=sys.stderr, flush=True)
        every = read_json(POLICIES / "cards.json") | {name: found}
        write_json(POLICIES / "cards.json", {name: every[name] for name in names if name in every})
    every = read_json(POLICIES / "cards.json")
    write_atomically(PAGE, page(every).encode())
    picture(every, PAGE.with_suffix(".png"))


def page(every: dict[str, Any]) -> str:
    head = "| recipe | rows | episodes | length | score | min to max | seconds | peak MB | file MB | hash |\n"
    lines = [head + "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"]
    for name, row in every.items():
        spread = f"{row['score_min']:.0f} to {row['score_max']:.0f}"
        lines.append(
            f"| `{name}` | {row['steps']:,} | {row['episodes']:,} | {row['length']:.0f} "
            f"| {row['score']:.1f} ± {row['score_std']:.1f} | {spread} | {row['seconds']:.0f} "
            f"| {row['peak_mb']:.0f} | {row['file_mb']:.0f} | `{row['hash'][:12]}` |"
        )
    made = {json.dumps(row["made_with"]) for row in every.values()}
    with_ = "; ".join(", ".join(f"{k} {v}" for k, v in json.loads(x).items()) for x in sorted(made))
    return TEXT.format(
        table="\n".join(lines),
        made_with=with_,
        runs=how(read_json(POLICIES / "runs.json")),
        measured=measured(read_json(RESULTS / "policies.json")),
    )


def how(runs: dict[str, Any]) -> str:
    lines = [
        "| environment | medium at | expert at | snapshots | options | remarks |",
        "|---|--:|--:|--:|---|---|",
    ]
    for env, run in runs.items():
        own = run["made_with"]
        options = ", ".join(f"{k} {own['options'][k]}" for k in ("batch_size", "policy_rate", "critic_rate"))
        lines.append(
            f"| {env} | {run['medium']:,} | {run['expert']:,} | {len(run['snapshots'])} | {options} "
            f"| {own.get('note', '')} |"
        )
    return "\n".join(lines)


def measured(found: dict[str, Any]) -> str:
    """What `scores` wrote, a policy a line."""
    cells: dict[str, dict[str, str]] = {}
    for row in found["rows"]:
        cells.setdefault(row["policy"], {})[row["actions"]] = (
            f"{row['score']:.1f} ± {row['standard_error']:.1f} ({row['min']:.0f} to {row['max']:.0f})"
        )
    lines = ["| policy | actions drawn | their means |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {row['drawn']} | {row['mean']} |" for name, row in cells.items()])


TEXT = """# Data cards of the MuJoCo recipes

Written by `python benchmarks/recipes.py cards`. Made with seed 0 and {made_with}.

![Distributions of episode returns](recipes.png)

Scores are normalised returns of the data's whole episodes, mean ± standard deviation over episodes.
Seconds and peak memory are those of `leashrl data make RECIPE` in a process of its own on one core that
had other work at the same time: upper bounds. `leashrl data make` compares the hash with the card's and
says so; where it differs it names the versions that do. `random` draws uniform actions; every other
recipe draws its actions from the policies below.

{table}

## Where the policies come from

One run of our own SAC an environment, seed 0, on two cores; steps are environment steps after the warm-up.

{runs}

Thirty episodes of each (`python benchmarks/recipes.py scores`): mean score ± its standard error, worst and
best in brackets.

{measured}

A replay is not the run's own buffer, which is not shipped, but is rolled from the snapshots: every step
of the run by the snapshot that is nearest to it, after the warm-up's random ones. The file's
`metadata/replay` says so, and `metadata/rows` which policy made which rows. `full-replay` ends with the
expert.
"""


def picture(every: dict[str, Any], path: Path) -> None:
    """Shares of episodes by score, a panel a recipe."""
    columns = list(locomotion.KINDS)
    rows = [env for env in locomotion.ENVIRONMENTS if any(name.startswith(env) for name in every)]
    figure = need_matplotlib()(figsize=(2.1 * len(columns), 1.7 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True)
    for line, (env, colour) in enumerate(zip(rows, COLOURS, strict=False)):
        for column, kind in enumerate(columns):
            axes, row = panels[line, column], every.get(f"{env}-{kind}")
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.set_yticks([])
            if row is not None:
                counts = np.array(row["histogram"]["counts"])
                low, high = row["histogram"]["edges"]
                edges = np.linspace(low, high, len(counts) + 1)
                axes.stairs(counts / counts.sum(), edges, fill=True, color=colour, alpha=0.8)
                axes.axvline(row["score"], color="#333333", linewidth=1)
            if line == 0:
                axes.set_title(kind, fontsize=9, loc="left")
            if column == 0:
                axes.set_ylabel(env, fontsize=9)
            if line == len(rows) - 1:
                axes.set_xlabel("normalised score", fontsize=8)
            axes.tick_params(labelsize=8)
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description="Policies and data cards of the MuJoCo recipes.")
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("ship")
    part.add_argument("env", choices=locomotion.ENVIRONMENTS)
    part.add_argument("run", type=Path)
    part.add_argument("--medium", type=int, required=True)
    part.add_argument("--expert", type=int, required=True)
    part.add_argument("--snapshots", type=int, nargs="+", default=[])
    part.add_argument("--note", help="what else was done to the run")
    part.set_defaults(do=ship)
    part = parts.add_parser("curves")
    part.add_argument("runs", nargs="+", metavar="ENV=RUN")
    part.add_argument("--episodes", type=int, default=10)
    part.set_defaults(do=curves)
    part = parts.add_parser("scores")
    part.add_argument("--episodes", type=int, default=30)
    part.set_defaults(do=scores)
    part = parts.add_parser("cards")
    part.add_argument("recipes", nargs="*", choices=[*RECIPES, []], metavar="RECIPE")
    part.add_argument("--steps", type=int, help="rows of those that are not replays")
    part.add_argument("--times", type=int, default=1, help="how often each is made, to one hash")
    part.set_defaults(do=cards)
    args = parser.parse_args()
    args.do(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
