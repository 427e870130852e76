"""Ways of deploying an environment on virtual machines: our own workflow, or a Kadeploy3 server."""
