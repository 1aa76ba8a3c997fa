"""The paper's own numbers, to stand beside ours.

Source: the tables of its Appendix A-D, kpps, PDR@0.5 % over 10 evaluations, on one core
of an Intel E5-2630 v3 and Linux 5.13. The figures are drawn from the tables.

What one has to know about them:

* The paper's "CI95 / Avg" is 0.600 CV in every cell. Over 10 runs that would be 0.715 with
  Student's t (2.262 / √10) and 0.620 with the normal distribution (1.960 / √10): its intervals
  are 16 % narrower than ours of the same runs.
* Table V's baseline is a misprint or another measurement: 927.77 is 10 % below all others,
  and with it forwarding would lose nothing, where the text says 10.4 %. The text's number is
  that of Table IV's baseline, so ratios of Table V are taken to that.
* Section VIII-B swaps the roles when it describes Fig. 14: 1.06, 85.8 and 2995 kpps are the
  Session-Sender's (Collector).
* The eBPF Collector was measured twice, as it counted in the map that is too small (Table VI)
  and in the one that is too large (Table VII); Figs. 12, 14 and 15 show the mean (Appendix A-B).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from tools.bench.cell import Role

SHARES = tuple(
    Decimal(share)
    for share in (
        *("0", "0.001", "0.005", "0.01", "0.05", "0.1", "0.5"),
        *("1", "5", "10", "20", "50", "100"),
    )
)
"""Columns of each table after the baseline: STAMP packets in percent."""
RUNS = 10
CI95_PER_CV = 0.600
"""What the paper multiplies the CV by to get its CI95 / Avg; see above."""


@dataclass(frozen=True, slots=True)
class Value:
    """One column of a table."""

    avg_kpps: float
    sd_kpps: float
    cv_percent: float
    ci95_percent: float
    """Half width of the confidence interval, in percent of the average."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the appendix."""

    number: str
    """Roman, as printed."""
    title: str
    role: Role
    system: str
    """Our engine of the same kind: scapy for *basic*, userspace for *optimised*, xdp for *eBPF*."""
    baseline: Value
    values: tuple[Value, ...]
    """In the order of `SHARES`."""
    ratio_baseline_kpps: float
    """The baseline that ratios are taken to: the table's own, except for Table V."""

    def value(self, share: Decimal) -> Value | None:
        """Return a column; None for a share that the paper has not measured."""
        return self.values[SHARES.index(share)] if share in SHARES else None


@dataclass(frozen=True, slots=True)
class Reference:
    """What the paper's figures show for one role, system and share."""

    kpps: float
    ratio: float
    """To the baseline."""
    tables: tuple[str, ...]
    """Numbers of the tables it comes from."""


def _table(
    number: str, title: str, role: Role, system: str, rows: str, ratio_baseline_kpps: float = 0.0
) -> Table:
    """Build a table from its columns, each a row here: share, average, SD, CV, CI95 / average."""
    baseline, *values = (
        Value(*(float(cell) for cell in row.split()[1:])) for row in rows.strip().splitlines()
    )
    return Table(
        number,
        title,
        role,
        system,
        baseline,
        tuple(values),
        ratio_baseline_kpps or baseline.avg_kpps,
    )


