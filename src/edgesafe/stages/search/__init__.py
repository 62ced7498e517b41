"""Looking for the smallest variant that passes a policy.

    split      which test images decide on trials, and which are kept untouched to confirm the winner
    series     the ways of compressing whose ratio is searched for
    ground     what a network of a series costs, without training it
    strategy   which ratio is tried next: bisection within a series, one trial for a series that cannot win

docs/search.md explains each. `commands.search` tells the story.
"""
