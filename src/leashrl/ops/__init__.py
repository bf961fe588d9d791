"""Losses, bounds and samplers as pure functions of arrays.

`td` temporal-difference targets · `mi` mutual-information bounds · `conservative` critics pushed down by
them · `correction` equation 15 of MISA · `mcmc` Hamiltonian Monte Carlo · `divergence` from the behaviour ·
`advantage` weights of imitation · `soft` SAC's policy · `slope` critic in the action · `dual` Lagrange
multipliers and averaged parameters · `blocks` many actions a state, in pieces that fit a cache.
"""
