"""Positions and symbols as strings of bits, written from the definitions: what the suite's bytes are held to."""


def written(code: str, positions: list[list[int]], sizes: list[int]) -> str:
    """positions: of each segment, counted from its begin; the first character is the first bit."""
    parts = [_of_segment(code, *own) for own in zip(positions, sizes, strict=True)]
    if code != "delta":
        return "".join(parts)
    return "".join(part[0] for part in parts) + "".join(part[1] for part in parts)


def _of_segment(code: str, positions: list[int], size: int) -> str | tuple[str, str]:
    match code:
        case "int32":
            return "".join(field(p, 32) for p in positions)
        case "log2":
            width = 0
            while 2**width < size:
                width += 1
            return "".join(field(p, width) for p in positions)
        case "bitmask":
            chosen = set(positions)
            return "".join("1" if place in chosen else "0" for place in range(size))
        case "delta":
            return _gaps(positions, size)
    raise AssertionError(code)


def _gaps(positions: list[int], size: int) -> tuple[str, str]:
    """Remainders, and quotients in unary."""
    r = 0
    while positions and 2 ** (r + 1) <= 0.9625 * size / len(positions):
        r += 1
    before, remainders, quotients = -1, "", ""
    for place in positions:
        gap = place - before - 1
        remainders += field(gap % 2**r, r)
        quotients += "0" * (gap // 2**r) + "1"
        before = place
    return remainders, quotients


def symbols(numbers: list[int], bits: int) -> str:
    """The planes of whole bytes, then what is left of each number."""
    planes = [[number // 256**i % 256 for number in numbers] for i in range(bits // 8)]
    left = [number // 256 ** (bits // 8) for number in numbers]
    return "".join(field(byte, 8) for plane in planes for byte in plane) + "".join(field(n, bits % 8) for n in left)


def field(number: int, width: int) -> str:
    """The lowest bit first."""
    assert 0 <= number < 2**width
    return "".join(str(number >> i & 1) for i in range(width))


def as_bytes(bits: str) -> list[int]:
    """Eight bits a byte, zeros at the end."""
    return [sum(int(bit) << i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8)]
