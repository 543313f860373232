"""The models that come with the service, and the clients of model servers."""
