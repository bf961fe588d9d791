"""`leashrl train | resume | eval`."""

import sys
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from leashrl.cli import select
from leashrl.cli.arguments import Parser, numbers, pairs, seeds, whole
from leashrl.cli.progress import Screen
from leashrl.cli.tables import columns, show
from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput
from leashrl.runs.events import Evaluated, Event, MemberDiverged, Started, Stepped
from leashrl.training.compilation import use_compilation_cache

if TYPE_CHECKING:
    from leashrl.evaluate.statistics import Score
    from leashrl.runs.results import Divergence, EvaluatedRun, Result
    from leashrl.runs.video import Film


# --- train and resume --------------------------------------------------------


def train_arguments(parser: Parser) -> None:
    parser.add_argument("algorithm", metavar="ALGO", help="`leashrl algos` lists them")
    parser.add_argument(
        "--data",
        metavar="FILE_OR_ID",
        help="a file, an id on this disk, or a recipe; without it online, in the task's environment",
    )
    parser.add_argument(
        "--task", help="where to evaluate; by default what the data's name says; none for nowhere"
    )
    parser.add_argument("--preset", default="default", help="named options (`leashrl algos ALGO`)")
    parser.add_argument(
        "--set", nargs="+", action="extend", metavar="NAME=VALUE", help="single options, laid over the preset"
    )
    parser.add_argument(
        "--vary",
        nargs="+",
        action="extend",
        metavar="NAME=V1,V2",
        help="train every seed with each of the values",
    )
    parser.add_argument(
        "--seeds", type=seeds, default=3, metavar="N or 0,3,7 or 0..4", help="how many, or which; 3"
    )
    parser.add_argument("--steps", type=whole, metavar="N", help="gradient updates")
    parser.add_argument("--out", metavar="DIR", help="the run's folder; runs/ALGO-DATA")
    parser.add_argument("--overwrite", action="store_true", help="delete the run that is there")
    parser.add_argument(
        "--log-every", type=whole, default=1000, metavar="N", help="updates a line of metrics; 1000"
    )
    parser.add_argument(
        "--eval-every",
        type=whole,
        metavar="N",
        help="updates per evaluation and per snapshot; a tenth of --steps",
    )
    parser.add_argument(
        "--episodes", type=whole, metavar="N", help="an evaluation and member; the task's own number"
    )
    parser.add_argument(
        "--snapshots", action="store_true", help="keep the policies of every --eval-every, in snapshots/"
    )
    parser.add_argument(
        "--select",
        default="last",
        metavar="HOW",
        help="which of them becomes the run's policy: last, or fqe, which needs no simulator",
    )
    track_argument(parser)


def track_argument(parser: Parser) -> None:
    parser.add_argument("--track", metavar="WHERE", help="tensorboard or wandb, beside the run's own files")


def train(args: Namespace) -> int:
    vary = {name: numbers_of(name, text) for name, text in pairs("--vary", args.vary).items()}
    options: dict[str, Any] = dict(pairs("--set", args.set))
    if args.steps is not None and "steps" in options:
        raise BadInput("the number of steps is given twice: --steps and --set steps")
    from leashrl.runs import experiment
    from leashrl.runs.peers import PEERS

    if args.algorithm in PEERS:
        return train_peer(args, options)
    why = "--task none" if args.task == "none" else "the data's name says no task; --task names one"

    def begin(report: Callable) -> Any:
        return experiment.train(
            args.algorithm,
            args.data,
            task=args.task,
            preset=args.preset,
            options=options,
            vary=vary,
            seeds=args.seeds,
            steps=args.steps,
            out=args.out,
            overwrite=args.overwrite,
            log_every=args.log_every,
            eval_every=args.eval_every,
            episodes=args.episodes,
            snapshots=args.snapshots,
            select=args.select,
            report=report,
        )

    return watch(args, begin, why)


