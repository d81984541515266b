"""What is over there: kinds of servers, what was learnt of this one, and how hard it may be pushed."""
