"""Who is next: calls wait, a batch forms when a slot is free, vectors go into their callers' rows. Knows no HTTP."""
