"""Telling forward loss from backward loss by the counter of a stateful Session-Reflector.

The Session-Reflector numbers its replies from its own counter (RFC 8762 §4).
A number that is passed over belongs to a reply that was lost on its way back;
all other losses happened on the way forth. Rules that hold here:

- Packets are settled in the order in which they were sent, once each is
  received or timed out. Numbers are compared at received packets alone, so a
  loss after the latest of them is not attributed yet.
- Nothing is attributed before a first number is known: the counter need not
  start at 0.
- More numbers passed over than packets lost is a contradiction (duplicates on
  the forward path, a packet that overtook others, a Session-Reflector that
  restarted). It may dissolve until all that was under way is settled. If it
  does not, losses since the last agreement are given up: they stay
  undetermined, and counting begins anew.
- A counter that goes back while the Session-Reflector's clock goes on means
  that it restarted.

What cannot be seen: a packet that was duplicated on the forward path, where all
replies to the duplicate were lost and another packet was lost on the forward
path as well. The two look like one backward loss.
"""

from __future__ import annotations

_HALF = 1 << 31
_WRAP = 1 << 32


class LossAttribution:
    """The comparison for one session.

    `window` bounds how many packets can be under way, and so how far the
    counter may go back by reordering.

    The totals `forward` and `backward` only cover what is attributed. They may
    be corrected downwards while packets overtake each other, never below 0.
    """

    __slots__ = (
        "_ahead",
        "_backward_before",
        "_base",
        "_conflict_until",
        "_forward_before",
        "_frontier",
        "_latest",
        "_latest_t3_ns",
        "_lost",
        "_missing",
        "_offset",
        "_taken_backward",
        "_taken_forward",
        "_window",
        "agreement",
        "backward",
        "forward",
    )

    def __init__(self, window: int) -> None:
        self.forward = 0
        self.backward = 0
        self.agreement = 0
        """Changes whenever open losses are given up."""
        self._taken_forward = self._taken_backward = 0
        self._window = window
        self._offset = 0
        self._latest: int | None = None
        self._latest_t3_ns = 0
        self._ahead: set[int] = set()
        self._begin(None)

    @property
    def pending(self) -> int:
        """Losses that may still be attributed."""
        attributed = self.forward - self._forward_before + self.backward - self._backward_before
        return self._lost - attributed

    def _begin(self, base: int | None) -> None:
        self.agreement += 1
        self._forward_before, self._backward_before = self.forward, self.backward
        self._base = base
        self._frontier = -1 if base is None else base
        self._lost = 0
        self._missing = 0
        self._conflict_until: int | None = None
        if base is None:
            return
        if self._ahead:
            self._ahead = {number for number in self._ahead if number > base}

    def take(self) -> tuple[int, int]:
        """How much `forward` and `backward` have grown since the last call; may be negative."""
        grown = self.forward - self._taken_forward, self.backward - self._taken_backward
        self._taken_forward, self._taken_backward = self.forward, self.backward
        return grown

    def interrupt(self) -> None:
        """Packets will not be settled in order: give up what is open."""
        self._begin(None)

    def reset(self) -> None:
        """Attributed losses become 0; what is open stays undetermined."""
        self.forward = self.backward = 0
        self._taken_forward = self._taken_backward = 0
        self._begin(None)

    def observe(self, counter: int, t3_ns: int) -> int:
        """A reply with this 32-bit number arrived; its number, unwrapped.

        To be called once for each number: not for a reply that was duplicated
        on the backward path.
        """
        if self._latest is None:
            number = counter
        else:
            distance = (counter - self._latest + _HALF) % _WRAP - _HALF
            number = self._latest + distance
            if distance <= 0 and (t3_ns > self._latest_t3_ns or -distance > self._window):
                self._offset = ((self._latest >> 32) + 2) << 32
                number = self._offset + counter
                self._begin(None)
                self._ahead.clear()
        if self._latest is None or number > self._latest:
            self._latest, self._latest_t3_ns = number, t3_ns
        if self._base is None or number > self._frontier:
            self._ahead.add(number)
            if len(self._ahead) > 2 * self._window:
                self._ahead.clear()
                self._begin(None)
        elif number > self._base:
            self._missing -= 1
        return number

    @property
    def latest(self) -> int:
        """The highest number so far, unwrapped; 0 before the first."""
        return self._latest or 0

    @property
    def room(self) -> int:
        """How many replies `observe_run` and `settle_run` can take in now."""
        return 0 if self._latest is None else max(0, 2 * self._window - len(self._ahead))

    def observe_run(self, numbers: list[int], t3_ns: int) -> None:
        """Replies with these numbers, unwrapped, arrived: `room` of them at most, which
        ascend from above `latest`; `t3_ns` is of the last."""
        self._latest, self._latest_t3_ns = numbers[-1], t3_ns
        self._ahead.update(numbers)

    def settle_run(self, first: int, count: int, t3_ns: int) -> bool | None:
        """As many replies with consecutive numbers, from `first`, arrived, and they are
        the next packets in order of sending.

        None, and nothing is done, where they have to be settled one by one. Else as
        `settle_received`; `t3_ns` is of the last.
        """
        if (
            self._base is None
            or self._ahead
            or first != self._frontier + 1
            or not 0 <= self._missing <= self._lost
        ):
            return None
        self._latest, self._latest_t3_ns = first + count - 1, t3_ns
        self._frontier = self._latest
        return self._agree()

    @property
    def based(self) -> bool:
        """Whether a number is known that others can be compared with."""
        return self._base is not None

    @property
    def clean(self) -> bool:
        """Whether everything that was observed and can be compared is settled, without a
        contradiction."""
        return self._conflict_until is None and not (self.based and self._ahead)

    @property
    def latest_counter(self) -> int | None:
        """The 32-bit number of the latest reply in the Session-Reflector's order."""
        return None if self._latest is None else self._latest % _WRAP

    def settle_in_order(self, counter: int, t3_ns: int, packets: int) -> bool:
        """As `observe` and `settle_received` for each of the next `packets` packets in
        order of sending, the last of which has this 32-bit number.

        For a `clean` comparison that is `based`, where the numbers grow, from the latest
        one on, with each packet that was received, and by no more than the sequence
        numbers do.
        """
        number = self._frontier + (counter - self._frontier) % _WRAP
        self._latest, self._latest_t3_ns = number, t3_ns
        self._missing += number - self._frontier - packets
        self._frontier = number
        return self._agree()

    def settle_lost(self) -> None:
        """The next packet in order of sending timed out."""
        if self._base is not None:
            self._lost += 1

    def settle_received(self, number: int, sequence: int, last_sent: int) -> bool:
        """The next packet in order of sending was received, with this (unwrapped) number.

        `sequence` is its own, `last_sent` the newest one sent so far. True if
        `forward` and `backward` were brought up to date with all losses so far.
        """
        if number < self._offset:
            return False
        if self._base is None:
            self._begin(number)
            self._ahead.discard(number)
            return False
        if number <= self._frontier:
            return False
        self._advance(number)
        if 0 <= self._missing <= self._lost:
            return self._agree()
        if self._conflict_until is None:
            self._conflict_until = last_sent
        elif sequence > self._conflict_until:
            self._begin(number)
        return False

    def _agree(self) -> bool:
        """Numbers passed over and packets lost fit together."""
        self._conflict_until = None
        self.forward = self._forward_before + self._lost - self._missing
        self.backward = self._backward_before + self._missing
        return True

    def _advance(self, number: int) -> None:
        passed = number - self._frontier
        if passed == 1:
            self._ahead.discard(number)
        else:
            ahead = {other for other in self._ahead if other > number}
            self._missing += passed - (len(self._ahead) - len(ahead))
            self._ahead = ahead
        self._frontier = number
