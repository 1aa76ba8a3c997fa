"""The demonstration's command line."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tools.demo import measure, plot, records, table
from tools.demo.arguments import (
    EXIT_AGREES,
    EXIT_DISAGREES,
    EXIT_INTERRUPTED,
    EXIT_LAB,
    EXIT_MEASUREMENT,
    INTERVAL_US,
    build_parser,
)
from tools.demo.progress import Progress
from tools.demo.truth import MeasuredPath, edge_names, line_counts, measured_paths
from tools.demo.verdict import PathVerdict, judge
from tools.lab.client import connect
from tools.lab.console import console_command
from tools.lab.errors import LabError
from tools.lab.lab import Lab
from tools.lab.plan import plan_lab
from tools.lab.topology import DEFAULT_TOPOLOGY, load_topology
from tools.stamp_client import Record, StampClientError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; return its exit status."""
    options = build_parser().parse_args(arguments)
    try:
        return demonstrate(options)
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_LAB
    except (measure.MeasurementError, StampClientError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_MEASUREMENT
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def demonstrate(options: argparse.Namespace) -> int:
    """Make the lab, measure, compare, write files; return the exit status."""
    topology_file = options.topology or DEFAULT_TOPOLOGY
    topology = load_topology(topology_file)
    plan = plan_lab(topology, options.name)
    paths = measured_paths(topology, plan)
    options.output.mkdir(parents=True, exist_ok=True)
    say(f"lab {options.name!r}: {topology_file.name}")
    with ExitStack() as stack:
        lab = Lab.start(topology_file, name=options.name)
        if options.keep:
            stack.callback(lambda: print(keep_text(lab, paths)))
        else:
            stack.enter_context(lab)
        return _measure_and_report(options, lab, paths)


def _measure_and_report(
    options: argparse.Namespace, lab: Lab, paths: tuple[MeasuredPath, ...]
) -> int:
    sender_name, reflector_name = edge_names(lab.plan)
    run = measure.Run(
        paths=paths,
        sender_address=str(lab.nodes[sender_name].loopback),
        reflector_address=str(lab.nodes[reflector_name].loopback),
        interval_us=INTERVAL_US,
        packets=options.duration * 1_000_000 // INTERVAL_US,
    )
    before = lab.line_status()
    with connect(lab.nodes[sender_name]) as sender, connect(lab.nodes[reflector_name]) as reflector:
        say(
            f"configuring {reflector_name} (Session-Reflector) and {sender_name} "
            f"(Session-Sender) over NETCONF"
        )
        measure.configure(run, sender, reflector)
        say(f"{run.packets} packets on each path; mean delays are forward + backward")
        progress = Progress(paths, sys.stdout)
        try:
            states = measure.watch(run, sender, progress)
        finally:
            progress.done()
        fetched = measure.fetch(run, sender)
        clock = sender.clock_synchronized()
    after = lab.line_status()
    counts = line_counts(paths, before, after)
    verdicts = [
        judge(path, states[path.ssid], fetched[path.ssid], run.packets, counts) for path in paths
    ]
    lateness = {
        name: direction["lateness"]
        for name, direction in (after or {"directions": {}})["directions"].items()
    }
    print(f"\n{table.render_table(verdicts)}\n{table.render_clock(clock)}")
    print(f"{table.render_line_error(lateness)}\n")
    if options.json is not None:
        result = table.document(
            verdicts,
            interval_us=run.interval_us,
            packets=run.packets,
            clock_synchronized=clock,
            lateness=lateness,
        )
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write_results(options.output, verdicts, fetched, run.interval_us)
    return report(verdicts, options.output)


def write_results(
    folder: Path,
    verdicts: Sequence[PathVerdict],
    fetched: Mapping[int, tuple[Record, ...]],
    interval_us: int,
) -> None:
    """Write records.json, records.csv and delay.png."""
    by_name = {verdict.path.name: fetched[verdict.path.ssid] for verdict in verdicts}
    records.write_json(folder / "records.json", by_name)
    records.write_csv(folder / "records.csv", by_name)
    plot.draw(verdicts, fetched, interval_us, folder / "delay.png")


def report(verdicts: Sequence[PathVerdict], folder: Path) -> int:
    """Print the outcome in one line; return the exit status."""
    say(f"records and picture: {folder}/records.json, records.csv, delay.png")
    wrong = [verdict for verdict in verdicts if not verdict.agrees]
    if wrong:
        names = ", ".join(verdict.path.name for verdict in wrong)
        say(f"the measurement does NOT agree with what was injected: {names}")
        return EXIT_DISAGREES
    say("every measurement agrees with what was injected")
    return EXIT_AGREES


def keep_text(lab: Lab, paths: Sequence[MeasuredPath]) -> str:
    """Say how to look into a lab that stays, and how to end it."""
    sender_name = edge_names(lab.plan)[0]
    programs = Path(sys.executable).parent
    session = f'/s:stamp/s:session-sender/s:session[s:ssid="{paths[0].ssid}"]/s:delay'
    lines = ["", f"lab {lab.name!r} stays. Its network elements, over NETCONF:"]
    for name in edge_names(lab.plan):
        words = console_command(lab.nodes[name].netconf, ["--get", "/s:stamp"])
        lines += [f"  # everything on {name}", f"  {shlex.join(words)}"]
    words = console_command(lab.nodes[sender_name].netconf, ["--get", session])
    lines += [
        f"  # the delays of {paths[0].name}",
        f"  {shlex.join(words)}",
        "The lab itself:",
        f"  {programs / 'stamp-lab'} status --name {lab.name}",
        f"  {programs / 'stamp-lab'} down --name {lab.name}",
    ]
    return "\n".join(lines)


def say(text: str) -> None:
    """Print a line of the demonstration's own."""
    print(f"demo: {text}", flush=True)
