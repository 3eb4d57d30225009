"""The command `annotated-decoder`, also `python -m annotated_decoder`, from its first moment.

Ctrl-C while the command is loaded ends it without a traceback.
"""

import signal
import sys


def main() -> int:
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler    # a background job may not be
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)                # nothing has begun: the system ends the process
    from annotated_decoder.cli import main as command

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return command()


if __name__ == "__main__":
    sys.exit(main())
