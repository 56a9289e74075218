"""What every command and task answers with (D3.2 section 3.1.1's common return type)."""
from typing import Any, NamedTuple

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
