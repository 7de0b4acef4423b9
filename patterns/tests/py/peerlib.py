"""What every pyzmq peer of the integration tests shares.

A peer talks to its test by lines: it prints `endpoint EP` once it is bound,
`ready` once it runs, `done ...` at its end, and a few more words of its own. It
reads lines from its standard input where a script says so. Anything unexpected
raises, so the exit code is not zero and the test shows the traceback.

Message contents are a pure function of (message number, frame number, size); the
same function is written once more in `common/content.rs`. Either end can therefore
make or check any message without having seen it.
"""

import argparse
import signal
import sys
import time

import zmq

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def body(seed, size):
    """`size` bytes of splitmix64 in counter mode, little endian."""
    words = (size + 7) // 8
    if words <= 8:
        out = b"".join(mixed((seed + i + 1) * GOLDEN & MASK).to_bytes(8, "little") for i in range(words))
        return out[:size]
    import numpy as np

    with np.errstate(over="ignore"):
        z = (np.arange(1, words + 1, dtype=np.uint64) + np.uint64(seed)) * np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return z.astype("<u8").tobytes()[:size]


def mixed(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


SIZES = [0, 1, 33, 255, 256, 65535, 1 << 20]
PLANS = {
    # The sizes at which the frame header, inline bodies and buffers change their kind.
    "sizes": [[size] for size in SIZES] + [[j % 40 for j in range(1000)]],
    "huge": [[64 << 20], [5], [64 << 20, 0, 3]],
    "burst": [[i * 7 % 300] for i in range(3000)],
}


def message(number, sizes):
    return [body(number << 20 | j, size) for j, size in enumerate(sizes)]


def plan(name):
    """The messages of a plan, one after the other."""
    for number, sizes in enumerate(PLANS[name]):
        yield message(number, sizes)


def check(got, want, what):
    """Compares two lists of frames; says where they differ, not what is in them."""
    if got == want:
        return
    sizes = [len(frame) for frame in got][:10], [len(frame) for frame in want][:10]
    differ = next((j for j, (a, b) in enumerate(zip(got, want)) if a != b), None)
    raise AssertionError(f"{what}: {len(got)} frames for {len(want)}, first difference in frame {differ}, sizes {sizes}")


def arguments(*extra):
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind")
    parser.add_argument("--connect", action="append", default=[])
    parser.add_argument("--limit-s", type=int, default=60)
    for names, options in extra:
        parser.add_argument(names, **options)
    args = parser.parse_args()
    # An orphan never outlives its test by much, and a stuck peer says where.
    signal.signal(signal.SIGALRM, stuck)
    signal.alarm(args.limit_s)
    return args


def stuck(_signal, _frame):
    raise TimeoutError("the peer is stuck")


def flag(name, **options):
    return name, options


def opened(context, kind, args, **options):
    """A socket of `kind` with `options` set, bound or connected as the arguments say."""
    socket = context.socket(kind)
    socket.linger = 10_000
    for name, value in options.items():
        setattr(socket, name, value)
    attach(socket, args)
    return socket


def attach(socket, args):
    if args.bind:
        socket.bind(args.bind)
        say("endpoint", socket.last_endpoint.rstrip(b"\0").decode())
    for endpoint in args.connect:
        socket.connect(endpoint)


def say(*words):
    print(*words, flush=True)


def told(word):
    """Waits until the test says `word` on our standard input."""
    line = sys.stdin.readline().strip()
    assert line == word, f"told {line!r}, not {word!r}"


def monotonic_ms():
    return int(time.monotonic() * 1000)
