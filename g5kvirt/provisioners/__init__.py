"""Ways of deploying an environment on virtual machines: a built-in workflow, or a Kadeploy3 server."""
