"""The weather client: averages 100 updates of one zip code."""

import zmq
from peerlib import arguments, opened, say

args = arguments()
context = zmq.Context()
socket = opened(context, zmq.SUB, args)
socket.setsockopt_string(zmq.SUBSCRIBE, "10001")
say("ready")
total = 0
for _ in range(100):
    code, temperature, _humidity = socket.recv_string().split()
    assert code == "10001"
    total += int(temperature)
socket.close(0)
context.term()
say("done", total)
