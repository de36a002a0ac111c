"""What the sessions of the tests have in common, unless one says otherwise."""

SERVER_IP = "10.0.0.1"
PORT = 18383
GROUP = "239.238.0.31"
#: An MTU that leaves 28 bytes of payload: images of a few hundred bytes then fill buffers.
MTU = 68
CAPACITY = 28
BUFFER_PACKETS = 4
