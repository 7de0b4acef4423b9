"""A DEALER whose requests carry a deeper envelope than a REQ's: REP must give all of it back."""

import zmq
from peerlib import arguments, opened, say

args = arguments()
context = zmq.Context()
socket = opened(context, zmq.DEALER, args)
say("ready")
for number in range(20):
    hops = [b"hop-%d" % hop for hop in range(number % 4)]
    question = b"question %d" % number
    socket.send_multipart([*hops, b"", question, b"tail"])
    assert socket.recv_multipart() == [*hops, b"", question, b"tail"]
socket.close()
context.term()
say("done", 20)
