"""The log-likelihood of all rows with its derivatives, priors, and what follows from them."""
