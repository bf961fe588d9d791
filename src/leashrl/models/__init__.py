"""What is learnt of the data before or beside a policy: behaviour. Layer 2, below the algorithms."""
