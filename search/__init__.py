"""The search for hyper-parameters. `Plan` says what, `Search` does it, `workers` where; `Journal` keeps the results."""

from search.methods import Search
from search.plan import FIXED, Axis, Plan, show
from search.trial import Journal, SearchError, advance, score

__all__ = ["FIXED", "Axis", "Journal", "Plan", "Search", "SearchError", "advance", "score", "show"]
