"""The peers of the service: servers that batch too, each in a virtual environment of its own."""
