"""Several studies on one page: methods by networks, bands over seeds, and published findings, tested on them."""
