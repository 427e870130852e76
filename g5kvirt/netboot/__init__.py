"""How virtual machines boot over the network: DHCP, iPXE, HTTP and TFTP, and following their progress."""
