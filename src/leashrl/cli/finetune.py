"""`leashrl finetune`: from offline to online."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from leashrl.cli.arguments import Parser, pairs, whole
from leashrl.cli.runs import track_argument, watch


def arguments(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="an offline run that has finished; it stays as it is")
    parser.add_argument("--env", metavar="ID", help="a task, or its Gymnasium id; by default the run's task")
    parser.add_argument(
        "--steps",
        type=whole,
        required=True,
        metavar="N",
        help="updates; environment steps after the warm-up are as many, or one in --updates-per-step",
    )
    parser.add_argument("--data", metavar="FILE_OR_ID", help="where the data are, if their file has moved")
    parser.add_argument(
        "--offline-share", type=float, default=0.5, metavar="X", help="of each batch, from the data; 0.5"
    )
    parser.add_argument(
        "--warmup", type=whole, default=1000, metavar="N",
        help="environment steps of the offline policy before the first update; 1000",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=whole, default=50, metavar="N",
        help="environment steps between two looks at the policy; the updates come after them; 50",
    )  # fmt: skip
    parser.add_argument(
        "--updates-per-step", type=whole, default=1, metavar="N", help="updates per environment step; 1"
    )
    parser.add_argument(
        "--noise", type=float, default=0.1, metavar="X",
        help="on the actions of a policy that draws none, of [-1, 1]; 0.1",
    )  # fmt: skip
    parser.add_argument(
        "--set", nargs="+", action="extend", metavar="NAME=VALUE", help="single options, such as rates"
    )
    parser.add_argument("--out", metavar="DIR", help="the new run's folder; DIR-finetuned")
    parser.add_argument("--overwrite", action="store_true", help="delete the run that is there")
    parser.add_argument(
        "--log-every", type=whole, default=1000, metavar="N", help="updates a line of metrics; 1000"
    )
    parser.add_argument(
        "--eval-every", type=whole, metavar="N", help="updates an evaluation; a tenth of --steps"
    )
    parser.add_argument(
        "--episodes", type=whole, metavar="N", help="an evaluation and member; the task's own number"
    )
    parser.add_argument(
        "--snapshots", action="store_true", help="keep the policies of every evaluation, in snapshots/"
    )
    track_argument(parser)


def run(args: Namespace) -> int:
    options: dict[str, Any] = dict(pairs("--set", args.set))
    from leashrl.runs.finetuning import finetune

    def begin(report: Callable) -> Any:
        return finetune(
            args.folder,
            args.steps,
            env=args.env,
            data=args.data,
            options=options,
            offline_share=args.offline_share,
            warmup=args.warmup,
            every=args.every,
            updates_per_step=args.updates_per_step,
            noise=args.noise,
            out=args.out,
            overwrite=args.overwrite,
            log_every=args.log_every,
            eval_every=args.eval_every,
            episodes=args.episodes,
            snapshots=args.snapshots,
            report=report,
        )

    return watch(args, begin, "")
