"""Light guests: network namespaces that boot, deploy and answer ssh as VMs do, without a kernel of their own.

One process per host holds all of its guests (`daemon`); the host agent's operations on VMs reach it over a
unix socket (`operations`). A guest has a network namespace with its own MAC address on the host's bridge.
What it does is one coroutine (`guest`, over `loop`): DHCP as iPXE and again as a system does (`dhcp`),
script, kernel and initrd by HTTP or TFTP (`http`, `tftp`), reports, and tasks: the image is fetched from the
host's relay and its SHA-256 verified (`task`, `image`). A guest that was deployed boots into the image: a
root file system of its own, in which each ssh connection starts the image's ssh server (`root`).

What has no meaning without a kernel (partition, file system, boot loader) is skipped.
"""
