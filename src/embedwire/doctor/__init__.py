"""`embedwire doctor`: looks at a server from outside, and says what to do about what it finds."""
