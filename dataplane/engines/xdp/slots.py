"""Records of replies, as the program leaves them in the slots of their packets."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.engines.xdp.collector_layouts import SlotFlag
from dataplane.measurement import RECORD_DTYPE, RecordFlag, TimestampMethod

_ONE = np.uint64(1)


def records_of(found: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`RECORD_DTYPE` of each slot."""
    records = np.empty(len(found), RECORD_DTYPE)
    flags = found["flags"]
    records["sequence"] = found["tag"] >> _ONE
    for name in ("t1_ns", "t2_ns", "t3_ns", "t4_ns", "reflector_sequence", "sender_ttl"):
        records[name] = found[name]
    kernel, user = TimestampMethod.KERNEL_SOFTWARE.code, TimestampMethod.USERSPACE.code
    records["t1_method"] = np.where(flags & SlotFlag.T1_KERNEL, kernel, user)
    records["t4_method"] = np.where(flags & SlotFlag.T4_USER, user, kernel)
    records["flags"] = flags & np.uint8(sum(RecordFlag))
    return records
