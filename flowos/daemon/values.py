"""What every command and task answers with (D3.2 section 3.1.1's common return type), and how an error is told."""
import re
from typing import Any, NamedTuple

from flowos.core.errors import FlowOSError

CODE_SUCCESS, CODE_FAILURE, CODE_NOT_READY = 0, 1, 2


class ReturnValue(NamedTuple):
    """Signal how a call went: a code, a message for people, a value for programs.

    CODE_NOT_READY: the task that was asked about waits or runs still.

    >>> ReturnValue(CODE_FAILURE, "there is no flow 'wbe'").wire()
    {'status': 1, 'message': "there is no flow 'wbe'", 'value': None}
    """

    status: int = CODE_SUCCESS
    message: str = ""
    value: Any = None

    def wire(self):
        """Give the struct that travels."""
        return self._asdict()


def told(error):
    """Say what an error is, on one line; what is no error of FlowOS's is named by its type too."""
    text = re.sub(r"\s*\n\s*", " ", str(error)) or type(error).__name__
    return text if isinstance(error, (FlowOSError, OSError)) else f"{type(error).__name__}: {text}"
