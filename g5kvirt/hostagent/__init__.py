"""The agent on each host: the protocol it speaks, and the program that runs there."""
