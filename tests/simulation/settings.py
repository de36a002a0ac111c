"""What the sessions of the tests have in common, unless one says otherwise."""

SERVER_IP = "10.0.0.1"
PORT = 18383
GROUP = "239.238.0.31"
#: An MTU that leaves 104 bytes of payload: small images then fill buffers.
MTU = 144
CAPACITY = 104
BUFFER_PACKETS = 4
