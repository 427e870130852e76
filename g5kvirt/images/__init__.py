"""What virtual machines boot, built from Debian packages: the minimal system and the environments."""