def train_peer(args: Namespace, options: dict[str, Any]) -> int:
    """DDPG or PPO of stable-baselines3: a line an evaluation, seeds one after the other."""
    from leashrl.runs import peers

    name, begun = args.algorithm, []
    if args.data is not None:
        raise BadInput(f"{name} learns online: give --task in place of --data")
    others = {"--preset": args.preset != "default", "--vary": args.vary, "--track": args.track}
    others |= {"--select": args.select != "last"}
    others |= {"--snapshots": args.snapshots, "--log-every": args.log_every != 1000}
    for option in (option for option, given in others.items() if given):
        raise BadInput(f"{name} has no use for {option}: it is stable-baselines3's, in a loop of its own")

    def report(event: Event) -> None:
        match event:
            case Started(plan=plan):
                begun.append(event.folder)
                lines = [f"{name} of {event.library} on {plan.task}, {plan.config.steps} steps a seed"]
                lines += [f"folder {begun[0]}: such a run cannot be resumed, and leaves no policy"]
            case Evaluated(rows=[row, *_]):
                found = f"return {row['return']:.1f}" if row["score"] is None else f"score {row['score']:.1f}"
                lines = [f"{row['member']}, step {row['step']}: {found}"]
            case MemberDiverged():
                lines = [f"{event.member} diverged at step {event.step}: its action is not finite"]
            case _:
                return
        print("\n".join(lines), file=sys.stderr, flush=True)

    try:
        result = peers.train(
            name,
            args.task,
            seeds=args.seeds,
            steps=args.steps,
            out=args.out,
            options=options,
            eval_every=args.eval_every,
            episodes=args.episodes,
            overwrite=args.overwrite,
            report=report,
        )
    except KeyboardInterrupt:
        kept = f"'{begun[0]}' keeps what was written, --overwrite starts it again" if begun else ""
        raise KeyboardInterrupt(kept) from None
    left = f"artefacts: {result.folder} (episodes.jsonl, evaluations.jsonl, result.json; no policy)"
    lines = [*result_lines(result)[:-1], left]
    show(args, {"folder": str(result.folder)} | result.to_json(), lines)
    return 3 if result.diverged else 0


def numbers_of(name: str, text: str) -> list[float]:
    try:
        return numbers(text)
    except Exception as error:
        raise BadInput(f"--vary {name}: {error}") from None


def resume_arguments(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="the run's folder")
    parser.add_argument("--data", metavar="FILE_OR_ID", help="where the data are, if their file has moved")
    track_argument(parser)


def resume(args: Namespace) -> int:
    from leashrl.runs import experiment

    begin = lambda report: experiment.resume(args.folder, data=args.data, report=report)
    return watch(args, begin, "as it was started")


def watch(args: Namespace, begin: Callable[[Callable], Any], why_no_task: str) -> int:
    """Run under a screen and perhaps a tracker, then print what was found."""
    use_compilation_cache()
    screen = Screen(why_no_task)
    open_tracker, track = None, None
    if args.track is not None:
        from leashrl.runs.trackers import find_tracker

        open_tracker = find_tracker(args.track)

    def report(event: Event) -> None:
        nonlocal track
        screen(event)
        if open_tracker is not None and isinstance(event, Started):
            track = open_tracker(event.folder, event.plan.to_json(), event.step)
        if track is not None and isinstance(event, Stepped | Evaluated):
            for row in event.rows:
                track(row)

    try:
        result = begin(report)
    except KeyboardInterrupt:
        screen.close()
        # before the run's folder stands there is nothing to go on with
        raise KeyboardInterrupt(
            f"go on with `leashrl resume {screen.folder}`" if screen.folder else ""
        ) from None
    finally:
        screen.close()
    if screen.folder is None:
        print(f"{result.folder} has finished already", file=sys.stderr)
        for member in result.members:
            if end := member.diverged:
                screen(MemberDiverged(member.name, end.step, end.metric))
    values, lines = {"folder": str(result.folder)} | result.to_json(), result_lines(result)
    if is_to_select(result):
        try:
            found = select.select(result.folder, args.data)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"go on with `leashrl resume {result.folder}`") from None
        values |= {"selection": found.to_json()}
        lines += ["", *select.lines(found)]
    show(args, values, lines)
    return 3 if result.diverged else 0


def is_to_select(result: "Result") -> bool:
    """Whether the run was started with `--select fqe` and nothing was selected yet."""
    files = RunFolder(result.folder)
    wanted = files.config().get("select", "last") == "fqe" and files.selection() is None
    return wanted and len(result.diverged) < len(result.members)


def result_lines(result: "Result") -> list[str]:
    """Each member's final and last-ten mean, the score over members, and where everything is."""
    rows: list[list[Any]] = []
    for m in result.members:
        end = diverged_words(m.diverged) if m.diverged else ""
        row = [value for ends in (m.score, m.returns) for value in (ends.final, ends.last_10_mean)]
        rows.append([m.name, *row, end])
    if not result.evaluated:
        lines = columns([["member", ""], *([row[0], row[-1] or "trained, not evaluated"] for row in rows)])
    else:
        head = ["member", "score", "last 10", "return", "last 10", ""]
        keep = [0, *(i for i in range(1, 5) if result.score or i > 2), 5]
        lines = columns([[row[i] for i in keep] for row in [head, *rows]])
        lines += score_lines(result.score)
    return [*lines, f"artefacts: {result.folder} (policy/, metrics.jsonl, evaluations.jsonl, result.json)"]


