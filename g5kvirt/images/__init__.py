"""What virtual machines boot: the minimal system, and the environments that are deployed on them."""
