"""`leashrl export`."""

from argparse import Namespace
from typing import TYPE_CHECKING

from leashrl.cli.arguments import Parser
from leashrl.cli.tables import columns, show

if TYPE_CHECKING:
    from leashrl.export import Exported, ExportedPort


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

    exported = export_policy(
        args.folder, args.format, member=args.member, mode=args.mode, data=args.data, out=args.out
    )
    show(args, exported.to_json(), lines(exported))
    return 0


def lines(exported: "Exported") -> list[str]:
    def listed(ports: "tuple[ExportedPort, ...]") -> str:
        return ", ".join(f"{port.name} ({', '.join(map(str, port.shape))})" for port in ports)

    check = exported.check
    found = (
        f"on {check.observations} observations, {check.source}: maximum difference {check.max_difference:.2g}"
    )
    if check.chose_another:
        found += f"; {check.chose_another} times another of several that are equally good"
    rows = [
        ["policy", f"{exported.algorithm}, {exported.member}, mode {exported.mode}"],
        ["inputs", listed(exported.inputs)],
        ["outputs", listed(exported.outputs)],
        ["checked", found],
        ["file", str(exported.path)],
        ["card", f"{exported.path}.json"],
    ]
    return columns(rows)
