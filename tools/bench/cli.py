"""The command line `stamp-bench`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from dataplane.bpf.program import BpfError
from dataplane.engines import registry
from tools.bench import compare, environment, report, selfcheck
from tools.bench.bed import Bed
from tools.bench.bed import Settings as BedSettings
from tools.bench.beyond import plan
from tools.bench.cell import CellKey, Metric, Role, parse_share
from tools.bench.errors import BenchError
from tools.bench.frames import Kind
from tools.bench.grid import PLANS, ROLES, Plan, first_guess_s, grid
from tools.bench.jsonform import to_json
from tools.bench.measure import TrialSettings, frame_lengths
from tools.bench.namespace import on_core
from tools.bench.progress import Progress, bar, duration
from tools.bench.results import (
    BenchSettings,
    Results,
    ResultsError,
    ResultsFile,
    combine,
    load,
)
from tools.bench.runner import Runner, RunnerSettings
from tools.bench.search import SearchSettings
from tools.bench.shape import Shape
from tools.bench.systems import catalogue
from tools.lab.errors import LabError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_ROOT = 7

_EPILOG = """\
examples:
  stamp-bench check                                  what the bed can do, in ten seconds
  stamp-bench run --quick -o quick.json              the essential cells, in under five minutes
  stamp-bench run -o full.json                       the paper's grid; again to go on with it
  stamp-bench run -o r.json --role reflector --system userspace --share 0,1,100 --runs 5
  stamp-bench run -o r.json --listener 'other=/usr/local/bin/reflector' --share 100
  stamp-bench show quick.json --csv
  stamp-bench run --plan figures -o figures.json     what the figures need, in half an hour
  stamp-bench report full.json -o report/            figures and tables beside the paper's
  stamp-bench compare before.json after.json         has anything become slower?

exit codes:
  0  done; compare: nothing is slower
  1  it failed; compare: something is slower
  2  the command line or a file is wrong; compare: nothing can be compared
  7  not root
"""


_EXTRAS = {"quick": plan.QUICK_KINDS, "figures": (), "full": plan.KINDS}
"""What is measured beyond the grid of each plan, if nothing else is asked for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    # To be ended by whoever started it is to be interrupted: namespaces have to go.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return command(options)
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (BenchError, BpfError, LabError) as error:
        print(f"stamp-bench: {error}", file=sys.stderr)
        return EXIT_FAILED
    except (ResultsError, ValueError) as error:
        print(f"stamp-bench: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\nstamp-bench: interrupted; what was measured is kept", file=sys.stderr)
        return EXIT_FAILED
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stamp-bench",
        description="The paper's evaluation on one machine: throughput of a node that "
        "forwards SRv6 traffic and reflects or collects STAMP packets.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="measure, into a results file")
    run.set_defaults(run=_run)
    run.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    run.add_argument("--plan", choices=sorted(PLANS), default="full")
    run.add_argument("--quick", action="store_const", const="quick", dest="plan")
    run.add_argument("--role", type=_roles, help="reflector, collector (default: both)")
    run.add_argument(
        "--system",
        type=_names,
        help="none, scapy, userspace, xdp, xdp-tx, xdp-drop, xdp-pass",
    )
    run.add_argument("--share", type=_shares, help="STAMP packets in percent, as 0,0.1,100")
    run.add_argument("--metric", type=Metric, choices=list(Metric), default=Metric.PDR)
    run.add_argument("--runs", type=int, help="of each cell")
    run.add_argument(
        "--listener",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another reflector: a command that answers on [fd00:a::2]:862",
    )
    run.add_argument(
        "--extras",
        type=_names,
        metavar="NAMES",
        help=f"beyond the grid: {', '.join(plan.KINDS + plan.LONG_KINDS)}, or none "
        f"(default: all but {', '.join(plan.LONG_KINDS)}; "
        f"with --quick {', '.join(plan.QUICK_KINDS)}; with --plan figures none)",
    )
    run.add_argument("--no-grid", action="store_true", help="what is beyond the grid alone")
    _measuring(run)

    check = commands.add_parser("check", help="what the bed can do")
    check.set_defaults(run=_check)
    _measuring(check)

    show = commands.add_parser("show", help="what is in a results file")
    show.set_defaults(run=_show)
    show.add_argument("files", type=Path, nargs="+", metavar="FILE")
    _form(show)

    rendering = commands.add_parser("report", help="figures and tables, beside the paper's")
    rendering.set_defaults(run=_report)
    rendering.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="each cell is from the first that has it",
    )
    rendering.add_argument("-o", "--output", type=Path, metavar="FOLDER")
    rendering.add_argument(
        "--format",
        type=_names,
        default=list(report.FORMATS),
        help=f"of the figures (default: {','.join(report.FORMATS)})",
    )
    rendering.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="put the table of the ends of the scale between this file's marks",
    )

    comparison = commands.add_parser("compare", help="has anything become slower?")
    comparison.set_defaults(run=_compare)
    comparison.add_argument("before", type=Path)
    comparison.add_argument("after", type=Path)
    comparison.add_argument("--threshold", type=float, default=compare.THRESHOLD)
    _form(comparison)
    return parser


