"""What a person sees at a terminal: `terminal.py SECONDS KEYS PROGRAM ARG...` runs a program on a terminal
of its own, types KEYS, answers when it asks where the cursor is, and prints one JSON object: the exit code
(null for a signal or a program that SECONDS did not see the end of), all that was written, and whether the
terminal was left raw. KEYS is an expression of Python: bytes such as 'b"\\x03"', which are typed once the
program has written something and been quiet for half a second, or a list of such, one after the other, or of
pairs of seconds to wait, whatever the program does, and bytes. A number in the place of bytes is a signal to be
sent."""

import ast
import json
import os
import pty
import select
import signal
import sys
import termios
import time

limit, keys, argv = float(sys.argv[1]), ast.literal_eval(sys.argv[2]), sys.argv[3:]
keys = keys if isinstance(keys, list) else [keys]
pid, fd = pty.fork()
if pid == 0:
    os.execv(argv[0], argv)
out, quiet_since, end = b"", None, time.monotonic() + limit
typed = time.monotonic()
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
        if b"\x1b[6n" in chunk:
            os.write(fd, b"\x1b[1;1R")
    now = time.monotonic()
    if keys and isinstance(keys[0], tuple):
        due = now - typed > keys[0][0]
    else:
        due = keys and quiet_since and now - quiet_since > 0.5
    if due:
        key = keys.pop(0)
        key = key[1] if isinstance(key, tuple) else key
        os.kill(pid, key) if isinstance(key, int) else os.write(fd, key)
        quiet_since, typed = None, now
ended = 0
while not ended and time.monotonic() < end:
    ended, status = os.waitpid(pid, os.WNOHANG)
    time.sleep(0.01)
code = None
try:
    raw = not termios.tcgetattr(fd)[3] & termios.ICANON
except termios.error:  # Nobody has the terminal any more.
    raw = None
if not ended:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
elif os.WIFEXITED(status):
    code = os.WEXITSTATUS(status)
print(json.dumps({"code": code, "text": out.decode("utf-8", "replace"), "raw": raw}))
