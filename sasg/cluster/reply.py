"""What the server sends back in an exchange. Each is the declaration of what a server function returns."""

from dataclasses import dataclass

from sasg.cluster.accounting.value_codes import ValueCode
from sasg.cluster.payload import Payload


class Reply:
    """One of those below."""


@dataclass(frozen=True)
class Update(Reply):
    """The update [d]: sent dense, or (after a sparse payload) on its support, whichever is shorter."""


@dataclass(frozen=True)
class Values(Reply):
    """[num] values, of the payload's type, on a support that every process knows."""

    num: int


@dataclass(frozen=True)
class Coded(Reply):
    """[num] values, of the payload's type, that `code` expresses without side scalars."""

    num: int
    code: ValueCode


@dataclass(frozen=True)
class Compressed(Reply):
    """A payload of one row, of the form of `like`, whose numbers do not matter; the exchange returns it as [d]."""

    like: Payload


@dataclass(frozen=True)
class Positions(Reply):
    """A mask: [num] int64 positions in [0, size), ascending."""

    num: int
    size: int


@dataclass(frozen=True)
class Nothing(Reply):
    """No reply: the server returns None."""
