"""What the operating system refuses, in the contract's words."""

import errno

from broker.messages import ErrorCode


def code_of(error: OSError) -> ErrorCode:
    """The contract's code for what the operating system said."""
    match error.errno:
        case errno.EROFS:
            return ErrorCode.READ_ONLY
        case errno.ENOSPC | errno.EDQUOT:
            return ErrorCode.NO_SPACE
        case errno.EACCES | errno.EPERM:
            return ErrorCode.PERMISSION_DENIED
        case errno.EBUSY | errno.ETXTBSY:
            return ErrorCode.BUSY
        case errno.ETIMEDOUT:
            return ErrorCode.TIMED_OUT
        case _:
            return ErrorCode.INTERNAL
