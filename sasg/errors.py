"""The exceptions that command lines turn into one line."""

import re


class UserError(ValueError):
    """Something that the user can mend. The message is one line: what is wrong, where, what to do.

    The command lines print it without a traceback and exit with code 2.
    """


class NoSmoothness(UserError):
    """A smoothness constant was asked for where none is known."""


class CodeError(UserError):
    """A mistake in a user's own code. The message begins with its place, `file:line`."""


class ContractError(TypeError):
    """A method or a part of one gave what it must not. The message is one line: what, and what it must be.

    The command lines add the file and line that it comes from, and exit with code 2.
    culprit: the method or part, where it is not at work while this is raised.
    """

    def __init__(self, message: str, culprit: object = None):
        super().__init__(message)
        self.culprit = culprit


class ClusterError(RuntimeError):
    """A process of a distributed run ended, fell silent or sent something damaged. One line that names it.

    The command lines print it without a traceback and exit with code 1.
    """


def lack_of_memory(error: BaseException) -> str | None:
    """In one line what memory could not be had, if that is what an exception says (torch's, numpy's or Python's)."""
    text = " ".join(str(error).split())
    if asked := re.search(r"(?:you tried to allocate|Tried to allocate|Unable to allocate) ([\d.]+ \w+)", text):
        amount = re.sub(r"^(\d+) bytes$", lambda found: f"{int(found[1]):,} bytes", asked[1]).replace(". ", " ")
        where = "the GPU (device=cpu uses this machine's)" if "CUDA" in text else "this machine"
        message = f"{amount} of memory in one piece are more than is left to {where}"
    elif "Storage size calculation overflowed" in text:
        message = "more memory than can be addressed was asked for"
    elif isinstance(error, MemoryError):
        message = "there is not enough memory"
    else:
        return None
    return f"{message}; use fewer cluster.workers, a smaller model or smaller batches, or another machine"
