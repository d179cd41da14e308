"""What a person sees at a terminal, which tests/it/faults.rs asks for: `terminal.py SECONDS KEYS PROGRAM
ARG...` runs a program on a terminal of its own, types KEYS (an expression of Python, such as
'b"\\x03"') once the program has written something and been quiet for half a second, and prints one JSON
object: the exit code (null for a signal or a program that SECONDS did not see the end of) and all that
was written."""

import ast
import json
import os
import pty
import select
import signal
import sys
import time

limit, keys, argv = float(sys.argv[1]), ast.literal_eval(sys.argv[2]), sys.argv[3:]
pid, fd = pty.fork()
if pid == 0:
    os.execv(argv[0], argv)
out, quiet_since, end = b"", None, time.monotonic() + limit
while time.monotonic() < end:
    ready, _, _ = select.select([fd], [], [], 0.05)
    if ready:
        try:
            chunk = os.read(fd, 65536)
        except OSError:  # Linux: the program has closed the terminal.
            break
        if not chunk:
            break
        out, quiet_since = out + chunk, time.monotonic()
    elif keys and quiet_since and time.monotonic() - quiet_since > 0.5:
        os.write(fd, keys)
        keys = b""
ended = 0
while not ended and time.monotonic() < end:
    ended, status = os.waitpid(pid, os.WNOHANG)
    time.sleep(0.01)
code = None
if not ended:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
elif os.WIFEXITED(status):
    code = os.WEXITSTATUS(status)
print(json.dumps({"code": code, "text": out.decode("utf-8", "replace")}))
