"""Is this the Python that the suite was set up with? Looked at before anything that may be missing is imported."""

import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

_OLDEST = (3, 11)
_ROOT = Path(__file__).resolve().parent.parent


def require(*packages: str) -> None:
    """Exit with code 2 and one line that says what to type, if this Python is too old or lacks one of the packages."""
    lacking = [name for name in packages if find_spec(name) is None]
    if sys.version_info >= _OLDEST and not lacking:
        return
    wrong = f"it lacks {', '.join(lacking)}" if lacking else f"it is older than {'.'.join(map(str, _OLDEST))}"
    own = _ROOT / ".venv" / "bin" / "python"
    if own.exists():
        done = f"its environment is not activated: type `. {own.parent / 'activate'}`, or `{_this_command(own)}`"
    elif not (_ROOT / "Makefile").exists():
        done = "type `pip install 'sasg[suite]'`"
    else:
        done = f"set the environment up with `make -C {_ROOT} setup`, then `. {own.parent / 'activate'}`"
    print(f"error: {sys.executable} cannot run this ({wrong}); {done}", file=sys.stderr)
    sys.exit(2)


def _this_command(python: Path) -> str:
    """The same command line with another Python."""
    words = sys.argv if os.path.basename(sys.argv[0]) != "__main__.py" else ["-m", "sasg", *sys.argv[1:]]
    return shlex.join([str(python), *words])