def diverged_words(end: "Divergence") -> str:
    """Where a seed diverged, and what its last finite policy gets where it was evaluated."""
    words = f"diverged at step {end.step} ({end.metric})"
    known = [(what, x) for what, x in (("score", end.score), ("return", end.mean_return)) if x is not None]
    return words + "".join(f"; its last finite policy: {what} {value:.1f}" for what, value in known[:1])


def score_lines(score: "Score | None") -> list[str]:
    if not score:
        return []
    known = score.low is not None and score.high is not None  # not of one member
    interval = f"95 % interval {score.low:.1f} to {score.high:.1f}" if known else "no interval"
    return [f"score over {score.n} members: mean {score.mean:.1f}, IQM {score.iqm:.1f}, {interval}"]


# --- eval --------------------------------------------------------------------


def eval_arguments(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a run's folder, or a copy of its policy/")
    parser.add_argument("--task", help="where; by default where the run was evaluated")
    parser.add_argument("--episodes", type=whole, metavar="N", help="a member; the task's own number")
    parser.add_argument(
        "--seed", type=whole, default=1, metavar="S", help="of the episodes; 1 (training uses 0)"
    )
    parser.add_argument(
        "--mode",
        metavar="M[,M]",
        help="how the policy acts, such as mean or sample, or several ways, or all; the algorithm's own",
    )
    parser.add_argument("--member", metavar="NAME", help="one alone, such as seed-1; all")
    parser.add_argument(
        "--video",
        metavar="MP4_OR_FOLDER",
        help="film the first episode of the member, or of the first one; needs the extra video",
    )


def evaluate(args: Namespace) -> int:
    use_compilation_cache()
    from leashrl.runs.loading import evaluate_run, load_policy

    modes: list[Any] = args.mode.split(",") if args.mode else [None]
    videos = []
    if args.mode == "all" or len(modes) > 1:  # a mistyped one is found before the first is run
        policy = load_policy(args.folder, args.member)
        modes = list(policy.modes) if args.mode == "all" else [policy.known_mode(mode) for mode in modes]
    if args.video is not None:  # what a film lacks is told before all episodes are run
        videos = films(load_policy(args.folder, args.member), modes, args)
    asked = {"task": args.task, "episodes": args.episodes, "seed": args.seed, "member": args.member}
    found = [evaluate_run(args.folder, **asked, mode=mode) for mode in modes]
    lines = [line for one in found for line in evaluated(one)]
    if not args.member and (left := found[0].diverged):
        lines.append(f"left out, diverged: {', '.join(left)}")
    each = [one.to_json() for one in found]
    values = each[0] if len(each) == 1 else {"modes": each}
    show(
        args,
        values | ({"videos": [made.to_json() for made in videos]} if videos else {}),
        [*lines, *map(film_line, videos)],
    )
    return 0


def films(policy: Any, modes: list[Any], args: Namespace) -> "list[Film]":
    """One film a mode."""
    from leashrl.runs.video import film

    if len(modes) > 1 and args.video.lower().endswith(".mp4"):
        raise BadInput(f"{len(modes)} modes make {len(modes)} videos: give --video a folder")
    return [film(policy, args.video, task=args.task, seed=args.seed, mode=mode) for mode in modes]


def film_line(made: "Film") -> str:
    return (
        f"{made.file}: {made.member}, mode {made.mode}, episode {made.episode} of seed {made.seed}, return "
        f"{made.mean_return:.1f} in {made.length} steps; {made.width} x {made.height}, "
        f"{made.fps} frames a second"
    )


def evaluated(found: "EvaluatedRun") -> list[str]:
    scored = found.score is not None
    head = ["member", *(["score"] if scored else []), "return", "length"]
    rows = [
        [m.name, *([m.score] if scored else []), m.mean_return, sum(m.lengths) / len(m.lengths)]
        for m in found.members
    ]
    title = f"{found.algorithm} on {found.task}, {found.episodes} episodes, seed {found.seed}, "
    return [f"{title}mode {found.mode}", *columns([head, *rows]), *score_lines(found.score)]