TABLES = (
    _table(
        "I",
        "Scapy Basic Reflector",
        Role.REFLECTOR,
        "scapy",
        """
        baseline  1030.04   4.969  0.48  0.29
        0          936.39   5.087  0.54  0.33
        0.001      924.31   1.703  0.18  0.11
        0.005      858.48   0.692  0.08  0.05
        0.01       783.61   1.899  0.24  0.15
        0.05       549.15  13.823  2.52  1.51
        0.1        556.49  12.003  2.16  1.29
        0.5        469.25  16.776  3.57  2.14
        1           65.95   0.089  0.13  0.08
        5            9.95   0.024  0.24  0.15
        10           4.92   0.000  0.00  0.00
        20           2.44   0.000  0.00  0.00
        50           0.94   0.000  0.00  0.00
        100          0.47   0.000  0.00  0.00
        """,
    ),
    _table(
        "II",
        "Scapy Opt Reflector",
        Role.REFLECTOR,
        "userspace",
        """
        baseline  1032.85  2.021  0.20  0.12
        0          937.97  3.081  0.33  0.20
        0.001      940.42  1.930  0.21  0.12
        0.005      933.79  3.540  0.38  0.23
        0.01       932.69  2.134  0.23  0.14
        0.05       913.55  3.064  0.34  0.20
        0.1        887.65  2.518  0.28  0.17
        0.5        764.59  1.834  0.24  0.14
        1          695.74  1.929  0.28  0.17
        5          412.44  1.801  0.44  0.26
        10         261.78  0.839  0.32  0.19
        20         127.81  0.157  0.12  0.07
        50          62.02  0.136  0.22  0.13
        100         35.32  0.091  0.26  0.16
        """,
    ),
    _table(
        "III",
        "eBPF Reflector",
        Role.REFLECTOR,
        "xdp",
        """
        baseline  1028.23  3.137  0.31  0.18
        0         1020.90  2.705  0.26  0.16
        0.001     1020.03  4.696  0.46  0.28
        0.005     1019.01  2.463  0.24  0.15
        0.01      1018.91  3.556  0.35  0.21
        0.05      1015.34  2.585  0.25  0.15
        0.1       1019.98  1.019  0.10  0.06
        0.5       1014.47  1.015  0.10  0.06
        1         1004.06  2.884  0.29  0.17
        5         1001.94  1.114  0.11  0.07
        10        1045.24  8.388  0.80  0.48
        20        1113.36  4.662  0.42  0.25
        50        1358.18  4.659  0.34  0.21
        100       2178.96  2.814  0.13  0.08
        """,
    ),
    _table(
        "IV",
        "Scapy Basic Collector",
        Role.COLLECTOR,
        "scapy",
        """
        baseline  1032.33   3.735  0.36  0.22
        0          927.83   2.424  0.26  0.16
        0.001      921.26   2.526  0.27  0.16
        0.005      890.05   2.220  0.25  0.15
        0.01       854.10   1.588  0.19  0.11
        0.05       641.28   2.023  0.32  0.19
        0.1        489.97   0.761  0.16  0.09
        0.5        485.22  11.880  2.45  1.47
        1          127.43   0.772  0.61  0.36
        5           20.28   0.274  1.35  0.81
        10          10.28   0.179  1.74  1.04
        20           5.17   0.223  4.31  2.59
        50           2.10   0.063  2.98  1.79
        100          1.06   0.039  3.71  2.23
        """,
    ),
    _table(
        "V",
        "Scapy Opt Collector",
        Role.COLLECTOR,
        "userspace",
        """
        baseline  927.77  2.129  0.23  0.14
        0         924.54  2.764  0.30  0.18
        0.001     926.15  2.955  0.32  0.19
        0.005     926.53  2.804  0.30  0.18
        0.01      919.92  4.874  0.53  0.32
        0.05      905.18  1.977  0.22  0.13
        0.1       893.01  1.401  0.16  0.09
        0.5       798.66  4.067  0.51  0.31
        1         750.51  2.857  0.38  0.23
        5         563.83  3.959  0.70  0.42
        10        437.74  1.712  0.39  0.23
        20        289.55  0.640  0.22  0.13
        50        106.68  0.296  0.28  0.17
        100        85.79  0.203  0.24  0.14
        """,
        ratio_baseline_kpps=1032.33,
    ),
    _table(
        "VI",
        "eBPF Collector (1 map)",
        Role.COLLECTOR,
        "xdp",
        """
        baseline  1030.93   3.979  0.39  0.23
        0         1014.06   2.331  0.23  0.14
        0.001     1015.55   2.115  0.21  0.12
        0.005     1009.69   4.348  0.43  0.26
        0.01      1017.13   2.215  0.22  0.13
        0.05      1017.46   1.450  0.14  0.09
        0.1       1017.05   3.711  0.36  0.22
        0.5       1011.04   3.599  0.36  0.21
        1         1012.02   2.551  0.25  0.15
        5         1027.22   1.828  0.18  0.11
        10        1076.97   3.571  0.33  0.20
        20        1163.53   2.140  0.18  0.11
        50        1525.47   2.194  0.14  0.09
        100       3353.94  27.545  0.82  0.49
        """,
    ),
    _table(
        "VII",
        "eBPF Collector (4 maps)",
        Role.COLLECTOR,
        "xdp",
        """
        baseline  1030.93  3.979  0.39  0.23
        0         1017.78  3.446  0.34  0.20
        0.001     1011.81  2.992  0.30  0.18
        0.005     1012.46  1.913  0.19  0.11
        0.01      1017.66  1.424  0.14  0.08
        0.05      1011.95  2.577  0.25  0.15
        0.1       1013.00  1.035  0.10  0.06
        0.5       1013.51  3.242  0.32  0.19
        1         1005.81  3.300  0.33  0.20
        5         1024.31  1.462  0.14  0.09
        10        1066.74  1.438  0.13  0.08
        20        1140.63  3.343  0.29  0.18
        50        1431.96  4.074  0.28  0.17
        100       2636.05  2.318  0.09  0.05
        """,
    ),
)

FIGURES = {
    "12": "Collector throughput, only data traffic",
    "13": "Reflector throughput, only data traffic",
    "14": "Throughput, only STAMP traffic",
    "15": "Collector throughput by share of STAMP traffic",
    "16": "Reflector throughput by share of STAMP traffic",
}
"""What the figures show. The paper's captions of 15 and 16 repeat that of 14 by mistake."""


def tables_of(role: Role, system: str) -> tuple[Table, ...]:
    """Return the tables of one role and system; none for a system that the paper has not."""
    return tuple(table for table in TABLES if (table.role, table.system) == (role, system))


def reference(role: Role, system: str, share: Decimal) -> Reference | None:
    """Return what the paper's figures show; None for what it has not measured."""
    found = [
        (table, value)
        for table in tables_of(role, system)
        if (value := table.value(share)) is not None
    ]
    if not found:
        return None
    return Reference(
        kpps=sum(value.avg_kpps for _, value in found) / len(found),
        ratio=sum(value.avg_kpps / table.ratio_baseline_kpps for table, value in found)
        / len(found),
        tables=tuple(table.number for table, _ in found),
    )
