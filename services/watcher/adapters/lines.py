"""Lines of a stream whose chunks end anywhere. No limit on a line: one object may be megabytes."""

from collections.abc import AsyncIterator


async def split(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Complete, non-empty lines, as many as each chunk ends. What a cut connection leaves of the last is dropped."""
    parts: list[bytes] = []  # of the line begun; joined once, or big lines would cost their square
    async for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        parts.append(first)
        if not rest:
            continue
        *whole, begun = [b"".join(parts), *rest]
        parts = [begun]
        if found := [line for line in whole if line]:
            yield found
