"""What a description file says of a testbed, as plain data: on any system, without the testbed itself."""
