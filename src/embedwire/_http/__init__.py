"""One job until it succeeded or cannot: encode, send, decode and check, judge, repeat. Knows no queue and no caller."""
