"""What an image lacks: its archive is read, then it is booted once, in an emulated VM without a testbed."""
