"""When this call came in, by the host's clock; imported before anything that takes time to import."""

import time

call_start = time.time()
