"""The relay: one file (an image) down a chain of hosts, and from each host to its VMs, while it arrives.

It runs on every host of a broadcast as a service of the host agent, see `command`.

Every relay *pulls*: it requests the file from the nearest of its predecessors, from the byte on that it
lacks, by plain HTTP (``GET /SHA256`` with ``Range``). What arrives is appended to a file on the RAM disk and
sent on from there by sendfile(2) to every client: successors and VMs. So a host that is lost costs its
successors one more request to the next predecessor alive, any HTTP server that knows ranges can be the head,
and a relay that was killed resumes where its file ends.

A predecessor that pauses for longer than is usual for its bytes (20 ms at the least, `silence` at the most)
gets a HEAD request, the probe, on a separate connection. If it answers, it is alive and has no more data
itself: its successors wait, and only the one behind the lost host moves on. If its kernel does not even take
the connection within 40 ms (or four times what it took before), the file is requested from the next
predecessor, too, and the first to send wins; a kernel that answers for a relay that does not has `answer`
seconds. So a lost host is skipped at once, and a busy one is not taken for lost. It is used again later if it
comes back.

The job is one JSON object; see `limits` for what may be left out::

    {"host", "sha256", "size", "token", "store": DIRECTORY, "source": FILE or null,
     "listen": [[ADDRESS, PORT]], "open": [[ADDRESS, PORT]], "before": [{"host", "url"}], "limits": {}}

``listen`` serves only requests with the broadcast's token (successors), ``open`` everybody who knows the
sum (VMs). ``before``: the predecessors, nearest first. ``source``: the file itself; then nothing is fetched.
Reports are lines of JSON on standard output, the last one also in the state file.
"""
