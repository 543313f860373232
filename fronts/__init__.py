"""The paths by which clients come in: our own, and those of other servers."""
