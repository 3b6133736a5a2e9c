"""What people do with what is held about them: take it along, delete it, erase the account."""
