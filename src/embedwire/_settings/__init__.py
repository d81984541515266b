"""What a user can set: records that check themselves, and where a server is. Imports nothing of the other rooms."""
