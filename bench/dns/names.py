"""What is asked: names of one length, half known to the first upstream only, most others to the second, some to none.

The letter behind the number says who knows a name, so that an upstream of the bench need not look it up.
"""

import random

NAMES = 40_000
LETTER_AT = 12 + 1 + 6  # of a packet: the header, the first label's length, its digits
_TAIL = b"\x07service\x04corp\x07example\0" + b"\0\1\0\1"
_HEAD = b"\1\0\0\1\0\0\0\0\0\0"
_SHARES = b"aaaaabbbbx"


def queries(count: int = NAMES) -> list[bytes]:
    """The packets, with IDs that repeat after 65,536."""
    chance = random.Random(6)
    numbers = list(range(count))
    chance.shuffle(numbers)
    return [
        (index & 0xFFFF).to_bytes(2, "big")
        + _HEAD
        + b"\x07%06d%c" % (number, _SHARES[number % len(_SHARES)])
        + _TAIL
        for index, number in enumerate(numbers)
    ]
