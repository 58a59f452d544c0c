"""What a socket need not hear is dropped by the kernel, before it wakes anybody: its classic packet filter.

A program is a list of instructions: operation, two jumps, a value. Numbers are loaded in network order.
"""

import ctypes
import socket
import struct
from collections.abc import Collection, Sequence

LOAD_BYTE, LOAD_HALF, JUMP_EQUAL, RETURN = 0x30, 0x28, 0x15, 0x06
WHOLE, NOTHING = 0xFFFF, 0  # what a RETURN lets through

Instruction = tuple[int, int, int, int]

_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("=HBBI")


def one_of(values: Collection[int], *, half_at: int) -> list[Instruction]:
    """Passes what has one of these values in the two bytes there."""
    # A hit jumps over the checks that are left and over the first end.
    ends = ((RETURN, 0, 0, NOTHING), (RETURN, 0, 0, WHOLE))
    checks = ((JUMP_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values))
    return [(LOAD_HALF, 0, 0, half_at), *checks, *ends]


def attach(opened: socket.socket, program: Sequence[Instruction]) -> None:
    """From now on. Raises OSError."""
    code = b"".join(_INSTRUCTION.pack(*each) for each in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
