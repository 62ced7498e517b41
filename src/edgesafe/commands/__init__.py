"""One module per command, from a request to a result. Only the command line imports them."""
