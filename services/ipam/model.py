"""What settling a request asks to be written: values between the core and the store."""

import msgspec

from schemas.grant import Connection, Refusal
from schemas.subjects import RefusalKey


class Writes(msgspec.Struct, frozen=True, kw_only=True):
    """Writes of one request, to be made in this order."""

    released: tuple[Connection, ...] = ()
    granted: Connection | None = None
    forgiven: RefusalKey | None = None
    refused: Refusal | None = None
