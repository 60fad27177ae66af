"""The exceptions that command lines turn into one line."""


class UserError(ValueError):
    """Something that the user can mend. The message is one line: what is wrong, where, what to do.

    The command lines print it without a traceback and exit with code 2.
    """


class NothingFinished(UserError):
    """A table or figure of runs of which none is finished yet."""


class ClusterError(RuntimeError):
    """A process of a distributed run ended, fell silent or sent something damaged. One line that names it.

    The command lines print it without a traceback and exit with code 1.
    """
