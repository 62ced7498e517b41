"""The stages of a study: prune, train, export, observe, measure. Each takes frozen records and gives one."""
