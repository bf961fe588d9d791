"""Losses, bounds and samplers as pure functions of arrays. Layer 1.

`td` temporal-difference targets · `mi` mutual-information bounds · `mcmc` Hamiltonian Monte Carlo ·
`dual` Lagrange multipliers and averaged parameters.
"""
