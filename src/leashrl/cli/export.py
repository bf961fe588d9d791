"""`leashrl export`."""

from argparse import Namespace
from typing import Any

from leashrl.cli.arguments import Parser
from leashrl.cli.tables import columns, show


def arguments(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a run's folder, or a copy of its policy/")
    parser.add_argument("--format", default="onnx", metavar="F", help="onnx, stablehlo or numpy; onnx")
    parser.add_argument("--member", metavar="NAME", help="such as seed-1; the first that did not diverge")
    parser.add_argument(
        "--mode", metavar="M", help="how it acts, such as mean or sample; the algorithm's own way"
    )
    parser.add_argument(
        "--data", metavar="FILE_OR_ID", help="observations for the check; the data it was trained on"
    )
    parser.add_argument("--out", metavar="FILE", help="DIR/export/MEMBER, with the format's ending")


def run(args: Namespace) -> int:
    from leashrl.export import export_policy

    card = export_policy(
        args.folder, args.format, member=args.member, mode=args.mode, data=args.data, out=args.out
    )
    show(args, card, lines(card))
    return 0


def lines(card: dict[str, Any]) -> list[str]:
    def ports(which: str) -> str:
        return ", ".join(f"{p['name']} ({', '.join(map(str, p['shape']))})" for p in card[which])

    check = card["check"]
    found = (
        f"on {check['observations']} observations, {check['from']}: "
        f"maximum difference {check['max_difference']:.2g}"
    )
    if check["chose_another"]:
        found += f"; {check['chose_another']} times another of several that are equally good"
    rows = [
        ["policy", f"{card['algorithm']}, {card['member']}, mode {card['mode']}"],
        ["inputs", ports("inputs")],
        ["outputs", ports("outputs")],
        ["checked", found],
        ["file", card["path"]],
        ["card", f"{card['path']}.json"],
    ]
    return columns(rows)
