"""The playground: one page by which a person asks the server."""
