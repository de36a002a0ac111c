"""A network in one process: hosts, TCP and multicast on one clock, for the tests of both ends.

The code under test is the whole program from its reactor up: Twisted's endpoints, the protocols,
and the multicast sender and receiver, which find a socket of this network where they look for one.
An orderly network does one thing after the other, so that a test can name every step; one with a
seed picks what comes next, and does to the traffic what its weather says.

From the top down, and imports point down:

- ``testcase``: a test case on such a network;
- ``network``: a network, and programs on it;
- ``raw_ends``: a client and a server whose every message a test says;
- ``runs``: runs of the program's own server and client;
- ``settings``: what the tests' sessions have in common;
- ``fabric``: hosts, each with a reactor, and what connects them;
- ``multicast``: the ports and sockets of the multicast sender and receiver;
- ``tcp``: one end of a TCP connection;
- ``thread``: a worker thread;
- ``image``: where an image comes from, and where it goes;
- ``links``: the weather, and a host as its traffic sees it;
- ``scheduler``: what happens next, and when;
- ``system_error``: what a system call fails with.
"""
