"""What is learnt of the data beside a policy: behaviour, and what comes next. Below the algorithms."""