def _measuring(parser: argparse.ArgumentParser) -> None:
    """What both `run` and `check` have to know."""
    shape, search = Shape(), SearchSettings()
    bed = BedSettings()
    parser.add_argument("--duration", type=float, default=0.5, help="of a trial, seconds (0.5)")
    parser.add_argument(
        "--resolution", type=float, default=0.02, help="ratio at which a search ends (0.02)"
    )
    parser.add_argument(
        "--loss", type=float, default=search.loss_ratio, help="ratio for PDR (0.005)"
    )
    parser.add_argument("--sessions", type=int, default=shape.sessions, help="STAMP sessions (8)")
    parser.add_argument("--sids", type=int, default=shape.sids, help="SIDs of STAMP packets (2)")
    parser.add_argument(
        "--payload", type=int, default=shape.data_payload, help="bytes of data packets' UDP payload"
    )
    parser.add_argument("--generator-core", type=int, default=bed.generator_core)
    parser.add_argument("--system-core", type=int, default=bed.system_core)


def _form(parser: argparse.ArgumentParser) -> None:
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_const", const="json", dest="form")
    forms.add_argument("--csv", action="store_const", const="csv", dest="form")
    parser.set_defaults(form="table")


def _roles(text: str) -> list[Role]:
    return [Role(name) for name in text.split(",")]


def _names(text: str) -> list[str]:
    return text.split(",")


def _shares(text: str) -> list[Decimal]:
    return [parse_share(share) for share in text.split(",")]


def _require_root() -> None:
    if os.geteuid() != 0:
        print("stamp-bench: run me as root: the bed is made of network namespaces", file=sys.stderr)
        raise SystemExit(EXIT_NOT_ROOT)


def _run(options: argparse.Namespace) -> int:
    _require_root()
    listeners = dict(_listener(text) for text in options.listener)
    cells = _plan(options, listeners)
    extras = _extras(options)
    if not cells.cells:
        raise BenchError("nothing to measure: no cell has this role, system and share")
    trial, bed_settings = _trial_settings(options), _bed_settings(options)
    search = SearchSettings(loss_ratio=options.loss, resolution=options.resolution)
    settings = _settings(search, trial, bed_settings, listeners)
    command = shlex.join(["stamp-bench", *sys.argv[1:]])
    header = environment.describe(command, settings, datetime.now(UTC))
    file = ResultsFile.resume(options.output, header)
    progress = Progress(sys.stderr)
    if not options.no_grid:
        left = len(file.missing(cells.pairs()))
        least, most = (duration(int(1e9 * s)) for s in first_guess_s(left, options.duration))
        progress.say(f"{left} runs are left, which take some {least} to {most}")
        with on_core(bed_settings.generator_core), Bed(bed_settings) as bed:
            progress.busy("the bed checks itself")
            found = selfcheck.check(bed, trial)
            for line in found.lines():
                file.add_note(line)
                progress.say(line)
            make = catalogue(trial.shape, listeners)
            Runner(bed, file, make, RunnerSettings(search, trial), progress).run(cells.pairs())
    _measure_extras(extras, file, progress)
    print(report.table(file.results))
    return 0


def _measure_extras(extras: list[plan.Measurement], file: ResultsFile, progress: Progress) -> None:
    for number, measurement in enumerate(extras):
        progress.busy(f"{bar(number, len(extras))} {number}/{len(extras)} | {measurement}")
        try:
            for found in plan.results_of(measurement):
                file.add_extra(found)
        except (BenchError, BpfError, LabError, OSError) as error:
            file.add_note(f"{measurement}: {error}")
            progress.say(f"{measurement}: {error}")
        else:
            progress.say(f"{measurement}: measured")


