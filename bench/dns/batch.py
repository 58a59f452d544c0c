"""Many datagrams per system call (sendmmsg, recvmmsg), so that a generator in Python outruns what it measures."""

import ctypes
import socket

_LIBC = ctypes.CDLL(None, use_errno=True)
_DONTWAIT, _WAITFORONE = 0x40, 0x10000
ADDRESS_BYTES = 28


class _IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class _MsgHdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _MMsgHdr(ctypes.Structure):
    _fields_ = [("hdr", _MsgHdr), ("len", ctypes.c_uint32)]


class Batch:
    """`count` slots of `size` bytes in one buffer; with `addresses` each remembers whom it came from."""

    def __init__(self, count: int, size: int, *, addresses: bool = False) -> None:
        self.count, self.size = count, size
        self.bytes = (ctypes.c_ubyte * (count * size))()
        self.view = memoryview(self.bytes).cast("B")
        self._names = (ctypes.c_ubyte * (count * ADDRESS_BYTES))()
        self._iovs = (_IoVec * count)()
        self._headers = (_MMsgHdr * count)()
        start, names = ctypes.addressof(self.bytes), ctypes.addressof(self._names)
        for index in range(count):
            self._iovs[index].base = start + index * size
            self._iovs[index].len = size
            header = self._headers[index].hdr
            header.iov = ctypes.addressof(self._iovs) + index * ctypes.sizeof(_IoVec)
            header.iovlen = 1
            if addresses:
                header.name = names + index * ADDRESS_BYTES
                header.namelen = ADDRESS_BYTES

    def receive(self, sock: socket.socket, *, most: int = 1 << 30) -> int:
        """How many came, at once; 0: none is there."""
        if self._headers[0].hdr.name:
            for index in range(self.count):
                self._headers[index].hdr.namelen = ADDRESS_BYTES
        found = _LIBC.recvmmsg(sock.fileno(), self._headers, min(most, self.count), _DONTWAIT, None)
        return max(int(found), 0)

    def send(self, sock: socket.socket, first: int, count: int) -> int:
        """How many slots from `first` on were sent."""
        start = ctypes.byref(self._headers, first * ctypes.sizeof(_MMsgHdr))
        return max(int(_LIBC.sendmmsg(sock.fileno(), start, count, 0)), 0)

    def length(self, index: int) -> int:
        """Of the datagram received there."""
        return int(self._headers[index].len)

    def set_length(self, index: int, length: int) -> None:
        """What of a slot is sent."""
        self._iovs[index].len = length
