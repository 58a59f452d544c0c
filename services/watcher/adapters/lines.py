"""Lines of a stream whose chunks end anywhere. No limit on a line: one object may be megabytes."""

from collections.abc import AsyncIterator


async def split(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Every complete, non-empty line. What a cut connection leaves of the last one is dropped."""
    parts: list[bytes] = []  # of the line begun; joined once, or big lines would cost their square
    async for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        parts.append(first)
        for piece in rest:
            line = b"".join(parts)
            parts = [piece]
            if line:
                yield line