def _check(options: argparse.Namespace) -> int:
    _require_root()
    settings = _bed_settings(options)
    with on_core(settings.generator_core), Bed(settings) as bed:
        for line in selfcheck.check(bed, _trial_settings(options)).lines():
            print(line)
    return 0


def _show(options: argparse.Namespace) -> int:
    results = _load(options.files)
    match options.form:
        case "json":
            document = {**to_json(results), "summary": report.summary(results)}
            print(json.dumps(document, indent=1))
        case "csv":
            print(report.csv(results), end="")
        case _:
            print(report.table(results))
    return 0


def _report(options: argparse.Namespace) -> int:
    if options.output is None and options.readme is None:
        raise ValueError("a report goes into a folder (-o), or its table into a file (--readme)")
    results = _load(options.files)
    if options.output is not None:
        for path in report.write_report(results, options.output, options.format):
            print(path)
    if options.readme is not None:
        text = options.readme.read_text(encoding="utf-8")
        options.readme.write_text(report.with_table(text, results), encoding="utf-8")
        print(options.readme)
    return 0


def _load(files: Sequence[Path]) -> Results:
    return combine([(file.name, load(file)) for file in files])


def _compare(options: argparse.Namespace) -> int:
    found = compare.compare(load(options.before), load(options.after), threshold=options.threshold)
    match options.form:
        case "json":
            print(json.dumps(compare.document(found), indent=1))
        case "csv":
            print(compare.csv(found), end="")
        case _:
            print(compare.table(found))
    return found.exit_status


def _listener(text: str) -> tuple[str, str]:
    name, equals, command = text.partition("=")
    if not equals or not command:
        raise ValueError(f"--listener takes NAME=COMMAND, not {text!r}")
    return name, command


def _extras(options: argparse.Namespace) -> list[plan.Measurement]:
    quick = options.plan == "quick"
    kinds = options.extras or _EXTRAS[options.plan]
    engines = options.system or registry.ENGINES
    bed = _bed_settings(options)
    return plan.measurements([k for k in kinds if k != "none"], engines, bed, quick=quick)


def _plan(options: argparse.Namespace, listeners: dict[str, str]) -> Plan:
    base = PLANS[options.plan]
    shares = options.share
    cells = base.cells
    if options.system:
        # Systems that no plan has: bare programs, at the shares that were asked for.
        known = {key.system for key in cells}
        extra = [name for name in options.system if name not in known]
        cells += grid(options.role or ROLES, extra, shares or [Decimal(100)])
    if listeners:
        cells += grid([Role.REFLECTOR], listeners, shares or [Decimal(100)])
    cells = tuple(
        CellKey(key.role, key.system, key.share, options.metric) for key in dict.fromkeys(cells)
    )
    systems = [*options.system, *listeners] if options.system else None
    chosen = replace(base, cells=cells).only(roles=options.role, systems=systems, shares=shares)
    return chosen.with_runs(options.runs) if options.runs is not None else chosen


def _trial_settings(options: argparse.Namespace) -> TrialSettings:
    return TrialSettings(
        duration_ns=int(options.duration * 1e9),
        shape=Shape(options.payload, options.sids, options.sessions),
    )


def _bed_settings(options: argparse.Namespace) -> BedSettings:
    return BedSettings(
        generator_core=options.generator_core,
        system_core=options.system_core,
        frame_max=max(frame_lengths(_trial_settings(options).shape).values()),
    )


def _settings(
    search: SearchSettings, trial: TrialSettings, bed: BedSettings, listeners: dict[str, str]
) -> BenchSettings:
    lengths = frame_lengths(trial.shape)
    return BenchSettings(
        search=search,
        trial_duration_ns=trial.duration_ns,
        data_packet_bytes=lengths[Kind.DATA],
        stamp_packet_bytes=lengths[Kind.REQUEST],
        pinning={"generator": str(bed.generator_core), "system": str(bed.system_core)},
        other={
            "sessions": str(trial.shape.sessions),
            "sids": str(trial.shape.sids),
            **{f"listener {name}": command for name, command in listeners.items()},
        },
    )
