"""From offline to online: returns before and after the switch.

    python benchmarks/finetune.py --data FILE_OR_RECIPE --runs td3-bc misa --offline 5000 --steps 3000
        --out DIR [--offline-every 1000] [--set policy_rate=1e-4] [--results PREFIX]

Each algorithm is trained on the data and then fine-tuned in the task's environment, evaluated before its
first update and after every tenth of them. Beside it, as a control, the same updates on the data alone
(`--offline-share 1`): what of a change is the switch's, and what any further training does. Runs that are
there are read, those that were stopped go on.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import leashrl
from leashrl.cli.arguments import pairs
from leashrl.disk.files import Lines, read_json, versions, write_json

KINDS = {"online": 0.5, "data alone": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="pendulum-medium")
    parser.add_argument("--runs", nargs="+", default=["td3-bc", "misa"])
    parser.add_argument("--offline", type=int, default=5000, help="updates on the data")
    parser.add_argument("--offline-every", type=int, help="updates an evaluation; a tenth of --offline")
    parser.add_argument("--steps", type=int, default=5000, help="updates, and environment steps, online")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--set", nargs="+", default=[], help="options after the switch")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="prefix of the .json and .png files to write")
    args = parser.parse_args()
    curves = {name: curves_of(name, args) for name in args.runs}
    for name, curve in curves.items():
        print(name)
        for kind, rows in curve.items():
            print(f"  {kind}: " + ", ".join(f"{row['step']}: {np.mean(row['scores']):.1f}" for row in rows))
    if args.results:
        about = {"command": " ".join(["python", *sys.argv]), "data": Path(args.data).stem}
        write_json(args.results.with_suffix(".json"), about | {"versions": versions(), "curves": curves})
        picture(curves, about["data"], args.results.with_suffix(".png"))


def curves_of(name: str, args: argparse.Namespace) -> dict[str, list[dict]]:
    """`offline`, `online` and `data alone`: rows of step and scores, one a seed; step 0 is the switch."""
    shared = {"episodes": args.episodes, "report": None}
    folder = args.out / f"{Path(args.data).stem}--{name}"

    def begin_offline():
        every = args.offline_every or args.offline // 10
        plan = {"seeds": args.seeds, "steps": args.offline, "eval_every": every}
        leashrl.train(name, args.data, out=folder, **plan, **shared)

    found = {"offline": rows_of(folder, begin_offline, -args.offline)}
    for kind, share in KINDS.items():
        to = folder.with_name(f"{folder.name}--{kind.replace(' ', '-')}")

        def begin(to: Path = to, share: float = share):
            plan = {
                "offline_share": share,
                "eval_every": args.steps // 10,
                "options": pairs("--set", args.set),
            }
            leashrl.finetune(folder, args.steps, out=to, **plan, **shared)

        found[kind] = rows_of(to, begin, 0)
    return found


def rows_of(folder: Path, begin, start: int) -> list[dict]:
    """The evaluations of a run that is begun, gone on with, or there; steps counted from `start`."""
    if (folder / "config.json").exists():
        leashrl.resume(folder)
    else:
        begin()
    lines = Lines.read(folder / "evaluations.jsonl")
    steps = sorted({line["step"] for line in lines})
    scores = lambda step: [round(line["score"], 2) for line in lines if line["step"] == step]
    returns = lambda step: [round(line["return"], 2) for line in lines if line["step"] == step]
    assert not any(m["diverged"] for m in read_json(folder / "result.json")["members"])
    return [{"step": start + step, "scores": scores(step), "returns": returns(step)} for step in steps]


def picture(curves: dict, data: str, file: Path) -> None:
    """Two panels an algorithm, before and after the switch; each seed thin, their mean bold."""
    from matplotlib.figure import Figure

    colours = {"offline": "0.35", "online": "tab:blue", "data alone": "tab:orange"}
    figure = Figure(figsize=(5 * len(curves), 3.4), layout="constrained")
    panels = figure.subplots(1, 2 * len(curves), sharey=True, width_ratios=[1, 1.6] * len(curves))
    for (name, curve), before, after in zip(curves.items(), panels[::2], panels[1::2], strict=True):
        for kind, rows in curve.items():
            panel = before if kind == "offline" else after
            steps, scores = [row["step"] for row in rows], np.array([row["scores"] for row in rows])
            panel.plot(steps, scores, color=colours[kind], linewidth=0.7, alpha=0.5)
            panel.plot(steps, scores.mean(1), color=colours[kind], linewidth=2, label=kind)
        before.set(title=name, xlabel="offline", xticks=[curve["offline"][0]["step"], 0])
        after.set(title=data, xlabel="updates since the switch")
        before.spines["right"].set_visible(False)
        before.set_xlim(right=0)
        after.set_xlim(left=0)
    panels[0].set_ylim(bottom=0)  # shared: once all is drawn
    panels[0].set_ylabel("normalised score")
    panels[1].legend(frameon=False)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
