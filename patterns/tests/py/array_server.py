"""Receives arrays with a header that says dtype and shape, and sends them back with every number doubled."""

import numpy as np
import zmq
from peerlib import arguments, flag, opened, say

args = arguments(flag("--rounds", type=int, default=10))
context = zmq.Context()
socket = opened(context, zmq.REP, args)
say("ready")
for _ in range(args.rounds):
    header, got = socket.recv_json(), socket.recv(copy=False)
    assert not socket.get(zmq.RCVMORE), "a request has more than two frames"
    array = 2 * np.frombuffer(got, dtype=header["dtype"]).reshape(header["shape"])
    assert array.nbytes == 1 << 20
    socket.send_json({"dtype": str(array.dtype), "shape": array.shape}, zmq.SNDMORE)
    socket.send(array, copy=False)
socket.close()
context.term()
say("done", args.rounds)
