"""One module per command: each tells its story, from a request to a result. Only the command line imports them."""
